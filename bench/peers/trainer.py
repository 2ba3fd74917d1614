"""A `transformers` Trainer run, for full.py and lora.py, which differ only in what they make of the model.

Dynamic padding, batches of like length, linear schedule with 6% warm-up, texts tokenised once. Evaluated on the validation rows each
epoch; the best weights are kept in memory, where they cost no writing, and put back at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from job import Job
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

OPTIONS = ("rate", "precision", "label_smoothing")


def train(job: Job, change: Callable[[PreTrainedModel], torch.nn.Module]) -> None:
    """From the files to the line of results. change: makes the model that learns out of the one that was loaded."""
    transformers.set_seed(job.seed)
    with job.timed("read"):
        texts = {part: job.rows(part) for part in ("train", "validation")}
        numbers = {label: number for number, label in enumerate(sorted(set(texts["train"][1])))}
    with job.timed("load model"):
        tokenizer = AutoTokenizer.from_pretrained(job.model)
        model = change(AutoModelForSequenceClassification.from_pretrained(job.model, num_labels=len(numbers), dtype=torch.float32))
    with job.timed("read"):
        train_rows, validation_rows = (_tokenised(tokenizer, *texts[part], numbers, job.max_tokens) for part in texts)
    best = Best(job.patience)
    with job.timed("tune"):
        trainer = Trainer(
            model=model,
            args=_arguments(job),
            data_collator=DataCollatorWithPadding(tokenizer),
            train_dataset=train_rows,
            eval_dataset=validation_rows,
            processing_class=tokenizer,
            compute_metrics=lambda given: {"accuracy": float((given.predictions.argmax(1) == given.label_ids).mean())},
            callbacks=[best],
        )
        trainer.train()
        best.put_back(model)
    with job.timed("save"):
        trainer.save_model(job.out)
    job.saved()
    test = None
    if "test" in job.files:
        test_rows = _tokenised(tokenizer, *job.rows("test"), numbers, job.max_tokens)
        test = trainer.predict(test_rows).metrics["test_accuracy"]
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    job.report(test=test, validation=best.accuracy, epochs=best.epochs, steps=trainer.state.global_step, trained=trained)


def _tokenised(tokenizer: Any, texts: list[str], labels: list[str], numbers: dict[str, int], max_tokens: int) -> list[dict[str, Any]]:
    tokens = tokenizer(texts, truncation=True, max_length=max_tokens)
    return [{**{name: tokens[name][i] for name in tokens}, "labels": numbers[label]} for i, label in enumerate(labels)]


def _arguments(job: Job) -> TrainingArguments:
    return TrainingArguments(
        output_dir=job.out,
        num_train_epochs=job.epochs,
        per_device_train_batch_size=job.batch_size,
        per_device_eval_batch_size=64,
        learning_rate=float(job.options["rate"]),
        label_smoothing_factor=float(job.options.get("label_smoothing", 0)),
        lr_scheduler_type="linear",
        warmup_steps=0.06,  # below 1: a share of all steps
        weight_decay=0.01,
        train_sampling_strategy="group_by_length",
        eval_strategy="epoch",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        bf16=job.options.get("precision", "float32") == "bfloat16",
        use_cpu=True,
        seed=job.seed,
    )


class Best(TrainerCallback):
    """Keeps the learned weights of the best evaluation, and stops after `patience` evaluations without gain."""

    def __init__(self, patience: int) -> None:
        self.patience, self.waited, self.epochs, self.accuracy = patience, 0, 0, -1.0
        self.weights: dict[str, torch.Tensor] = {}

    def on_evaluate(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        found = given["metrics"]["eval_accuracy"]
        self.epochs += 1
        if found > self.accuracy:
            self.accuracy, self.waited = found, 0
            for name, parameter in given["model"].named_parameters():
                if parameter.requires_grad:
                    kept = self.weights.setdefault(name, torch.empty_like(parameter.detach()))
                    kept.copy_(parameter.detach())  # in place: a second copy would count as memory of the peer
            return
        self.waited += 1
        control.should_training_stop = self.waited >= self.patience

    def put_back(self, model: torch.nn.Module) -> None:
        model.load_state_dict(self.weights, strict=False)
