"""Peer: LoRA (PEFT, rank 16, alpha 32) on all linear layers of all layers, or of the top `layers` of them, with the Trainer.

Classifier and pooler learn too, in full and at the same rate: where the checkpoint has no pooler, a frozen one would be random.
"""

import torch
from job import begin
from peft import LoraConfig, TaskType, get_peft_model
from trainer import OPTIONS, train
from transformers import PreTrainedModel


def with_lora(model: PreTrainedModel, layers: int | None) -> torch.nn.Module:
    count = model.config.num_hidden_layers
    chosen = "|".join(str(n) for n in range(count - (layers or count), count))
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=16,
        lora_alpha=32,
        target_modules=rf".*encoder\.layer\.({chosen})\..*(query|key|value|dense)",
        modules_to_save=["classifier", "pooler"],
    )
    return get_peft_model(model, config)


if __name__ == "__main__":
    job = begin(*OPTIONS, "layers")
    train(job, lambda model: with_lora(model, int(job.options.get("layers", 0)) or None))
