"""Peer: logistic regression (scikit-learn) on frozen, mean-pooled sentence embeddings (sentence-transformers); C from the validation rows."""

from pathlib import Path

import joblib
import torch
from job import accuracy, begin
from sentence_transformers import SentenceTransformer
from sklearn.linear_model import LogisticRegression

GRID = (0.1, 1.0, 10.0, 100.0)


def main() -> None:
    job = begin()
    with job.timed("read"):
        (texts, labels), (later_texts, later_labels) = job.rows("train"), job.rows("validation")
    with job.timed("load model"):  # a plain model folder gets mean pooling
        model = SentenceTransformer(job.model, device="cpu", model_kwargs={"dtype": torch.float32}, local_files_only=True)
        model.max_seq_length = job.max_tokens
    with job.timed("encode"):
        train, validation = (model.encode(part, batch_size=job.batch_size, show_progress_bar=False) for part in (texts, later_texts))
    with job.timed("tune"):
        heads = [LogisticRegression(C=c, max_iter=1000).fit(train, labels) for c in GRID]
        scores = [accuracy(later_labels, head.predict(validation)) for head in heads]
        best = max(range(len(GRID)), key=lambda i: scores[i])
    with job.timed("save"):
        model.save(job.out)
        joblib.dump(heads[best], Path(job.out) / "head.joblib")
    job.saved()
    test_texts, test_labels = job.rows("test")
    answers = heads[best].predict(model.encode(test_texts, batch_size=job.batch_size, show_progress_bar=False))
    job.report(test=accuracy(test_labels, answers), validation=scores[best], epochs=1, steps=0, c=GRID[best])


if __name__ == "__main__":
    main()
