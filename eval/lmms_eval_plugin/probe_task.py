"""Task `bapa_probe` (bapa_probe.yaml): the spatial probe, asked by lmms-eval and scored by eval/metrics.py.

The environment variable BAPA_PROBE names the folder that data/build_probe.py wrote: probe.jsonl and images/, of 3x3
cells.
"""

import argparse
import os
from collections.abc import Iterable
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from datasets import Dataset
from PIL import Image, ImageFile

from data.grid import cell_names
from eval.answers import read_yes_no
from eval.entries import plain
from eval.items import PictureError, open_picture
from eval.lmms_eval_plugin.loud import loud
from eval.metrics import Run, measure
from eval.probe import PROMPT, load_items
from eval.probe_answers import Answers, collect_answers
from models.errors import InputError

FOLDER = "BAPA_PROBE"
CELLS = {f"cell_{name}": number for number, name in enumerate(cell_names(3))}
# Name in eval/probe_statistics.py -> is more better? In percent, variance in percent^2.
NUMBERS = {
    "accuracy": True,
    "balanced_accuracy": True,
    "mean": True,
    "variance": False,
    "std": False,
    "gap": False,
    "worst": True,
    "consistency": True,
    "flip": False,
    "yes_rate": None,
}
STDERR = "_stderr"  # where lmms-eval, and its table, look for a metric's error


def load_probe(_: Dataset) -> Dataset:
    """The probe's items, for what lmms-eval has loaded in their place (see the YAML file).

    A mistake in them, a missing canvas or another grid ends the process with one line.
    """
    with loud():
        items = _items(_folder())
        fields = ("id", "image", "caption", "position", "answer")
        columns = {field: [str(item[field]) for item in items] for field in fields}
        return Dataset.from_dict({"row": list(range(len(items)))} | columns)


def canvas(doc: dict) -> list[Image.Image]:
    """The pictures of a question: one."""
    # lmms-eval lets Pillow fill up truncated files with grey.
    tolerant, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        return [open_picture({"type": "image", "path": _folder() / "images" / doc["image"]})[0]]
    except PictureError as error:
        raise InputError(f"{_folder() / 'images'}: {error}") from None
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = tolerant


def question(doc: dict) -> str:
    """The paper's prompt."""
    return PROMPT.format(caption=doc["caption"])


def read_reply(doc: dict, results: list[str]) -> dict[str, tuple[int, str]]:
    """For every metric the same: the probe's row, and the reply as "Yes", "No" or "" if it cannot be read."""
    outcome = (doc["row"], read_yes_no(results[0]) or "")
    return {metric["metric"]: outcome for metric in METRICS}


def value_of(metric: str, outcomes: list[tuple[int, str]]) -> float | None:
    """A metric of all outcomes, as eval/metrics.py gives it; None where they cannot say."""
    with loud():
        run = _measured(_folder(), tuple(map(tuple, outcomes)))
        if metric == "unreadable":
            return plain(100 * run.summary["unreadable"] / run.summary["scored"])
        return plain(_of(run.point, metric))


def stderr_of(metric: str, outcomes: list[tuple[int, str]]) -> float | None:
    """The standard deviation of a metric over the bootstrap samples, captions drawn, of eval/metrics.py."""
    with loud():
        samples = _of(_measured(_folder(), tuple(map(tuple, outcomes))).samples, metric)
        samples = samples[np.isfinite(samples)]
        return plain(samples.std(ddof=1)) if len(samples) > 1 else None


def _of(values: dict[str, np.ndarray], metric: str) -> np.ndarray:
    return values["cell_accuracy"][..., CELLS[metric]] if metric in CELLS else values[metric]


def _metric(name: str, aggregation, better: bool | None) -> dict:
    return {"metric": name, "aggregation": partial(aggregation, name.removesuffix(STDERR)), "higher_is_better": better}


_BETTER = NUMBERS | dict.fromkeys(CELLS, True)
# lmms-eval has no error for aggregations but its own, and says N/A in its place; a metric of that name, behind the one
# it belongs to, overwrites this.
METRICS = [
    *(_metric(name, value_of, better) for name, better in _BETTER.items()),
    _metric("unreadable", value_of, False),
    *(_metric(name + STDERR, stderr_of, None) for name in _BETTER),
]


@lru_cache(maxsize=1)
def _measured(folder: Path, outcomes: tuple[tuple[int, str], ...]) -> Run:
    """All numbers at once: lmms-eval asks for each metric on its own."""
    items = _items(folder)
    return measure(_answers(folder, ((row, items[row], reply) for row, reply in sorted(outcomes))), "bapa_probe")


@lru_cache(maxsize=1)
def _items(folder: Path) -> list[dict]:
    file, images = folder / "probe.jsonl", folder / "images"
    items = load_items(argparse.Namespace(eval_file=file, img_path=images))
    odd = next((item["position"] for item in items if item["position"] not in cell_names(3)), None)
    if odd is not None:
        raise InputError(f"{file}: position {odd} is none of a 3x3 grid; ask other grids with eval/probe.py")
    missing = next((item["image"] for item in items if not (images / item["image"]).is_file()), None)
    if missing is not None:
        raise InputError(f"{images}: {missing} is missing; build the probe again")
    # What scoring would refuse must not show after hours of replies.
    _answers(folder, ((row, item, "") for row, item in enumerate(items)))
    return items


def _answers(folder: Path, replies: Iterable[tuple[int, dict, str]]) -> Answers:
    """Replies to rows of the probe, as an answers file would give them."""
    rows = ((row + 1, item | {"prediction": reply}) for row, item, reply in replies)
    return collect_answers(str(folder / "probe.jsonl"), rows, read_yes_no)


def _folder() -> Path:
    if not os.environ.get(FOLDER):
        raise InputError(f"the environment variable {FOLDER} is not set; set it to the folder of data/build_probe.py")
    return Path(os.environ[FOLDER])
