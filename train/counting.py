"""FLOPs and memory of a training step, counted by running the real step on tensors without values.

Model code, PEFT, autocast, gradient checkpointing and autograd run as in training; integer tensors have values, so that
nothing that depends on them has to be replaced; floating-point tensors have only a shape (torch's FakeTensor).
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate.utils.operations import convert_to_fp32
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from train.geometry import empty_model, without_values
from train.settings import Settings
from train.stages import trainable_model
from train.trainer import supervised_only


class Meter(TorchDispatchMode):
    """Counts what runs within it: `flops`, and bytes of tensors that operators made and that live, `now` and `peak`.

    `outside` are tensors whose bytes are not counted: weights. Not seen: what a kernel allocates for its own use.
    torch's FlopCounterMode gives the same FLOPs, but its hooks keep checkpointed activations alive and so change the
    peak; its MemTracker takes several times as long.
    """

    def __init__(self, outside: list[torch.Tensor]):
        super().__init__()
        self.now = self.peak = self.flops = 0
        self.known = {tensor.untyped_storage()._cdata for tensor in outside}

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        formula = FLOPS.get(operator.overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.add(tensor)
        return result

    def add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known:
            self.known.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key, size).atexit = False

    def _drop(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


@dataclass(frozen=True)
class Step:
    """One forward and backward pass. `activations`: the most bytes alive at once beside weights and kept gradients
    (the batch, saved activations, temporaries, and the gradients of the one weight at hand); `flops` by torch's count:
    two for a multiply-add, attention as if no mask cut it, what is recomputed counted again."""

    activations: int
    flops: int


def traced_model(config, settings: Settings) -> torch.nn.Module:
    """The recipe's model as train/sft.py trains it, in full size, without values."""
    model = trainable_model(empty_model(config, settings), settings)
    return without_values(model, FakeTensorMode(allow_non_fake_inputs=True))


def forward_loss(model: torch.nn.Module, batch: dict, settings: Settings, device: str = "cpu") -> torch.Tensor:
    """The loss as accelerate has the model compute it: under autocast and with its outputs turned into float32.

    DeepSpeed's engine does neither: it holds the whole model in bfloat16.
    """
    batch = batch | supervised_only(batch["labels"])
    if settings.deepspeed or not settings.bf16:
        return model(**batch).loss
    with torch.autocast(device, dtype=torch.bfloat16):
        outputs = model(**batch)
    return convert_to_fp32(outputs).loss


def count_step(model: torch.nn.Module, batch: dict, settings: Settings) -> Step:
    """Count one step of `model` (of real or valueless tensors, on the CPU) on `batch`; no gradient is kept."""
    weights = [*model.parameters(), *model.buffers()]
    trained = [weight for weight in weights if weight.requires_grad]
    fake = getattr(weights[0], "fake_mode", None)
    if fake is not None:
        with fake:
            pixels = torch.empty(batch["pixel_values"].shape, dtype=batch["pixel_values"].dtype, device="cpu")
        batch = batch | {"pixel_values": pixels}
    hooks = [weight.register_post_accumulate_grad_hook(_forget) for weight in trained]
    meter = Meter(weights)
    for tensor in batch.values():
        meter.add(tensor)
    try:
        with meter:
            forward_loss(model, batch, settings).backward()
    finally:
        for hook in hooks:
            hook.remove()
    return Step(meter.peak, meter.flops)


def _forget(weight: torch.Tensor) -> None:
    """Kept gradients are counted by their number (train/costs.py): how many there are depends on ZeRO."""
    weight.grad = None


def _of_tensors(formula: Callable[..., int]) -> Callable[..., int]:
    """Marks a formula for torch's own counter, which otherwise hands over shapes."""
    formula._get_raw = True
    return formula


@_of_tensors
def _attention(query, key, value, *args, **kwargs) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


@_of_tensors
def _attention_backward(gradient, query, key, value, *args, **kwargs) -> int:
    return sdpa_backward_flop_count(gradient.shape, query.shape, key.shape, value.shape)


# torch knows its CUDA kernels of attention, not the CPU's, which is the one that runs here.
CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
FLOPS = flop_registry | CPU_ATTENTION
