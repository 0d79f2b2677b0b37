"""One update of LoRA: our padded batch of like lengths beside the paper's setting, one sample after the other.

No checkpointing of activations, in either.
"""

import argparse
from collections.abc import Iterator
from functools import partial

import torch
from torch.nn.functional import pad

from eval.speed.overhead import wait
from eval.speed.rows import Goal, Row
from eval.speed.side_by_side import side_by_side
from eval.speed.utilisation import share_of_rate
from train import narrow
from train.encode import IGNORED
from train.geometry import batch_of, image_tokens
from train.random_weights import random_weights
from train.settings import Settings
from train.stages import trainable_model
from train.trainer import causality_alone, supervised_only

TEXTS = (
    96,
    112,
    128,
    144,
    160,
    176,
    192,
    208,
)  # tokens beside the picture: samples of like length, as they are grouped
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}  # of the loss
GOAL = Goal(2.0)


def samples_of(model: torch.nn.Module) -> list[dict[str, torch.Tensor]]:
    """Batches of one sample each, of unequal length, with pixels drawn from seed 0."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for text in TEXTS:
        batch = batch_of(model.config, 1, image_tokens(model.config, narrow.CANVAS) + text, narrow.CANVAS)
        batch["pixel_values"] = torch.randn(batch["pixel_values"].shape, generator=generator).to(model.dtype)
        found.append({name: tensor.contiguous().to(model.device) for name, tensor in batch.items()})
    return found


def together(samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The samples as rows of one batch, padded on the right."""
    longest = max(sample["input_ids"].shape[1] for sample in samples)
    fill = {"labels": IGNORED, "input_ids": 0, "attention_mask": 0, "mm_token_type_ids": 0, "token_type_ids": 0}
    return {
        name: torch.cat(
            [
                pad(one[name], (0, longest - one[name].shape[1]), value=fill[name]) if name in fill else one[name]
                for one in samples
            ]
        )
        for name in samples[0]
    }


def training(args: argparse.Namespace, device: torch.device) -> Iterator[Row]:
    """One row: tokens a second of an update by eight samples; the losses must be the same."""
    if args.geometry:
        model, of = random_weights(args.geometry, device, args.position_balance)[0], args.geometry
    else:
        model, of = narrow.narrow_model(narrow.LORA, device), f"{narrow.LORA} made narrow"
    dtype = model.dtype
    settings = Settings(stage="lora", bf16=dtype == torch.bfloat16, gradient_checkpointing=False)
    model = trainable_model(model, settings).train()
    autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=settings.bf16)  # as accelerate trains
    samples = samples_of(model)
    batch = together(samples)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0, fused=device.type == "cuda")  # its work; the losses stay comparable
    supervised = [int((sample["labels"] != IGNORED)[:, 1:].sum()) for sample in samples]

    def papers(number: int) -> list[float]:
        total = 0.0
        for sample, count in zip(samples, supervised, strict=True):
            with autocast():
                loss = model(**sample, use_cache=False).loss * count / sum(supervised)
            loss.backward()
            total += loss.item()
        return ended(total)

    def ours(number: int) -> list[float]:
        with autocast():
            loss = model(**batch | supervised_only(batch["labels"]) | causality_alone(batch)).loss
        loss.backward()
        return ended(loss.item())

    def ended(loss: float) -> list[float]:
        optimizer.step()
        optimizer.zero_grad()
        wait(device)
        return [loss]

    tokens = sum(sample["input_ids"].numel() for sample in samples)
    papers(-1), ours(-1)
    ratio, results = side_by_side(papers, ours, args.rounds, lambda losses: tokens)
    for (first,), (second,) in results:
        assert abs(first - second) < TOLERANCE[dtype], f"the losses differ: {first}, {second}"
    what = f"LoRA of rank 8, {of}, {len(samples)} samples, {tokens} tokens"
    note = share_of_rate(model, lambda: ours(-1), ratio.seconds[1], "an update")
    yield Row("train", what, "batch 1, accumulation 8", "batch 8", "tokens", ratio, GOAL, note)
