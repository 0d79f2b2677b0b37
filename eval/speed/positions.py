"""The method alone: positions of a batch of prompts, ours beside upstream's, and how often they wait for a GPU."""

import argparse
import time
from collections.abc import Iterator
from functools import partial

import torch

from eval.speed.operators import waits
from eval.speed.overhead import wait
from eval.speed.rows import Goal, Row
from eval.speed.side_by_side import side_by_side
from train import narrow

BATCHES, LENGTHS = (1, 32, 256), (1_000, 8_000, 64_000)
ONE_ROUND = 1_000_000  # tokens of a batch from which on one round must do: Qwen2.5-VL's of upstream take seconds
SECONDS = 0.05  # a round repeats its work for so long
GOAL = Goal(1.0, at_most=True)


def compute(model: torch.nn.Module, flag: bool, inputs: dict) -> torch.Tensor:
    """The positions that `generate` gives a prompt, with the flag on or upstream's."""
    model.config.position_balance = flag
    rest = {name: tensor for name, tensor in inputs.items() if name != "input_ids"}
    return model._prepare_position_ids_for_generation(inputs["input_ids"], rest)


def positions(args: argparse.Namespace, device: torch.device) -> Iterator[Row]:
    """A row for each family, batch and length: time of balanced positions over that of upstream's."""
    for geometry in narrow.FAMILIES:
        model = narrow.skeleton(geometry)
        for rows in BATCHES:
            for tokens in LENGTHS:
                inputs = narrow.many_pictures(model.config, rows, tokens, device)

                def repeated(flag: bool, number: int, model=model, inputs=inputs) -> list[float]:
                    done, start = 0, time.perf_counter()
                    while time.perf_counter() - start < SECONDS:
                        compute(model, flag, inputs)
                        wait(device)
                        done += 1
                    return [(time.perf_counter() - start) / done]

                for flag in (True, False):  # the first time takes longer
                    compute(model, flag, inputs)
                rounds = 1 if rows * tokens > ONE_ROUND else args.rounds
                on, off = partial(repeated, True), partial(repeated, False)
                ratio, _ = side_by_side(on, off, rounds, lambda times: 1, lambda one: one[0])
                ours, theirs = (waits(partial(compute, model, flag, inputs)) for flag in (True, False))
                what = f"{geometry}, {rows} x {inputs['input_ids'].shape[1]} tokens"
                note = f"waits for the device: {ours}, upstream's {theirs}"
                yield Row("positions", what, "balanced", "upstream's", "batches", ratio, GOAL, note)
