"""Peer: every weight of the model is tuned with the `transformers` Trainer, under the head of AutoModelForSequenceClassification."""

from job import begin
from trainer import OPTIONS, train

if __name__ == "__main__":
    train(begin(*OPTIONS), lambda model: model)
