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
from models.errors import InputError

WHITE = (255, 255, 255)
TOLERANCE = 1e-4  # of a logit, in float32
PAPERS = "one picture at a time"


def probe_row(args: argparse.Namespace, device: torch.device) -> Iterator[Row]:
    """The probe's replies of the checkpoint."""
    ratio = probe_ratio(*loaded(args, device), args)
    yield Row("probe", f"{args.model_path}, {args.items} items", PAPERS, "batches", "items", ratio, Goal(5.0))


def perception_row(args: argparse.Namespace, device: torch.device) -> Iterator[Row]:
    """The checkpoint's occlusion maps."""
    ratio = perception_ratio(*loaded(args, device), args)
    what = f"{args.model_path}, squares of {args.mask_size} px"
    yield Row("perception", what, PAPERS, "batches", "covered pictures", ratio, Goal(10.0))


def loaded(args: argparse.Namespace, device: torch.device) -> tuple:
    """Model and processor, greedy."""
    model, processor = generate.load(args.model_path, device, args.position_balance, "auto", None)
    generate.make_greedy(model)
    return model, processor


def probe_ratio(model, processor, args: argparse.Namespace) -> Ratio:
    """Items of the probe a second; the replies must be the same."""
    items = positives(args, args.items * args.rounds)

    def of(number: int) -> list[list[dict]]:
        return [probe.messages(item, args) for item in items[number * args.items : (number + 1) * args.items]]

    def papers(number: int) -> list[str]:
        return [paper_loops.reply(model, processor, messages) for messages in of(number)]

    def ours(number: int) -> list[str]:
        prompts = of(number)
        answer = partial(generate.reply_to, model, processor, paper_loops.MAX_NEW_TOKENS, False)
        order = list(range(len(prompts)))
        found = generate.outcomes(
            model, processor, prompts.__getitem__, order, None, generate.default_workers(1), answer
        )
        replies = {index: outcome["prediction"] for batch in found for index, outcome in batch.items()}
        return [replies[index] for index in order]

    ratio, results = side_by_side(papers, ours, args.rounds)
    for first, second in results:
        assert first == second, "the two ways answer differently"
    return ratio


def perception_ratio(model, processor, args: argparse.Namespace) -> Ratio:
    """Covered pictures a second; the maps must be the same."""
    items = positives(args, args.rounds)
    for item in items:
        check_mask_size(args.img_path / item["image"], args.mask_size)
    settings = argparse.Namespace(mask_size=args.mask_size, mask_color=WHITE, batch_size=None)

    def papers(number: int) -> list[float | None]:
        messages = probe.messages(items[number], args)
        return _flat(paper_loops.occlusion_map(model, processor, messages, args.mask_size, WHITE))

    def ours(number: int) -> list[float | None]:
        answer = Answer(model, processor, paper_loops.MAX_NEW_TOKENS, "first_token", None)
        workers = generate.default_workers(1)
        ((_, outcome),) = next(
            occlusion_maps(answer, lambda index: probe.messages(items[index], args), [number], settings, workers)
        ).items()
        return _flat(outcome["map"])

    ratio, results = side_by_side(papers, ours, args.rounds, lambda values: sum(value is not None for value in values))
    for first, second in results:
        maps = [np.array(values, float) for values in (first, second)]
        assert np.allclose(*maps, atol=TOLERANCE, equal_nan=True), "the two ways draw different maps"
    return ratio


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
