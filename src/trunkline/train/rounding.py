"""Whether the layers that were tuned answer in int8: where the answers to the validation rows stay. From then on the branch is measured so,
saved so and served so.

Only what answers is rounded: the weights that were learned are kept as they are, and a branch that is gone on with is tuned in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from trunkline import names
from trunkline.branch import Branch
from trunkline.errors import OptionError
from trunkline.evaluation.measure import truth_and_scores
from trunkline.evaluation.metrics import METRICS, compute, suited
from trunkline.model.backbone import ALL
from trunkline.model.writing.language import LanguageHead
from trunkline.states.collate import Source
from trunkline.types import Answer, Item

SAME, DROP = 0.995, 0.01
"""The share of answers that have to stay, and how much of the metric may be lost. Source: bar A11 of exports to int8; Intel Neural Compressor, 1%."""


def require(branch: Branch, wanted: str) -> None:
    """Raises: OptionError where int8 is asked for, and the layers of such a branch cannot compute in it."""
    if wanted == "int8" and branch.depth != 0 and (reason := _hindrance(branch)):
        raise OptionError(f"branch_precision='int8': {reason}. Use auto or float32.")


def settle(branch: Branch, items: Sequence[Item], source: Source | None, wanted: str) -> tuple[Branch, list[str]]:
    """The branch in the precision that it answers in from now on, and what there is to say of that.

    items: the validation rows; wanted: "float32", "int8", or "auto": int8 on a trunk in int8, where the answers stay.
    """
    asked = wanted == "int8" or (wanted == "auto" and branch.backbone.trunk_precision == "int8")
    if not asked or branch.depth == 0 or _hindrance(branch):
        return branch, []
    rounded = replace(branch, precision="int8")
    before, after = branch.answers(items, source), rounded.answers(items, source)
    same, lost, metric = _same(branch, before, after), *_lost(branch, items, before, after)
    found = f"of {len(items):,} validation rows {same:.1%} have the same answer" if same is not None else f"of {len(items):,} validation rows"
    found += f", and {metric} is {-lost:+.3f}"
    if wanted == "auto" and (lost > DROP or (same is not None and same < SAME)):
        return branch, [f"the tuned layers answer in float32: in int8, {found}"]
    return rounded, [f"the tuned layers answer in int8: {found}"]


def _hindrance(branch: Branch) -> str:
    """Why the layers of a branch cannot compute in int8; "" where they can."""
    network = branch.network
    if branch.depth == ALL:
        return 'at depth "all" there is no cut, above which layers could be rounded'
    if network.below is not None or isinstance(network.head, LanguageHead):
        return f"the task {branch.task!r} writes or scores texts with the whole model"
    try:
        branch.merged()
    except OptionError as error:
        return f"what the method {branch.method!r} adds cannot be worked into plain layers ({error})"
    return ""


def _same(branch: Branch, before: Sequence[Answer], after: Sequence[Answer]) -> float | None:
    """The share of answers that are the same; None of numbers, of which hardly one is."""
    if isinstance(before[0].value, float):
        return None
    return sum(one.value == other.value for one, other in zip(before, after, strict=True)) / len(before)


def _lost(branch: Branch, items: Sequence[Item], before: Sequence[Answer], after: Sequence[Answer]) -> tuple[float, str]:
    """By how much the task's first metric is worse, and its name."""
    metric = suited(names.task(branch.task).METRICS, branch.spec.kind)[0]
    was, now = (compute([metric], *truth_and_scores(branch.spec, items, some))[metric] for some in (before, after))
    return (was - now if METRICS[metric].higher_is_better else now - was), metric
