"""Real training steps of a recipe's geometry with random weights: speed, peak memory, model-FLOPs utilisation."""

import dataclasses
import resource
import time
from collections.abc import Iterator

import torch

from models.errors import InputError
from train.budget import GB, GPUS, TERA
from train.counting import count_step, forward_loss, traced_model
from train.geometry import batch_of, new_model
from train.settings import Settings
from train.stages import trainable_model

WARM_UP = 2  # steps that are not timed: AdamW's states, cuBLAS, the allocator
LARGEST_ON_CPU = 50_000_000  # weights


def measure(
    config, settings: Settings, tokens: int, image_size: tuple[int, int], steps: int, gpu: str
) -> Iterator[str]:
    """A line for each position of the flag: tokens per second, peak memory and utilisation of `gpu`'s peak.

    One process without DeepSpeed, `per_device_batch_size` rows of `tokens` tokens, forward, backward and AdamW.
    The utilisation takes the model's FLOPs, without those of recomputing, over the peak (train/budget.py); it is left
    out on a CPU. Raises InputError for a model of full size where there is no GPU.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    settings = dataclasses.replace(settings, deepspeed=None)
    plain = dataclasses.replace(settings, gradient_checkpointing=False)
    empty = traced_model(config, plain)
    size = sum(weight.numel() for weight in empty.parameters())
    if device == "cpu" and size > LARGEST_ON_CPU:
        raise InputError(f"--measure: {size / 1e9:.1f} billion weights need a GPU, and torch finds none; leave it out")
    batch = batch_of(config, settings.per_device_batch_size, tokens, image_size)
    flops = count_step(empty, batch, plain).flops
    batch = {name: tensor.contiguous().to(device) for name, tensor in batch.items()}
    with torch.device(device):
        model = trainable_model(new_model(config, settings), settings)
    for balance in (False, True):
        model.config.position_balance = balance
        seconds, peak = run_steps(model, batch, settings, steps, device)
        rate = batch["input_ids"].numel() / seconds
        line = f"position_balance {str(balance).lower()}: {rate:,.0f} tokens/s, {seconds:.3f} s a step, "
        if device == "cpu":
            yield line + f"{peak / GB:.2f} GB peak of the whole process (CPU; no utilisation)"
        else:
            share = flops / seconds / (GPUS[gpu][1] * TERA)
            name = torch.cuda.get_device_name()
            yield line + f"{peak / GB:.2f} GB peak allocated on {name}, {share:.1%} of the peak of {gpu}"


def run_steps(model: torch.nn.Module, batch: dict, settings: Settings, steps: int, device: str) -> tuple[float, int]:
    """Seconds a step, the mean of `steps` behind the warm-up, and the peak memory in bytes."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=device == "cuda")
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for number in range(WARM_UP + steps):
        if number == WARM_UP:
            wait()
            start = time.perf_counter()
        loss = forward_loss(model, batch, settings, device)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    wait()
    seconds = (time.perf_counter() - start) / steps
    if not torch.isfinite(loss):
        raise RuntimeError(f"the loss of a random model is {loss.item()}")
    if device == "cuda":
        return seconds, torch.cuda.max_memory_allocated()
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
