"""What a unit of work costs as there is more of it: tokens, pictures of a prompt, items, processes."""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from eval.speed.commands import called, command, first_items, items_per_second
from eval.speed.overhead import prefill
from eval.speed.peak_memory import peak_bytes, reset_peak
from eval.speed.rows import Size
from eval.speed.sharding import answered, go_on
from train import narrow
from train.geometry import image_tokens

LAYERS = 1  # of the language model: 32,000 tokens take long on a CPU
TOKENS = (100, 1_000, 8_000, 32_000)
PICTURES = (1, 4, 16, 32)
ITEMS = (90, 900, 9_000, 90_000)  # the last: the paper's probe
STARTED = (1, 2)  # processes; what more would take is computed
COMPUTED = (4, 8)


def growth(args: argparse.Namespace, device: torch.device) -> Iterator[Size]:
    """Rows for each of the four. Tokens and pictures: prefill of a released geometry made narrow, flag on."""
    model = narrow.narrow_model(narrow.LORA, device, LAYERS)
    model.config.position_balance = True
    of = f"prefill, {narrow.LORA} made narrow, {LAYERS} layer"
    prefill(model, text_alone(TOKENS[0], device))
    for tokens in TOKENS:
        yield prefill_size(f"{of}, text alone", tokens, "token", model, text_alone(tokens, device))
    for pictures in PICTURES:
        yield prefill_size(f"{of}, pictures", pictures, "picture", model, prompt_of_pictures(model, pictures))
    with tempfile.TemporaryDirectory() as root:
        for count in ITEMS:
            bookkeeping = items_size(args, Path(root), count)
            yield bookkeeping
        yield from processes_sizes(args, Path(root), bookkeeping)


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
    spent = {entry.key: getattr(entry, name) for entry in found.key_averages()}
    most = max(spent, key=spent.get)
    return f"{most}, {spent[most] / sum(spent.values()):.0%}"


def items_size(args: argparse.Namespace, folder: Path, count: int) -> Size:
    """A run's bookkeeping: from start to end where every item has been answered, so that no model is loaded."""
    ended = go_on(args, *answered(args, folder, count), count)
    limit = "the start of Python" if count < 9_000 else "pictures hashed, rows read"
    return Size("growth", "eval/probe.py without the model", count, "item", ended.seconds / count, ended.peak, limit)


def processes_sizes(args: argparse.Namespace, folder: Path, bookkeeping: Size) -> Iterator[Size]:
    """Seconds an item of the largest probe: its bookkeeping, which one process does, and the model's part of it.

    The model's is measured on the first items, with STARTED processes. COMPUTED suppose a core or GPU for each.
    """
    few, _ = first_items(args, folder)
    alone = None
    for processes in (*STARTED, *COMPUTED):
        peak = None
        if processes in STARTED:
            ended = called(command(args, few, folder / f"of-{processes}.jsonl", processes))
            model, peak = 1 / items_per_second(ended.printed), ended.peak
            alone = alone or model
        else:
            model = alone / processes
        seconds = bookkeeping.seconds + model
        limit = f"the model, {model / seconds:.0%}; the rest is one process's"
        of = f"eval/probe.py, {bookkeeping.size:,} items, processes"
        yield Size("growth", of, processes, "item", seconds, peak, limit, computed=processes in COMPUTED)
