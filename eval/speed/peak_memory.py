"""The most memory that a piece of work held at once: of the GPU where there is one in use, else of this process."""

import contextlib
import ctypes
import gc
from pathlib import Path

import torch

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak() -> None:
    """Begin anew. Memory that is held already counts again: weights, and on the CPU the interpreter."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    elif RESET.exists():
        gc.collect()
        with contextlib.suppress(AttributeError):  # of a C library other than glibc
            ctypes.CDLL(None).malloc_trim(0)  # else what was freed before counts, and hides what is held next
        RESET.write_text("5")  # proc(5): the peak of the resident set becomes what is resident now


def peak_bytes() -> int | None:
    """The peak since `reset_peak`; None where the system does not say. Other processes, such as workers, are not in."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    if not STATUS.exists():
        return None
    (line,) = [line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024
