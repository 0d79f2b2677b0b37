"""Conversations about drawn pictures, encoded, collated and put through a fork, for the tests of training."""

from functools import lru_cache

import torch
from torch.nn.functional import cross_entropy

from models.packed import packed_inputs
from tests.pictures import picture
from train.collate import Collator
from train.encode import IGNORED, Encoder

TOKEN_ROWS = ("input_ids", "labels", "token_type_ids", "mm_token_type_ids")


def conversation(*contents: str, system: str | None = None) -> list[dict]:
    """Turns of user and assistant in their order, the user first."""
    turns = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(contents)]
    return ([{"role": "system", "content": system}] if system is not None else []) + turns


# Name -> (turns, sizes (width, height) of its pictures). One of LLaVA-NeXT's pictures has more tiles than another.
CONVERSATIONS = {
    "one turn": (conversation("<image>\nWhat is it?", "A red cat."), [(80, 60)]),
    "several turns": (conversation("<image>\nWho?", "Me.", "Why is that so?", "It is."), [(40, 200)]),
    "adjacent": (conversation("<image>\n<image>\nSame?", "No, they differ."), [(120, 110), (60, 60)]),
    "apart": (conversation("First <image> then <image>\nsame?", "No."), [(64, 48), (48, 130)]),
    "later turn": (conversation("Hello", "Hi!", "<image>\nAnd this one?", "A dog."), [(90, 30)]),
    "system": (conversation("<image>\nWhat?", "Cat.", system="Be brief."), [(70, 70)]),
    "text only": (conversation("What is two and two?", "Four, I think: 2 + 2 = 4."), []),
    "not ASCII": (
        conversation("<image>\nWas ist das für ein Tier?", "Eine süße Katze \U0001f408, größer."),
        [(50, 60)],
    ),
}


@lru_cache
def pictures(*sizes: tuple[int, int]) -> list:
    return [picture(*size, seed) for seed, size in enumerate(sizes)]


def encode(encoder: Encoder, name: str) -> dict:
    turns, sizes = CONVERSATIONS[name]
    return encoder.encode(turns, pictures(*sizes), name) | {"name": name}


def supervised_text(kit, sample: dict) -> str:
    return kit.processor.tokenizer.decode(sample["input_ids"][sample["labels"] != IGNORED])


def alone(sample: dict) -> dict[str, torch.Tensor]:
    """An encoded sample as a batch of its own, with the mask of ones that generation gives, too; labels included."""
    row = {name: value[None] if name in TOKEN_ROWS else value for name, value in sample.items() if name != "name"}
    return row | {"attention_mask": torch.ones_like(row["input_ids"])}


def collator(kit, packing: bool = False) -> Collator:
    return Collator(Encoder(kit.processor).blank(), kit.processor.tokenizer.pad_token_id, packing)


def arguments(fork, batch: dict) -> tuple[dict, torch.Tensor]:
    """A batch of the collator -> (the fork's arguments, labels)."""
    batch = {name: value for name, value in batch.items() if name not in ("names", "bad")}
    labels, lengths = batch.pop("labels"), batch.pop("lengths", None)
    return batch if lengths is None else packed_inputs(fork, batch, lengths), labels


def summed_loss(fork, inputs: dict, labels: torch.Tensor) -> torch.Tensor:
    """Sum of the cross-entropies of all supervised tokens: our own arithmetic, not transformers'."""
    logits = fork(**inputs).logits[:, :-1].flatten(0, 1)
    return cross_entropy(logits.float(), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum")
