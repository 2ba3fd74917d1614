"""Whether the layers that were tuned answer in int8: where the answers to the validation rows stay. From then on the branch is measured so,
saved so and served so.

Only what answers is rounded: the weights that were learned are kept as they are, and a branch that is gone on with is tuned in them.
"""

from __future__ import annotations

import math
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

OTHER, DROP = 0.005, 0.01
"""The share of answers that may change, rounded up to a whole row, and how much of the metric may be lost. Source: bar A11 of exports to int8."""


def require(branch: Branch) -> None:
    """Raises: OptionError where the layers of such a branch cannot compute in int8."""
    if branch.depth != 0 and (reason := _hindrance(replace(branch, precision="int8"))):
        raise OptionError(f"branch_precision='int8': {reason}. Use auto or float32.")


def settle(branch: Branch, items: Sequence[Item], source: Source | None, wanted: str) -> tuple[Branch, list[str]]:
    """The branch in the precision that it answers in from now on, and what there is to say of that.

    items: the validation rows; wanted: "float32", "int8", or "auto": int8 on a trunk in int8, where the answers stay.
    """
    asked = wanted == "int8" or (wanted == "auto" and branch.backbone.trunk_precision == "int8")
    rounded = replace(branch, precision="int8")
    if not asked or branch.depth == 0 or _hindrance(rounded):
        return branch, []
    before, after = branch.answers(items, source), rounded.answers(items, source)
    metric = suited(names.task(branch.task).METRICS, branch.spec.kind)[0]
    was, now = (compute([metric], *truth_and_scores(branch.spec, items, some))[metric] for some in (before, after))
    others, lost = _others(before, after), was - now if METRICS[metric].higher_is_better else now - was
    found = f"{metric} changes by {now - was:+.3f} on the {len(items):,} validation rows"
    found += "" if others is None else f", of which {others} have another answer"
    if wanted == "auto" and (lost > DROP or (others or 0) > math.ceil(OTHER * len(items))):
        return branch, [f"the tuned layers answer in float32: in int8, {found}"]
    return rounded, [f"the tuned layers answer in int8: {found}"]


def _hindrance(rounded: Branch) -> str:
    """Why the layers of a branch cannot compute in int8, as they are to; "" where they can."""
    network = rounded.network
    if rounded.depth == ALL:
        return 'at depth "all" there is no cut, above which layers could be rounded'
    if network.below is not None or isinstance(network.head, LanguageHead):
        return f"the task {rounded.task!r} writes or scores texts with the whole model"
    try:
        rounded.answering  # noqa: B018  made here, and kept
    except OptionError as error:
        return f"what the method {rounded.method!r} adds cannot be worked into plain layers ({error})"
    return ""


def _others(before: Sequence[Answer], after: Sequence[Answer]) -> int | None:
    """How many answers changed; None of numbers, of which nearly all do."""
    if isinstance(before[0].value, float):
        return None
    return sum(one.value != other.value for one, other in zip(before, after, strict=True))
