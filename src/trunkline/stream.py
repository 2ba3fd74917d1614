"""The verb `stream`: a branch's answer to one row in pieces, while it is written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from queue import SimpleQueue
from threading import Thread

import torch

from trunkline.branch import Branch
from trunkline.errors import OptionError
from trunkline.model.writing.generation import Stream
from trunkline.states.collate import collate
from trunkline.types import Row


def stream(branch: Branch, row: Row | str) -> Iterator[str]:
    """The pieces of the text that `branch.predict([row])` gives, each as soon as it is certain. Who stops reading stops the writing.

    Raises: OptionError for a task that does not write, or where several beams compete.
    """
    if branch.spec.kind != "likelihood" or not hasattr(branch.spec, "max_new_tokens"):
        raise OptionError(f"task={branch.task!r}: does not write, so there is nothing to stream. Use predict.")
    if branch.spec.beams > 1:
        raise OptionError(f"beams={branch.spec.beams}: which of them wins is known at the end only. Use 1 to stream.")
    given = {"text": row} if isinstance(row, str) else {name: value for name, value in row.items() if name != "label"}
    (item,) = branch.prepare([given])
    batch = collate([replace(item, target=None)], branch.source(), branch.spec, branch.backbone.tokenizer.pad_id).to(branch.backbone.device)
    return _pieces(branch, batch)


def _pieces(branch: Branch, batch: object) -> Iterator[str]:
    pieces: SimpleQueue[str | BaseException | None] = SimpleQueue()
    reader = Stream(pieces.put)

    def write() -> None:
        try:
            with torch.no_grad():
                branch.network.eval()
                branch.network.write(batch, reader)  # type: ignore[arg-type]
            pieces.put(None)
        except BaseException as error:  # handed to whoever reads; no thread ends in silence
            pieces.put(error)

    thread = Thread(target=write, daemon=True)
    thread.start()
    try:
        while (piece := pieces.get()) is not None:
            if isinstance(piece, BaseException):
                raise piece
            yield piece
    finally:
        reader.cancelled.set()
        thread.join()
