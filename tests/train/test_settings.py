"""Settings: every limit, and that each says what is allowed."""

from dataclasses import fields

import pytest

from trunkline.errors import OptionError
from trunkline.model.precision import PRECISIONS
from trunkline.train.settings import OPTIMIZERS, SCHEDULES, TRUNK_PRECISIONS, Settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0), ("epochs", 10001), ("batch_size", 0), ("batch_size", 5000), ("accumulate", 0), ("learning_rate", 0.0),
        ("learning_rate", 11), ("head_learning_rate", -1), ("optimizer", "adamv"), ("weight_decay", -0.1), ("schedule", "cosinus"),
        ("warmup", 1.0), ("warmup", -0.1), ("clip", 0), ("patience", 0), ("evaluate_every", 0), ("dropout", 1.0), ("dropout", float("nan")),
        ("seed", -1), ("seeds", 0), ("validation", 0.0), ("validation", 0.6), ("test", -0.1), ("test", 0.9), ("split", "random"),
        ("states", "float64"), ("trunk_precision", "int4"), ("threads", -1), ("checkpoint_seconds", -1), ("checkpoint_seconds", float("inf")),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(OptionError, match=rf"{name}=") as caught:
        Settings(**{name: value})
    assert "use " in str(caught.value) or "Allowed: " in str(caught.value)


def test_the_precisions_are_those_that_there_are():
    assert set(TRUNK_PRECISIONS) == set(PRECISIONS)


def test_more_parts_than_rows_are_refused():
    Settings(batch_size=4, accumulate=4)
    with pytest.raises(OptionError, match="a step of 4 rows has no more parts than rows"):
        Settings(batch_size=4, accumulate=5)


def test_none_is_allowed_where_it_means_something():
    Settings(
        epochs=None, learning_rate=None, head_learning_rate=None, clip=None, patience=None, evaluate_every=None, dropout=None, metric=None
    )
    for name in OPTIMIZERS:
        Settings(optimizer=name)
    for name in SCHEDULES:
        Settings(schedule=name)


def test_every_setting_has_its_help():
    assert all(field.metadata["help"] for field in fields(Settings))
