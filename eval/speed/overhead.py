"""What balanced positions cost: prefill, decoding and a training step with the flag on beside the flag off."""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from transformers import StoppingCriteria

from eval.speed.operators import operators
from eval.speed.rows import Goal, Row
from eval.speed.side_by_side import side_by_side
from train.narrow import FAMILIES, narrow_model, prompt_of
from train.trainer import supervised_only

TEXT_TOKENS = 64
DECODED = 16  # tokens
LAYERS = 2  # of the language model: more take longer and hide what the flag costs
MORE_ROUNDS = 2  # times --rounds: a ratio near 1 needs them, and a step is short
GOAL = Goal(1.01, at_most=True)


class Clock(StoppingCriteria):
    """Stops nothing; notes when each token of a generation is there."""

    def __init__(self, device: torch.device):
        self.device, self.times = device, []

    def __call__(self, input_ids, scores, **kwargs):
        wait(self.device)
        self.times.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def wait(device: torch.device) -> None:
    """Until a GPU has done what it was asked for."""
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()


def prefill(model: torch.nn.Module, batch: dict) -> list[float]:
    """Seconds of one pass over the prompt, which fills a cache."""
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    start = time.perf_counter()
    with torch.inference_mode():
        model(**inputs, use_cache=True, logits_to_keep=1)
    wait(model.device)
    return [time.perf_counter() - start]


def decode(model: torch.nn.Module, batch: dict) -> list[float]:
    """Seconds of each token after the first, in `generate`."""
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    clock = Clock(model.device)
    with torch.inference_mode():
        model.generate(
            **inputs,
            max_new_tokens=DECODED,
            min_new_tokens=DECODED,
            do_sample=False,
            suppress_tokens=[model.config.image_token_id],
            stopping_criteria=[clock],
        )
    return [after - before for before, after in zip(clock.times, clock.times[1:], strict=False)]


def training_step(model: torch.nn.Module, batch: dict) -> list[float]:
    """Seconds of the loss of the text and its gradients, of all weights of the language model."""
    start = time.perf_counter()
    model(**batch | supervised_only(batch["labels"])).loss.backward()
    model.zero_grad(set_to_none=True)
    wait(model.device)
    return [time.perf_counter() - start]


STEPS: dict[str, Callable[[torch.nn.Module, dict], list[float]]] = {
    "prefill": prefill,
    "decode step": decode,
    "training step": training_step,
}


def overhead(args: argparse.Namespace, device: torch.device) -> Iterator[Row]:
    """A row for each family and kind of step; the time with the flag on over that with the flag off."""
    for geometry in FAMILIES:
        model = narrow_model(geometry, device, LAYERS)
        getattr(model.model, model.tower_name).requires_grad_(False)
        batch = prompt_of(model, TEXT_TOKENS)
        tokens = batch["input_ids"].shape[1]

        def flagged(step, flag: bool, number: int, model=model, batch=batch) -> list[float]:
            model.config.position_balance = flag
            return step(model, batch)

        for name, step in STEPS.items():
            off, on = partial(flagged, step, False), partial(flagged, step, True)
            without, with_flag = (operators(partial(way, 0)) for way in (off, on))  # also warms up
            ratio, _ = side_by_side(on, off, MORE_ROUNDS * args.rounds, lambda times: 1, statistics.median)
            what = f"{name}, {geometry} made narrow, {tokens} tokens"
            note = f"{with_flag:,} operators with the flag on, {without:,} off"
            note += f" (the prompt's pass and {DECODED - 1} steps)" if step is decode else ""
            yield Row("overhead", what, "flag on", "flag off", "steps", ratio, GOAL, note)
