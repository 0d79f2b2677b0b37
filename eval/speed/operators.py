"""What a piece of work asks of torch, counted: free of the noise that seconds have."""

from collections import Counter
from collections.abc import Callable

from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# What makes the host wait for a GPU on which its tensors lie: operators that read one, and functions of Python that
# read or make one without an operator.
WAITING_OPERATORS, WAITING_FUNCTIONS = ("_local_scalar_dense", "nonzero"), ("tolist", "tensor")


class _Operators(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


class _Functions(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.calls[function.__name__] += 1
        return function(*args, **(kwargs or {}))


def operators(work: Callable[[], object]) -> int:
    """How many operators `work` calls, those of backward passes included."""
    with _Operators() as counting:
        work()
    return counting.calls.total()


def waits(work: Callable[[], object]) -> int:
    """How often `work` makes the host wait for the GPU (run on a CPU: would make it, with its tensors on a GPU)."""
    with _Operators() as low, _Functions() as high:
        work()
    return sum(low.calls[name] for name in WAITING_OPERATORS) + sum(high.calls[name] for name in WAITING_FUNCTIONS)
