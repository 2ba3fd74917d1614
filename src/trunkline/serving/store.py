"""What `/v1/feedback` needs of a feedback store: a protocol, so that serving knows no database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Store(Protocol):
    """Keeps what people say of answers. Called from a thread, never from the event loop; several threads may call at once."""

    def add(self, entry: Mapping[str, Any], *, who: str, idempotency_key: str | None = None) -> str:
        """Keep one entry for good before returning, and give its id: the same id for the same key and entry.

        entry: "branch" and "version" (str), "row" (the texts: "text", perhaps "text_b"), "answer" (what was served, or None), and what
        is said of it: "label" (what would be right, as the task writes it) or None, "rating" (-1, 0, 1) or None, "comment" (str) or None,
        "subject" (whom it is about, for forgetting) or None, "request" (id of the request that was answered) or None
        who: the name of the API key

        Raises: DataError for an entry that is refused (answered with 422); an error with an attribute `status` is answered with that
        HTTP status (409 where the key was used for another entry); OSError where nothing can be written (503).
        """
        ...

    def close(self) -> None:
        """Called once, when the server has drained."""
        ...
