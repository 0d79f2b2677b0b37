"""What a token and a picture cost as a prompt has more of them. (Items and processes: eval/speed/sharding.py.)"""

import argparse
from collections.abc import Callable, Iterator

import torch
from torch.profiler import ProfilerActivity, profile

from eval.speed.overhead import prefill
from eval.speed.peak_memory import peak_bytes, reset_peak
from eval.speed.rows import Size
from train import narrow
from train.geometry import image_tokens

LAYERS = 1  # of the language model: 32,000 tokens take long on a CPU
TOKENS = (100, 1_000, 8_000, 32_000)
PICTURES = (1, 8, 32)


def growth(args: argparse.Namespace, device: torch.device) -> Iterator[Size]:
    """Prefill of a released geometry made narrow, flag on."""
    model = narrow.narrow_model(narrow.LORA, device, LAYERS)
    model.config.position_balance = True
    of = f"prefill, {narrow.LORA} made narrow, {LAYERS} layer"
    prefill(model, text_alone(TOKENS[0], device))
    for tokens in TOKENS:
        yield prefill_size(f"{of}, text alone", tokens, "token", model, text_alone(tokens, device))
    for pictures in PICTURES:
        yield prefill_size(f"{of}, pictures", pictures, "picture", model, prompt_of_pictures(model, pictures))


def text_alone(tokens: int, device: torch.device) -> dict[str, torch.Tensor]:
    """A prompt of `tokens` tokens without a picture."""
    ids = torch.ones(1, tokens, dtype=torch.long, device=device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": torch.zeros_like(ids)}


def prompt_of_pictures(model: torch.nn.Module, count: int) -> dict[str, torch.Tensor]:
    """A prompt of `count` of the probe's canvases with a token of text around each."""
    tokens = 1 + count * (image_tokens(model.config, narrow.CANVAS) + 2)
    pixels = narrow.prompt_of(model, text_tokens=2)["pixel_values"]
    return narrow.many_pictures(model.config, 1, tokens, model.device) | {"pixel_values": torch.cat([pixels] * count)}


def prefill_size(of: str, size: int, unit: str, model: torch.nn.Module, batch: dict) -> Size:
    """One pass; what limits it is the operator that takes most of a second."""
    reset_peak()
    (seconds,) = prefill(model, batch)
    peak = peak_bytes()
    return Size("growth", of, size, unit, seconds / size, peak, slowest(lambda: prefill(model, batch)))


def slowest(work: Callable[[], object]) -> str:
    """The operator that takes most of the device's time, with its share."""
    on_gpu = torch.cuda.is_initialized()
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=kinds) as found:
        work()
    name = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    entries = [one for one in found.key_averages() if not on_gpu or one.device_type.name == "CUDA"]  # not both sides
    spent = {entry.key: getattr(entry, name) for entry in entries}
    most = max(spent, key=spent.get)
    return f"{most}, {spent[most] / sum(spent.values()):.0%}"
