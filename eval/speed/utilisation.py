"""How much of the hardware a way uses: its floating-point operations, counted, against a matrix product's rate."""

import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from eval.speed.overhead import wait
from train.counting import CPU_ATTENTION

SIDES = {"cpu": 2048}  # of the square matrices; elsewhere LARGE
LARGE = 8192
PRODUCTS = 5


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a product of two large square matrices, the best of PRODUCTS."""
    side = SIDES.get(device.type, LARGE)
    one, other = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    times = []
    for _ in range(PRODUCTS + 1):
        start = time.perf_counter()
        one @ other
        wait(device)
        times.append(time.perf_counter() - start)
    return 2 * side**3 / min(times[1:])


def counted(work: Callable[[], object]) -> int:
    """Floating-point operations of `work`: two for a multiply-add, attention as if no mask cut it."""
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        work()
    return counter.get_total_flops()


def share_of_rate(model: torch.nn.Module, work: Callable[[], object], seconds: float, unit: str) -> str:
    """In words: what `work` counts, and the share of a matrix product's rate that it reaches in `seconds`."""
    flops, rate = counted(work), matrix_rate(model.device, model.dtype)
    return (
        f"{flops / 1e9:,.3g} GFLOP {unit} by count, {flops / seconds / rate:.0%} of the "
        f"{rate / 1e12:,.3g} TFLOP/s of a matrix product in {str(model.dtype).removeprefix('torch.')}"
    )
