"""What a process no longer needs, handed back to the system."""

from __future__ import annotations

import ctypes
import sys
import time

_SECONDS = 10.0
_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h
_last = time.monotonic()


def give_back() -> None:
    """Hand what was freed back to the system: glibc keeps it otherwise, in pieces between what is still in use."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def give_back_now_and_then() -> None:
    """The same, at most every ten seconds: a dozen batches of ever other lengths left 200 MB in pieces, and it takes 0.15 s."""
    global _last
    if time.monotonic() - _last >= _SECONDS:
        give_back()
        _last = time.monotonic()


def give_back_at_once() -> None:
    """From now on what is freed goes back to the system where it was 4 MB or more. glibc raises that to 32 MB by itself, and where pieces of many
    sizes come and go, as in learning from rewards, the holes between them add up.
    """
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt"):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 1 << 22)
