"""What a piece of work asks of torch, counted: free of the noise that seconds have."""

from collections import Counter
from collections.abc import Callable

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# What makes the host wait for a GPU on which its tensors lie: operators whose result has the size, or is the value, of
# what a tensor holds, and functions of Python that read a tensor, or make one on a device, without an operator.
WAITING_OPERATORS = {
    *("_local_scalar_dense", "nonzero", "masked_select", "equal", "repeat_interleave"),
    *("_unique2", "unique_dim", "unique_consecutive"),
}
WAITING_FUNCTIONS = {"tolist", "tensor"}
INDEXING = {"index", "index_put", "index_put_"}  # with a mask


class _Operators(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        by_mask = name in INDEXING and any(one is not None and one.dtype == torch.bool for one in args[1])
        self.calls[f"{name} by mask" if by_mask else name] += 1
        return function(*args, **(kwargs or {}))


class _Functions(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is not torch.tensor or (kwargs or {}).get("device") is not None:
            self.calls[function.__name__] += 1
        return function(*args, **(kwargs or {}))


def operators(work: Callable[[], object]) -> int:
    """How many operators `work` calls, those of backward passes included."""
    with _Operators() as counting:
        work()
    return counting.calls.total()


def waits(work: Callable[[], object]) -> int:
    """How often `work` makes the host wait for the GPU, at least (on a CPU: would, with its tensors on a GPU)."""
    with _Operators() as low, _Functions() as high:
        work()
    waiting = WAITING_OPERATORS | {f"{name} by mask" for name in INDEXING}
    return sum(low.calls[name] for name in waiting) + sum(high.calls[name] for name in WAITING_FUNCTIONS)
