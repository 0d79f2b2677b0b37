"""A prompt of one image and text behind it, without either: where its patches stand and what positions it has."""

import io
from dataclasses import dataclass

import torch
from PIL import Image

from eval import generate
from models.errors import InputError
from models.positions import balanced_position_ids
from models.reading import told_as

CANVAS = 840  # px a side, the paper's probe


@dataclass(frozen=True)
class Picture:
    """An image in a prompt: how many tokens it has, and of each view where the patches are among them.

    `inputs` is what the positions of its family depend on beside the tokens.
    """

    tokens: int
    views: dict[str, torch.LongTensor]  # name -> (rows, columns)
    inputs: dict[str, torch.Tensor]


def canvas_picture(model, processor, path: str) -> Picture:
    """The probe's canvas as the checkpoint's processor cuts it. Raises InputError if patches have no grid."""
    content = io.BytesIO()
    Image.new("RGB", (CANVAS, CANVAS), "white").save(content, "PNG")
    parts = [{"type": "image", "image": content.getvalue}, {"type": "text", "text": "?"}]
    batch = generate.prepare(processor, [(0, [{"role": "user", "content": parts}])])
    if batch.inputs is None:
        raise InputError(f"{path}: its processor refuses a canvas of {CANVAS} px ({batch.errors[0]}); give --grid")
    views = {}
    with told_as(f"{path}/config.json: no grid of patches is known; give --grid", ValueError):
        for view in getattr(model.model, "views", ("base",)):
            (views[view],) = model.model.patch_tokens(view=view, **batch.inputs)
    tokens = int((batch.inputs["input_ids"] == model.config.image_token_id).sum())
    return Picture(tokens, views, batch.inputs)


def grid_picture(model, rows: int, columns: int) -> Picture:
    """A picture of `rows` x `columns` patches in reading order and no other tokens."""
    places = torch.arange(rows * columns).view(rows, columns)
    return Picture(rows * columns, {"base": places}, model.model.grid_inputs(rows, columns))


def prompt_positions(model, picture: Picture, text_tokens: int) -> dict[str, torch.LongTensor]:
    """By flag, the positions of the picture and the text behind it, (1, seq) or (axes, 1, seq).

    (Text before the picture would shift all positions alike, and only differences count.)
    """
    is_image = torch.arange(picture.tokens + text_tokens)[None] < picture.tokens
    prompt = {
        "input_ids": torch.where(is_image, model.config.image_token_id, -1),  # -1: any word
        "attention_mask": torch.ones_like(is_image, dtype=torch.long),
        "mm_token_type_ids": is_image.long(),
    }
    model.config.position_balance = False
    off = model.model.prompt_position_ids(**picture.inputs | prompt)
    return {"off": off, "on": balanced_position_ids(is_image).expand_as(off)}
