"""Boxes in replies, xyxy, and in pictures: reading them, moving them to the original picture, their overlap."""

import json
import math
import re
from collections.abc import Iterator

Box = tuple[float, float, float, float]  # left, top, right, bottom

_NUMBER = r"[-+]?(?:\d++(?:\.\d*+)?+|\.\d++)(?:[eE][-+]?\d++)?+"
_BRACKETED = re.compile(rf"[\[(]\s*+{_NUMBER}(?:[\s,]++{_NUMBER}){{3}}\s*+[\])]")
# A run of numbers with nothing but separators between them. Possessive, so that long replies are read in linear time.
_RUN = re.compile(
    rf"(?P<opening>[\[(]*+)\s*+(?<![\w.])(?P<numbers>{_NUMBER}(?:[\s,;()\[\]]++{_NUMBER})*+)(?!\w|\.\w)"
    r"\s*+(?P<closing>[\])]?)"
)
_FACTOR = 28  # pixels a side of what Qwen2-VL and Qwen2.5-VL make one token of


def read_boxes(reply: str) -> list[Box]:
    """The boxes of a reply, in its order; none where it has none, or a cut one.

    The values of `bbox_2d` if the reply, or what it fences, is JSON that has them; else brackets around four numbers;
    else runs of exactly four numbers. A run that opens a bracket and does not close it is cut; numbers with words
    between them are no box, and neither are numbers too large to be one.
    """
    return [*_in_json(reply)] or [*_in_text(reply)]


def _in_json(reply: str) -> Iterator[Box]:
    fenced = re.search(r"```(?:json)?(.*?)```", reply, re.DOTALL)
    try:
        yield from _bbox_2d(json.loads(fenced[1] if fenced else reply))
    except (ValueError, RecursionError):
        return


def _bbox_2d(value: object) -> Iterator[Box]:
    """All values of the key, depth first, that are four finite numbers."""
    for inner in value if isinstance(value, list) else []:
        yield from _bbox_2d(inner)
    for name, inner in value.items() if isinstance(value, dict) else []:
        if name != "bbox_2d":
            yield from _bbox_2d(inner)
        elif isinstance(inner, list) and len(inner) == 4 and all(map(_is_number, inner)):
            yield tuple(map(float, inner))


def _in_text(reply: str) -> Iterator[Box]:
    texts = [match[0] for match in _BRACKETED.finditer(reply)] or [
        run["numbers"] for run in _RUN.finditer(reply) if bool(run["opening"]) == bool(run["closing"])
    ]
    for text in texts:
        numbers = [*map(float, re.findall(_NUMBER, text))]
        if len(numbers) == 4 and all(map(math.isfinite, numbers)):
            yield tuple(numbers)


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond what a float holds
        return False


def to_original(box: Box, row: dict) -> Box:
    """The box in pixels of the original picture, from the `coordinates` that the row names.

    normalized_1 and normalized_1000: shares and thousandths of its sides. resized_pixels: pixels of what the picture
    was scaled to for the model, which follows from `image_size`, `min_pixels` and `max_pixels`.
    """
    width, height = row["image_size"]
    if row["coordinates"] == "resized_pixels":
        seen_width, seen_height = resized(width, height, row["min_pixels"], row["max_pixels"])
    else:
        seen_width = seen_height = 1000 if row["coordinates"] == "normalized_1000" else 1
    across, down = width / seen_width, height / seen_height
    return box[0] * across, box[1] * down, box[2] * across, box[3] * down


def resized(width: int, height: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Width and height that Qwen2-VL's and Qwen2.5-VL's processor scales a picture to.

    Multiples of 28 next to the sides; where their product is out of bounds, the sides are first scaled alike to reach
    the bound and then rounded into it.
    """
    sides = [round(side / _FACTOR) * _FACTOR for side in (width, height)]
    if math.prod(sides) > max_pixels:
        scale = math.sqrt(width * height / max_pixels)
        sides = [max(_FACTOR, math.floor(side / scale / _FACTOR) * _FACTOR) for side in (width, height)]
    elif math.prod(sides) < min_pixels:
        scale = math.sqrt(min_pixels / (width * height))
        sides = [math.ceil(side * scale / _FACTOR) * _FACTOR for side in (width, height)]
    return sides[0], sides[1]


def overlap(first: Box, second: Box) -> float:
    """Intersection over union; 0 for a box whose corners are swapped or that has no area."""
    areas = [max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1]) for box in (first, second)]
    if not all(areas):
        return 0.0
    wide = min(first[2], second[2]) - max(first[0], second[0])
    tall = min(first[3], second[3]) - max(first[1], second[1])
    common = max(0.0, wide) * max(0.0, tall)
    return common / (sum(areas) - common)
