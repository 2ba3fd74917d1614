"""Peer of bench/ppo.py: one step of TRL's PPOTrainer, four whole models. Needs trl==1.12.0, the last that has it, beside the libraries of requirements.txt.

Started by bench/ppo.py, with a JSON object: model, answers, prompt, new, epochs, minibatch, layers, prompts [[token id]]. The policy learns by PEFT
LoRA on its top layers, and the value model by the same (TRL alone would train all of it), so that as many weights learn as there.
Prints one: seconds of the processor while it writes, scores and updates, and peak memory in MB.
"""

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import datasets
import torch
from peft import LoraConfig, inject_adapter_in_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer


def main(job: dict) -> dict:
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    policy, reference = (AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32) for _ in range(2))
    value, reward = (AutoModelForSequenceClassification.from_pretrained(job["model"], num_labels=1, dtype=torch.float32) for _ in range(2))
    for model in (value, reward):
        model.config.pad_token_id = tokenizer.pad_token_id
    reward.requires_grad_(False)
    count = policy.config.num_hidden_layers
    names = [f"{kind}_proj" for kind in ("q", "k", "v", "o", "gate", "up", "down")]
    lora = LoraConfig(r=16, lora_alpha=32, target_modules=names, layers_to_transform=list(range(count - job["layers"], count)))
    value = inject_adapter_in_model(lora, value.requires_grad_(False))
    value.score.requires_grad_(True)
    marks: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        told = PPOConfig(
            folder, per_device_train_batch_size=job["minibatch"], gradient_accumulation_steps=1,
            num_mini_batches=1, total_episodes=job["answers"], num_ppo_epochs=job["epochs"], response_length=job["new"], temperature=1.0,
            local_rollout_forward_batch_size=32, num_sample_generations=0, learning_rate=1e-5, gradient_checkpointing=False, bf16=False,
            use_cpu=True, save_strategy="no", logging_strategy="no", report_to=[], disable_tqdm=True, seed=0,
        )  # fmt: skip
        trainer = PPOTrainer(
            args=told, processing_class=tokenizer, model=policy, ref_model=reference, reward_model=reward, value_model=value,
            train_dataset=datasets.Dataset.from_dict({"input_ids": job["prompts"]}), peft_config=lora,
        )  # fmt: skip
        generation, accumulate = ppo_trainer.batch_generation, trainer.accelerator.accumulate

        def written(*given: object) -> object:
            found = generation(*given)
            marks["written"] = time.process_time()
            return found

        def updating(*given: object) -> object:
            marks.setdefault("scored", time.process_time())
            return accumulate(*given)

        ppo_trainer.batch_generation, trainer.accelerator.accumulate = written, updating
        began = time.process_time()
        trainer.train()
        ended = time.process_time()
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    return {
        "generate": marks["written"] - began, "score": marks["scored"] - marks["written"], "update": ended - marks["scored"],
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "trained": trained,
    }  # fmt: skip


if __name__ == "__main__":
    print("RESULT " + json.dumps(main(json.loads(Path(sys.argv[1]).read_text()))))
