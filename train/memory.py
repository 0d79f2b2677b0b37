"""Out of memory, said with the knob to turn."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from models.errors import InputError
from train.settings import Settings


@contextmanager
def told_out_of_memory(settings: Settings) -> Iterator[None]:
    """Turn running out of memory, a GPU's or the machine's, into an InputError that says what to change first."""
    try:
        yield
    except RuntimeError as error:
        # torch's allocator of ordinary memory has no error class of its own.
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise InputError(
            f"out of memory: {knob(settings)} (--resume auto goes on from the last whole checkpoint)"
        ) from error


def knob(settings: Settings) -> str:
    """The cheapest setting that saves memory and is not used yet."""
    if settings.per_device_batch_size > 1:
        return (
            f"set per_device_batch_size below {settings.per_device_batch_size}; global_batch_size stays, so the "
            "result does, too"
        )
    if not settings.gradient_checkpointing:
        return "set gradient_checkpointing: true; the result stays the same"
    if not settings.bf16:
        return "set bf16: true"
    if not settings.deepspeed:
        return "set deepspeed: configs/deepspeed/zero3.json and start on several GPUs"
    if "offload" not in settings.deepspeed:
        return "set deepspeed: configs/deepspeed/zero3_offload.json, or use more GPUs"
    return f"set cutoff_len below {settings.cutoff_len} (longer samples are left out), or use more GPUs"
