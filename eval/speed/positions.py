"""The method alone: positions of a batch of prompts, ours beside upstream's, and how often they wait for a GPU."""

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch.profiler import ProfilerActivity, profile
from transformers.generation.utils import GenerationMixin

from eval.speed import narrow
from eval.speed.overhead import wait
from eval.speed.rows import Goal, Row
from eval.speed.side_by_side import side_by_side
from models.load import FORKS
from train.geometry import image_tokens, patch_grid

GEOMETRIES = ("llava_1_5_7b", "llama3_llava_next_8b", "qwen2_5_vl_7b", "gemma3_12b")
BATCHES, LENGTHS = (1, 32, 256), (1_000, 8_000, 64_000)
LARGEST = 4_096_000  # tokens of a batch: 256 rows of 16,000; more is no batch that anybody runs
SECONDS = 0.2  # a round repeats its work for so long
# Operators that make the host wait for the device, if their input lies there.
WAITS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero")
GOAL = Goal(1.0, at_most=True)


def skeleton(geometry: str) -> torch.nn.Module:
    """The fork without weights: its methods need only the config."""
    config = narrow.narrow_config(geometry)
    with torch.device("meta"):
        return FORKS[config.model_type](config)


def prompts(model: torch.nn.Module, rows: int, tokens: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Prompts of nothing but pictures of 840 x 840 px with a token of text around each, cut at `tokens`, no padding."""
    picture = image_tokens(model.config, narrow.CANVAS)
    count = max(1, (tokens - 1) // (picture + 2))
    ids = torch.ones(rows, max(tokens, picture + 3), dtype=torch.long)
    for number in range(count):
        start = 2 + number * (picture + 2)
        ids[:, start : start + picture] = model.config.image_token_id
    ids = ids.to(device)
    found = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.model_type == "llava_next":
        found["image_sizes"] = torch.tensor([narrow.CANVAS] * rows * count, device=device)
    if model.config.model_type == "qwen2_5_vl":
        grid = [1, *patch_grid(model.config, narrow.CANVAS)]
        found["image_grid_thw"] = torch.tensor([grid] * rows * count, device=device)
        found["mm_token_type_ids"] = (ids == model.config.image_token_id).long()
    return found


def compute(model: torch.nn.Module, flag: bool, inputs: dict) -> torch.Tensor:
    """The positions that `generate` gives a prompt, by the fork's own methods, with the flag on or upstream's."""
    model.config.position_balance = flag
    rest = {name: tensor for name, tensor in inputs.items() if name != "input_ids"}
    if model.config.model_type == "qwen2_5_vl":
        return model.model.get_rope_index(inputs["input_ids"], **rest)[0]
    if not flag:
        return GenerationMixin._prepare_position_ids_for_generation(model, inputs["input_ids"], rest)
    return model._prepare_position_ids_for_generation(inputs["input_ids"], rest)


def waits(work: Callable[[], object]) -> int:
    """How often `work` calls an operator that makes the host wait for the GPU (on a CPU: would make it wait)."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        work()
    return sum(entry.count for entry in found.key_averages() if entry.key in WAITS)


def positions(args: argparse.Namespace, device: torch.device) -> Iterator[Row]:
    """A row for each family, batch and length: time of balanced positions over that of upstream's."""
    for geometry in GEOMETRIES:
        model = skeleton(geometry)
        for rows in BATCHES:
            for tokens in LENGTHS:
                if rows * tokens > LARGEST:
                    continue
                inputs = prompts(model, rows, tokens, device)

                def repeated(flag: bool, number: int, model=model, inputs=inputs) -> list[float]:
                    done, start = 0, time.perf_counter()
                    while time.perf_counter() - start < SECONDS:
                        compute(model, flag, inputs)
                        wait(device)
                        done += 1
                    return [(time.perf_counter() - start) / done]

                ratio, _ = side_by_side(
                    partial(repeated, True), partial(repeated, False), args.rounds, lambda times: 1, lambda one: one[0]
                )
                ours, theirs = (waits(partial(compute, model, flag, inputs)) for flag in (True, False))
                what = f"{geometry}, {rows} x {inputs['input_ids'].shape[1]} tokens"
                note = f"waits for the device: {ours}, upstream's {theirs}"
                yield Row("positions", what, "balanced", "upstream's", "batches", ratio, GOAL, note)
