"""The verb `label`: a page on this machine where people label rows, in the order in which labels are worth most."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from trunkline.branch import Branch
from trunkline.errors import OptionError
from trunkline.labelling import exchange
from trunkline.labelling.annotations import Annotations
from trunkline.labelling.server import Server
from trunkline.labelling.session import Session
from trunkline.quality import changes
from trunkline.quality.vectors import vectors
from trunkline.types import Rows

ANNOTATIONS, LABELLED = "annotations.jsonl", "labelled.csv"


def label(
    rows: Rows, out: str | Path, *, model: str | None = None, names: tuple[str, ...] = (), branch: Branch | None = None, strategy: str = "safe",
    people: int = 1, port: int = 0, imported: str | Path | None = None, ready: Callable[[Server], None] | None = None,
) -> Rows:  # fmt: skip
    """Serve the page until Ctrl-C or `Server.stop`; gives the rows that have a label then, which are also in OUT/labelled.csv.

    out: a folder; what people say is in its annotations.jsonl, and a later call goes on from there
    branch: whose answers are suggested until there are labels enough for a probe; its labels are added to `names`
    imported: an export of Label Studio or doccano, whose labels are taken over first, where that person has said nothing of the row here
    ready: called with the server once it answers
    Raises: OptionError for a branch that does not classify; DataError for an export of neither tool, or where another process labels into `out`.
    """
    suggested = None
    if branch is not None:
        if branch.task != "classify" or branch.spec.multi_label:
            raise OptionError(f"branch for {branch.task!r}: suggestions come from a branch that gives each text one label.")
        suggested = np.stack([np.asarray(answer.scores, dtype=np.float64) for answer in branch.predict(rows)])
        names = tuple(dict.fromkeys([*branch.spec.labels, *names]))
    found = vectors(rows, model=model).rows
    with Annotations(Path(out) / ANNOTATIONS) as annotations:
        said = {(act.row, act.by) for act in annotations.acts}  # by an earlier run of the same command; what was put right here counts
        for act in exchange.load(imported) if imported else ():
            if (act.row, act.by) not in said:
                annotations.add(act)
        session = Session(rows, found, annotations, names=names, strategy=strategy, people=people, suggested=suggested)
        server = Server(session, port=port)
        try:
            print(f"Label at {server.url} (Ctrl-C ends). Every label is in {Path(out) / ANNOTATIONS} at once.", file=sys.stderr)
            if ready is not None:
                ready(server)
            server.serve()
        except KeyboardInterrupt:
            pass
        finally:
            server.close()
            session.close()
        done = session.labelled(rows)
    if len(done):
        changes.save(done, Path(out) / LABELLED)
    return done


def export(rows: Rows, folder: str | Path, path: str | Path) -> int:
    """Everybody's labels in the folder of a session, for Label Studio (.json) or doccano (.jsonl)."""
    with Annotations(Path(folder) / ANNOTATIONS) as annotations:
        form = "label-studio" if Path(path).suffix == ".json" else "doccano"
        return exchange.export(rows, annotations.labels(), form, path)
