"""The machine a run is on: which device and how many threads to use, and what to write beside a result."""

from __future__ import annotations

import os
import platform
import resource
import sys

import psutil
import torch

from trunkline.choices import one_of
from trunkline.model.precision import processor_has


def device(wanted: str) -> torch.device:
    """The device of a name; "auto" is cuda, else mps, else cpu. Raises: OptionError for one that is not there."""
    there = ["cpu", *(["cuda"] if torch.cuda.is_available() else []), *(["mps"] if torch.backends.mps.is_available() else [])]
    if wanted == "auto":
        return torch.device(there[1] if len(there) > 1 else "cpu")
    one_of("device", wanted.split(":")[0], there)
    return torch.device(wanted)


def precision(wanted: str, where: torch.device) -> torch.dtype:
    """The number format of the matrix products in training; "auto" is bfloat16 where the device multiplies it faster than float32.

    Weights, states, sums and the optimizer stay float32 (mixed precision, Micikevicius et al. 2018).
    """
    if wanted != "auto":
        return torch.bfloat16 if wanted == "bfloat16" else torch.float32
    if where.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if where.type == "cpu" and processor_has("avx512_bf16", "amx_bf16") else torch.float32


def use_threads(wanted: int) -> int:
    """Set torch's threads: as many as wanted, or (0) one for each physical core that this process may use. Says how many."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # oneDNN keeps a kernel for each shape of a batch, 1,024 of them: some 150 MB after 100 steps
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")
    torch.set_num_threads(wanted or min(usable, psutil.cpu_count(logical=False) or usable))
    return torch.get_num_threads()


def peak_memory() -> int:
    """The most resident memory that this process has had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def describe(where: torch.device) -> dict[str, str]:
    """Processor, cores, memory, device: what a time or a bit of a result may depend on."""
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else where.type
    return {
        "device": name,
        "processor": _processor(),
        "cores": str(psutil.cpu_count(logical=False) or "?"),
        "threads": str(torch.get_num_threads()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    if sys.platform.startswith("linux"):
        with open("/proc/cpuinfo", encoding="utf-8", errors="ignore") as file:  # noqa: PTH123
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
