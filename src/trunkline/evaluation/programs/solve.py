"""How many programming problems a branch solves: it writes the functions, their tests are run, and pass@k is counted with intervals."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import psutil

from trunkline.choices import between
from trunkline.errors import OptionError
from trunkline.evaluation.interval import bootstrap
from trunkline.evaluation.kinds.programs import metrics_of
from trunkline.evaluation.measure import SHOWN
from trunkline.evaluation.programs.sandbox import CodeProblem, Limits, Outcome, check, first_function
from trunkline.evaluation.report import Report
from trunkline.progress import Bar

if TYPE_CHECKING:
    from trunkline.branch import Branch

_BLOCK = re.compile(r"```[a-zA-Z0-9]*\n(.*?)(?:```|\Z)", re.DOTALL)
_STOP = r"\nclass |\ndef |\n#|\nif |\nprint|\n@|\n```"
"""Where a body goes on to something else, so that nothing is written that would be cut."""
_DRAWN = {"temperature": 0.8, "top_p": 0.95}
"""Source: Chen et al. 2021, sections 3.3 and appendix A, for many samples a problem."""


def solve(
    branch: Branch, problems: Sequence[CodeProblem], *, samples: int = 1, max_new_tokens: int = 256, temperature: float | None = None,
    seed: int = 0, limits: Limits | None = None,
) -> Report:  # fmt: skip
    """pass@1, and pass@5, 10, 100 where so many samples are drawn, over the problems; with what was written and what became of it.

    samples: programs a problem; temperature: None takes the likeliest tokens for one sample, and draws with 0.8 for several;
    seed: of what is drawn; limits: of each program. A branch that was tuned on chats is asked with the problem as a user's message,
    and the first block of code in its answer is taken.

    Raises: OptionError for a branch that does not write, several samples that would all be alike, or no problems.
    """
    between("samples", samples, 1, 1000)
    if branch.task != "generate":
        raise OptionError(f"task={branch.task!r}: only a branch of the task generate writes programs.")
    if not problems:
        raise OptionError("problems=[]: give one at the least.")
    if temperature == 0 and samples > 1:
        raise OptionError(f"samples={samples}, temperature=0: all of them would be alike. Use a temperature above 0, such as 0.8.")
    drawn = _DRAWN | ({} if temperature is None else {"temperature": temperature}) if temperature or samples > 1 else {"temperature": 0.0}
    asked = replace(branch, spec=replace(branch.spec, max_new_tokens=max_new_tokens, **drawn))
    if branch.spec.form != "chat":
        asked.spec = replace(asked.spec, stop=_STOP)
    started = time.perf_counter()
    written: list[list[str]] = []
    with Bar("writing", unit="programs") as bar:
        for nth in range(samples):
            asked.spec = replace(asked.spec, seed=seed + nth)
            written.append([completion(str(answer.value)) for answer in asked.predict([problem.prompt for problem in problems])])
            bar.to((nth + 1) * len(problems), samples * len(problems))
    outcomes = _run([(problem, text) for texts in written for problem, text in zip(problems, texts)], limits or Limits())
    passed = [sum(one.status == "passed" for one in outcomes[at :: len(problems)]) for at in range(len(problems))]
    scores = [(samples, right) for right in passed]
    found = bootstrap(metrics_of(samples), [None] * len(problems), scores)
    return Report(
        task=branch.task,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        data={"source": f"{len(problems):,} programming problems", "rows": {"test": len(problems)}, "notes": _notes(outcomes)},
        model={"name": branch.backbone.name, "id": branch.backbone.id, "depth": branch.depth, "method": branch.method},
        results=[{"name": "tuned", "metrics": found, "seconds": time.perf_counter() - started}],
        samples=[
            {"text": problem.prompt, "label": problem.solution, "before": "", "predicted": text}
            for problem, text in list(zip(problems, written[0]))[:SHOWN]
        ],
    )


def completion(answer: str) -> str:
    """What of an answer is run behind the prompt: its first block of code where it has one, else what belongs to the function.

    >>> completion("Here it is:\\n```python\\ndef f():\\n    return 1\\n```\\nIt is short.")
    'def f():\\n    return 1\\n'
    """
    block = _BLOCK.search(answer)
    return block[1] if block else first_function(answer)


def _run(programs: Sequence[tuple[CodeProblem, str]], limits: Limits) -> list[Outcome]:
    """What became of each, in their order; as many at a time as there are cores, since each has a process of its own."""
    found = []
    with Bar("running", unit="programs") as bar, ThreadPoolExecutor(psutil.cpu_count(logical=False) or 1) as pool:
        for outcome in pool.map(lambda one: check(one[0], one[1], limits), programs):
            found.append(outcome)
            bar.to(len(found), len(programs))
    return found


def _notes(outcomes: Sequence[Outcome]) -> list[str]:
    counts = Counter(one.status for one in outcomes)
    notes = [f"{len(outcomes):,} programs: {', '.join(f'{count:,} {status}' for status, count in counts.most_common())}"]
    if not all(one.is_contained for one in outcomes):
        notes.append(
            "the system keeps these programs from the network by Python's audit hook alone: run them on a machine that holds nothing"
        )
    return notes
