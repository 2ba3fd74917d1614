"""Peer of bench/dpo.py: TRL's DPOTrainer with a PEFT LoRA adapter. Needs trl==1.16.0 beside the libraries of requirements.txt.

Started by bench/dpo.py, with a JSON object: model, rows [{prompt, chosen, rejected}], batch, steps, layers, precompute, max_tokens, rate.
Prints one: seconds of each step, the tokens of the steps, peak memory.
"""

import json
import re
import resource
import sys
import tempfile
import time
from pathlib import Path

import datasets
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer


class Clock(TrainerCallback):
    """The seconds of each optimizer step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *arguments: object, **rest: object) -> None:
        self.started = time.process_time()

    def on_step_end(self, *arguments: object, **rest: object) -> None:
        self.seconds.append(time.process_time() - self.started)


def main(job: dict) -> dict:
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
    count = model.config.num_hidden_layers
    chosen = "|".join(str(n) for n in range(count - (job["layers"] or count), count))
    lora = LoraConfig(r=16, lora_alpha=32, task_type="CAUSAL_LM", target_modules=rf".*layers\.({chosen})\..*_proj")
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        told = DPOConfig(
            folder, per_device_train_batch_size=job["batch"], max_steps=job["steps"], learning_rate=job["rate"], beta=0.1,
            max_length=job["max_tokens"], precompute_ref_log_probs=job["precompute"], gradient_checkpointing=False, bf16=False, use_cpu=True,
            save_strategy="no", logging_strategy="no", report_to=[], disable_tqdm=True, seed=0,
        )  # fmt: skip
        trainer = DPOTrainer(
            model, args=told, train_dataset=datasets.Dataset.from_list(job["rows"]), processing_class=tokenizer, peft_config=lora,
            callbacks=[clock],
        )  # fmt: skip
        started = time.process_time()
        trainer.train()
        whole = time.process_time() - started
        batch = next(iter(trainer.get_train_dataloader()))
    tokens = int(batch["attention_mask"].sum())
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": clock.seconds, "before": whole - sum(clock.seconds), "tokens": tokens, "trained": trained, "peak": peak}


if __name__ == "__main__":
    found = main(json.loads(Path(sys.argv[1]).read_text()))
    print("RESULT " + re.sub(r"\s+", " ", json.dumps(found)))
