"""RefCOCO, RefCOCO+, RefCOCOg: where in the picture is what an expression names?

Keys: `answer` (the gold box, xyxy in pixels of the upright picture), `image_size` [width, height], `coordinates`
(what the model's boxes are in: resized_pixels, normalized_1000 or normalized_1), `min_pixels` and `max_pixels` (what
the processor was given; null unless resized_pixels), and `split` if there are several. A hit is an IoU of at least 0.5.

- official: there is no official script. The first box of the reply (eval/scorers/boxes.py), moved to the original
  picture by `coordinates`. Swapped corners, no box and a cut box are misses.
- lmms: refcoco_bbox_rec. The first four numbers in square brackets are shares of the sides, whatever `coordinates`
  says: a model that answers in pixels scores near zero. (Its other task, refcoco_grounding, asks for all expressions
  of an object at once and keeps the best overlap over all boxes and two readings: not a rule for these rows.)
- vlmevalkit: four numbers in square brackets, else the first four; up to 1.5 they are shares, up to 1000 thousandths,
  above that pixels of the original, whatever `coordinates` says. Clipped to the picture, corners sorted.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator

from eval.scorers.boxes import Box, overlap, read_boxes, to_original
from eval.scorers.reasoning import without_thoughts
from eval.scorers.rules import Context, Observation, Rules, Scored, Verdict, other_size

COORDINATES = ("resized_pixels", "normalized_1000", "normalized_1")
HIT = 0.5
# Expressions of a split. Together 57,457, the rows of VLMEvalKit's file of all eight.
SIZES = {
    10834: "RefCOCO val",
    5657: "RefCOCO testA",
    5095: "RefCOCO testB",
    10758: "RefCOCO+ val",
    5726: "RefCOCO+ testA",
    4889: "RefCOCO+ testB",
    4896: "RefCOCOg val",
    9602: "RefCOCOg test",
}
_NUMBER_LMMS = r"(-?\d+(?:\.\d+)?)"
_BOX_LMMS = re.compile(r"\[\s*" + r",\s*".join([_NUMBER_LMMS] * 4) + r"\s*\]")
_NUMBER_VLMEVALKIT = r"[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?"
_BOX_VLMEVALKIT = re.compile(r"\[\s*" + r"(?:\s*,\s*|\s+)".join([f"({_NUMBER_VLMEVALKIT})"] * 4) + r"\s*\]")


def check(row: dict) -> str | None:
    if row["coordinates"] not in COORDINATES:
        return f"field `coordinates` is {row['coordinates']!r}; one of {', '.join(COORDINATES)} is expected"
    if not isinstance(row.get("split", ""), str):
        return f"field `split` is {row['split']!r}; the split's name, a text, is expected"
    if len(row["image_size"]) != 2 or not all(_is_whole(side) for side in row["image_size"]):
        return f"field `image_size` is {row['image_size']}; [width, height] in pixels is expected"
    if not is_box(row["answer"]):
        return f"field `answer` is {row['answer']}; the box [left, top, right, bottom] in pixels is expected"
    left, top, right, bottom = row["answer"]
    if left >= right or top >= bottom:
        return f"field `answer` is {row['answer']}; left < right and top < bottom are expected (xyxy, not xywh)"
    if row["coordinates"] == "resized_pixels":
        for field in ("min_pixels", "max_pixels"):
            if not _is_whole(row.get(field)):
                return f"field `{field}` is {row.get(field)!r}; resized_pixels needs what the processor was given"
    return None


def is_box(value: list) -> bool:
    """Whether a list has four finite numbers."""
    return len(value) == 4 and all(isinstance(x, int | float) and math.isfinite(x) for x in value)


def official(row: dict, context: Context) -> Verdict:
    boxes = read_boxes(row["prediction"])
    extra = {"boxes": len(boxes)} if len(boxes) > 1 else {}
    return _verdict(to_original(boxes[0], row) if boxes else None, row["answer"], extra)


def lmms(row: dict, context: Context) -> Verdict:
    found = _BOX_LMMS.search(without_thoughts(row["prediction"]))
    width, height = row["image_size"]
    left, top, right, bottom = row["answer"]
    gold = (left / width, top / height, right / width, bottom / height)
    return _verdict(tuple(map(float, found.groups())) if found else None, gold, {})


def vlmevalkit(row: dict, context: Context) -> Verdict:
    bracketed = _BOX_VLMEVALKIT.search(row["prediction"])
    numbers = bracketed.groups() if bracketed else re.findall(_NUMBER_VLMEVALKIT, row["prediction"])[:4]
    if len(numbers) < 4:
        return _verdict(None, row["answer"], {})
    box, sides = [*map(float, numbers)], [*row["image_size"]] * 2
    largest = max(map(abs, box))
    if largest <= 1000:
        box = [x * side if largest <= 1.5 else x / 1000 * side for x, side in zip(box, sides, strict=True)]
    box = [min(max(x, 0), side) for x, side in zip(box, sides, strict=True)]
    (left, right), (top, bottom) = sorted(box[::2]), sorted(box[1::2])
    return _verdict((left, top, right, bottom), row["answer"], {})


def observe(scored: list[Scored], scorer: str) -> Iterator[Observation]:
    several = len({row.row.get("split") for row in scored}) > 1
    for row in scored:
        yield row.cluster, "accuracy", row.verdict.correct
        yield row.cluster, "mean_iou", row.verdict.extra["iou"]
        if several:
            yield row.cluster, f"{row.row.get('split')}_accuracy", row.verdict.correct


def derive(means: dict) -> dict:
    """And the mean over splits, VLMEvalKit's average, where there are several."""
    splits = [values for name, values in means.items() if name.endswith("_accuracy")]
    return {"mean_over_splits": sum(splits) / len(splits)} | means if splits else means


def sizes(rows: list[dict], scorer: str) -> list[str]:
    counts = Counter(row.get("split") for row in rows)
    return [
        line
        for split, count in counts.items()
        for line in other_size(count, SIZES, "a split of RefCOCO" if split is None else str(split))
    ]


def remarks(scored: list[Scored], scorer: str) -> list[str]:
    several = sum("boxes" in row.verdict.extra for row in scored)
    notes = [f"{several} replies have several boxes; the first counts"] * bool(several)
    if scorer == "official":
        notes.append("there is no official script for RefCOCO: `official` is the first box at IoU 0.5")
    return notes


def _verdict(box: Box | None, gold: Box | list[float], extra: dict) -> Verdict:
    iou = overlap(box, gold) if box else 0.0
    parsed = [round(x, 6) for x in box] if box else None
    return Verdict(parsed, iou >= HIT, {"iou": round(iou, 6)} | extra)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


RULES = Rules(
    fields={"answer": list, "image_size": list, "coordinates": str},
    of_the_run=("coordinates",),
    scorers={"official": official, "lmms": lmms, "vlmevalkit": vlmevalkit},
    check=check,
    observe=observe,
    derive=derive,
    sizes=sizes,
    remarks=remarks,
    tests=("accuracy",),
)
