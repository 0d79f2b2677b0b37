"""Boxes of a training sample (`objects`, data/sample_fields.py) as words, in what the model's boxes are in."""

import re

from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from data.pictures import ON_ITS_SIDE, upright_box
from data.sample_fields import BOX_MARK, REF_MARK
from models.errors import InputError
from models.processors import pixel_bounds

COORDINATES = ("resized_pixels", "normalized_1000", "normalized_1")


def with_boxes(
    messages: list[dict],
    objects: dict,
    pictures: list[tuple[tuple[int, int], int]],
    processor,
    coordinates: str | None,
    where: str,
) -> list[dict]:
    """The messages with their `<ref-object>` and `<bbox>` marks filled.

    A box is written as [left, top, right, bottom], a point as [x, y]: in pixels of the picture as the processor scales
    it (`resized_pixels`, the default for processors that take any size), in thousandths of the sides, or in shares of
    them with two decimals, as LLaVA's boxes have. `pictures` are the upright (width, height) and EXIF's orientation of
    each: boxes are of the pixels as stored, and turned with them. Raises InputError if `coordinates` must be given.
    """
    bounds = pixel_bounds(processor)
    coordinates = coordinates or (None if bounds is None else "resized_pixels")
    if coordinates is None or (coordinates == "resized_pixels" and bounds is None):
        raise InputError(
            f"{where}: has boxes, and this checkpoint's image processor scales to sizes of its own; give"
            " box_coordinates, normalized_1 or normalized_1000, as the model was trained"
        )
    written = []
    for box, number in zip(objects["bbox"], objects["image_id"], strict=True):
        (width, height), orientation = pictures[number]
        stored = (height, width) if orientation in ON_ITS_SIDE else (width, height)
        if objects["bbox_type"] == "norm1":
            box = [place * stored[axis % 2] for axis, place in enumerate(box)]
        if not all(0 <= place <= stored[axis % 2] for axis, place in enumerate(box)):
            raise InputError(f'{where}: field "objects": a box leaves its image of {stored[0]} x {stored[1]} px')
        shown = upright_box(box if len(box) == 4 else box * 2, (width, height), orientation)[: len(box)]
        seen = {"normalized_1000": (1000, 1000), "normalized_1": (1, 1)}.get(coordinates)
        if seen is None:
            settings = processor.image_processor
            factor = settings.patch_size * settings.merge_size
            seen = smart_resize(height, width, factor, *bounds)[::-1]
        places = [place / (width, height)[axis % 2] * seen[axis % 2] for axis, place in enumerate(shown)]
        decimals = 2 if coordinates == "normalized_1" else 0
        written.append("[" + ", ".join(f"{place:.{decimals}f}" for place in places) + "]")
    fillings = {REF_MARK: iter(objects["ref"]), BOX_MARK: iter(written)}
    marks = re.compile("|".join(fillings))
    return [turn | {"content": marks.sub(lambda mark: next(fillings[mark[0]]), turn["content"])} for turn in messages]
