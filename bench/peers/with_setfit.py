"""Peer: SetFit as it comes: contrastive tuning on pairs (one epoch, batches of 16 pairs), then a scikit-learn head.

Its default makes 2 x max(positive, negative) pairs: 374,000 from 8 rows for each of 77 classes, 24 million from 64. So the steps are
bounded to `pairs` pairs a row, by default 40: the 20 positive and 20 negative ones of the SetFit paper (Tunstall et al. 2022). "all"
takes the bound away. Learning rate 2e-5, SetFit's own; the validation rows are not used for anything but their accuracy.
"""

import math
import tempfile
from collections import Counter

import torch
from datasets import Dataset
from job import accuracy, begin
from sentence_transformers import SentenceTransformer
from setfit import SetFitModel, Trainer, TrainingArguments
from sklearn.linear_model import LogisticRegression

BATCH = 16


def main() -> None:
    job = begin("pairs")
    with job.timed("read"):
        texts, labels = job.rows("train")
        rows = Dataset.from_dict({"text": texts, "label": labels})
    with job.timed("load model"):
        body = SentenceTransformer(job.model, device="cpu", model_kwargs={"dtype": torch.float32}, local_files_only=True)
        body.max_seq_length = job.max_tokens
        model = SetFitModel(model_body=body, model_head=LogisticRegression(), labels=sorted(set(labels)))
    wanted = job.options.get("pairs", "40")
    default = default_pairs(labels)
    pairs = default if wanted == "all" else min(default, int(wanted) * len(labels))
    with job.timed("tune"), tempfile.TemporaryDirectory() as folder:
        told = TrainingArguments(
            output_dir=folder,
            batch_size=BATCH,
            num_epochs=1,
            max_steps=-1 if pairs == default else math.ceil(pairs / BATCH),
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            show_progress_bar=False,
            seed=job.seed,
        )
        trainer = Trainer(model=model, args=told, train_dataset=rows)
        trainer.train()
    with job.timed("save"):
        model.save_pretrained(job.out)
    job.saved()
    found = {
        part: accuracy(truth, model.predict(given, show_progress_bar=False))
        for part in ("validation", "test")
        for given, truth in [job.rows(part)]
    }
    steps = trainer.st_trainer.state.global_step
    job.report(test=found["test"], validation=found["validation"], epochs=1, steps=steps, pairs=pairs, default_pairs=default)


def default_pairs(labels: list[str]) -> int:
    """How many pairs SetFit's oversampling makes: each unordered pair, a row with itself too, the rarer kind as often as the other."""
    counts = Counter(labels).values()
    positive = sum(n * (n + 1) // 2 for n in counts)
    return 2 * max(positive, len(labels) * (len(labels) + 1) // 2 - positive)


if __name__ == "__main__":
    main()
