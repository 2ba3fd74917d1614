"""Every exception a user can meet, in one tree.

    TrunklineError            the root: catch this to catch all of ours
    ├── OptionError           an argument has a value that is not allowed          (exit 2)
    ├── DataError             a file, a row or a label is not usable               (exit 1)
    ├── ModelError            a backbone cannot be found, loaded or cut            (exit 1)
    ├── StatesError           a states store is damaged or made for another trunk  (exit 1)
    ├── ArtefactError         a saved branch or checkpoint is damaged or foreign   (exit 1)
    ├── TrainingError         training cannot go on                                (exit 1)
    ├── FeedbackError         feedback cannot be kept or read                      (exit 1)
    │   ├── FeedbackConflictError   its key was used for something else
    │   ├── FeedbackFullError       the disk is full
    │   └── FeedbackDamagedError    the store is damaged
    └── MissingExtra          an optional package is not installed                 (exit 1)

A message says what is wrong, the value got, what is allowed, and what to do.
"""

import difflib
from collections.abc import Iterable


class TrunklineError(Exception):
    """The root of all errors that Trunkline raises on purpose."""

    exit_code = 1


class OptionError(TrunklineError):
    """An argument has a value that is not allowed."""

    exit_code = 2


class DataError(TrunklineError):
    """A file, a row or a label is not usable."""


class ModelError(TrunklineError):
    """A backbone cannot be found, loaded or cut."""


class StatesError(TrunklineError):
    """A states store is damaged or was made for another trunk."""


class ArtefactError(TrunklineError):
    """A saved branch or checkpoint is damaged, too new, or made for another trunk."""


class TrainingError(TrunklineError):
    """Training cannot go on."""


class FeedbackError(TrunklineError):
    """Feedback cannot be kept or read. `status` is what a server answers with."""

    status = 503


class FeedbackConflictError(FeedbackError):
    """The key of an entry was used for another one."""

    status = 409


class FeedbackFullError(FeedbackError):
    """There is no room on the disk. It heals by itself when there is."""

    status = 507


class FeedbackDamagedError(FeedbackError):
    """The store is damaged: what is read is what was written, or this error; nothing is written."""


class MissingExtra(TrunklineError):
    """An optional package is needed and not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package {package!r}, which is not installed. Run: pip install 'trunkline[{extra}]'")


def unknown(kind: str, name: object, allowed: Iterable[str], error: type[TrunklineError] = OptionError) -> TrunklineError:
    """The error for a name that is not in a list: says the nearest known name and the list.

    >>> str(unknown("task", "clasify", ["classify", "regress"]))
    "task='clasify': unknown. Did you mean 'classify'? Allowed: classify, regress."
    """
    names = sorted(map(str, allowed))
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    shown = ", ".join(names[:40]) + (f" and {len(names) - 40} more" if len(names) > 40 else "")
    return error(f"{kind}={name!r}: unknown.{hint} Allowed: {shown}.")
