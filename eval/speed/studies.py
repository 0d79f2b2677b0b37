"""The probe and occlusion maps, as eval/ does them against the paper's loops over the same items."""

import argparse
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch

from eval import generate, probe
from eval.occlusion import Answer, occlusion_maps
from eval.perception import check_mask_size
from eval.speed import paper_loops
from eval.speed.rows import Goal, Row
from eval.speed.side_by_side import Ratio, side_by_side
from eval.speed.utilisation import share_of_rate
from models.errors import InputError
from train.random_weights import random_weights

WHITE = (255, 255, 255)
TOLERANCE = 1e-4  # of a logit, in float32
PAPERS = "one picture at a time"


def probe_row(args: argparse.Namespace, device: torch.device) -> Iterator[Row]:
    """The checkpoint's replies to the probe. Beside the ratio, what of the hardware is used (goal on a GPU: 60%)."""
    model, processor = loaded(args, device)
    ratio, others = probe_ratio(model, processor, args)
    one = probe.messages(positives(args, 1)[0], args)
    seconds = ratio.seconds[1] / ratio.units
    note = share_of_rate(model, lambda: paper_loops.reply(model, processor, one), seconds, "an item")
    note += f"; {others} of {args.rounds * args.items} replies differ, by rounding" if others else ""
    goal = Goal(8.0 if device.type == "cuda" else 5.0)
    yield Row("probe", f"{named(args)}, {args.items} items", PAPERS, "batches", "items", ratio, goal, note)


def perception_row(args: argparse.Namespace, device: torch.device) -> Iterator[Row]:
    """The checkpoint's occlusion maps."""
    ratio, note = perception_ratio(*loaded(args, device), args)
    what, goal = f"{named(args)}, squares of {args.mask_size} px", Goal(25.0 if device.type == "cuda" else 10.0)
    yield Row("perception", what, PAPERS, "batches", "covered pictures", ratio, goal, note)


def check_items(args: argparse.Namespace, parts: list[str]) -> None:
    """InputError, before anything is measured, unless the probe's items do for `parts`."""
    probe.load_items(args)
    if "probe" in parts or "engine" in parts:
        positives(args, args.items * args.rounds)
    if "perception" in parts:
        for item in positives(args, args.rounds):
            check_mask_size(args.img_path / item["image"], args.mask_size)


def named(args: argparse.Namespace) -> str:
    """What is measured, in words."""
    return f"{args.geometry} with random weights" if args.geometry else args.model_path


def loaded(args: argparse.Namespace, device: torch.device) -> tuple:
    """Model and processor, greedy."""
    if args.geometry:
        return random_weights(args.geometry, device, args.position_balance)
    model, processor = generate.load(args.model_path, device, args.position_balance, "auto", None)
    generate.make_greedy(model)
    return model, processor


def probe_ratio(model, processor, args: argparse.Namespace) -> tuple[Ratio, int]:
    """Items of the probe a second, and how many replies differ. In float32 they must be the same."""
    items = positives(args, args.items * args.rounds)

    def of(number: int) -> list[list[dict]]:
        return [probe.messages(item, args) for item in items[number * args.items : (number + 1) * args.items]]

    def papers(number: int) -> list[str]:
        return [paper_loops.reply(model, processor, messages) for messages in of(number)]

    def ours(number: int) -> list[str]:
        prompts = of(number)
        answer = partial(generate.reply_to, model, processor, paper_loops.MAX_NEW_TOKENS, False)
        order, workers = list(range(len(prompts))), generate.default_workers(1)
        with generate.threads_beside(workers, model.device):
            found = generate.outcomes(model, processor, prompts.__getitem__, order, None, workers, answer)
            replies = {index: outcome["prediction"] for batch in found for index, outcome in batch.items()}
        return [replies[index] for index in order]

    paper_loops.reply(model, processor, probe.messages(items[0], args))  # the first time takes longer
    ratio, results = side_by_side(papers, ours, args.rounds)
    others = sum(one != other for pair in results for one, other in zip(*pair, strict=True))
    assert others == 0 or model.dtype != torch.float32, "the two ways answer differently"
    return ratio, others


def perception_ratio(model, processor, args: argparse.Namespace) -> tuple[Ratio, str]:
    """Covered pictures a second, and in words how far the maps differ. In float32 they must be the same."""
    items = positives(args, args.rounds)
    settings = argparse.Namespace(mask_size=args.mask_size, mask_color=WHITE, batch_size=None)

    def papers(number: int) -> list[float | None]:
        messages = probe.messages(items[number], args)
        return _flat(paper_loops.occlusion_map(model, processor, messages, args.mask_size, WHITE))

    def ours(number: int) -> list[float | None]:
        answer = Answer(model, processor, paper_loops.MAX_NEW_TOKENS, "first_token", None)
        workers = generate.default_workers(1)
        with generate.threads_beside(workers, model.device):
            ((_, outcome),) = next(
                occlusion_maps(answer, lambda index: probe.messages(items[index], args), [number], settings, workers)
            ).items()
        return _flat(outcome["map"])

    paper_loops.reply(model, processor, probe.messages(items[0], args))  # the first time takes longer
    ratio, results = side_by_side(papers, ours, args.rounds, lambda values: sum(value is not None for value in values))
    maps = [[np.array(values, float) for values in pair] for pair in results]
    if model.dtype == torch.float32:
        assert all(np.allclose(*pair, atol=TOLERANCE, equal_nan=True) for pair in maps), (
            "the two ways draw different maps"
        )
        return ratio, ""
    return ratio, f"changes of logits differ by up to {max(np.nanmax(abs(one - other)) for one, other in maps):.2g}"


def positives(args: argparse.Namespace, count: int) -> list[dict]:
    """The first `count` items of the probe whose caption is on the canvas."""
    items = [item for item in probe.load_items(args) if item["answer"].lower() == "yes"]
    if len(items) < count:
        raise InputError(
            f"{args.eval_file}: {len(items)} positives, {count} are needed; give fewer --items or --rounds"
        )
    return items[:count]


def _flat(rows: list[list]) -> list:
    return [value for row in rows for value in row]
