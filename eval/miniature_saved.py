"""The saved results of the miniature's experiment, as eval/miniature_results.py writes them, for tables and figures."""

import math
from pathlib import Path

import numpy as np

from eval.miniature_results import ARMS
from models.errors import InputError
from models.outside import read_json_object

TRAINED = "3x3-144"  # the condition of the training data
PLACES = {"corners": 2, "edges": 1, "inner": 0}  # cells by how many sides of the canvas they touch
# Number of eval/metrics.py -> its column.
COLUMNS = {
    "balanced_accuracy": "balanced accuracy, %",
    "mean": "mean over cells, %",
    "variance": "variance over cells, %²",
    "variance_corrected": "variance less noise, %²",
    "gap": "gap, points",
    "worst": "worst cell, %",
    "flip": "flip rate, %",
    "d_prime": "d'",
}


def read_results(folder: Path) -> dict[int, dict]:
    """Seed -> what eval/miniature_results.py wrote of it, in the order of the seeds.

    Raises InputError for a file that cannot be read, and for seeds that were not measured alike.
    """
    paths = sorted(folder.glob("seed_*.json"))
    if not paths:
        raise InputError(f"--results_dir {folder}: no seed_<n>.json; eval/miniature_results.py writes them")
    found = {}
    for path in paths:
        try:
            one = read_json_object(path)
            seed, measured = one["seed"], sizes(one)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: cannot be read ({error}); collect the seed again") from None
        for other in found.values():
            if seed == other["seed"] or measured != sizes(other):
                raise InputError(
                    f"{path}: is not another seed, measured like seed {other['seed']} in the same conditions; "
                    "collect one of the two again"
                )
        found[seed] = one
    return dict(sorted(found.items()))


def sizes(result: dict) -> dict:
    """Condition -> (kind of answers, arm) -> (captions, questions)."""
    return {
        condition: {
            (kind, arm): (found[kind][arm]["captions"], found[kind][arm]["items"])
            for kind in ("arms", "alone")
            for arm in ARMS
        }
        for condition, found in result["conditions"].items()
    }


def conditions_of(results: dict[int, dict]) -> list[str]:
    """That of the training first."""
    return sorted(next(iter(results.values()))["conditions"], key=lambda name: (name != TRAINED, name))


def in_condition(results: dict[int, dict], condition: str) -> list[dict]:
    """What was found in a condition, seed by seed."""
    return [one["conditions"][condition] for one in results.values()]


def over_seeds(results: dict[int, dict], condition: str, *path: str) -> np.ndarray:
    """(seeds,) values, NaN where there is none; `path` leads to an entry in what was found in the condition."""
    found = []
    for entry in in_condition(results, condition):
        for name in path:
            entry = entry[name]
        found.append(entry["value"])
    return np.array(found, float)


def by_place(results: dict[int, dict], condition: str, kind: str, arm: str) -> tuple[np.ndarray, np.ndarray]:
    """Of captions that are there, (seeds, PLACES) accuracies in percent, and their log odds.

    Log odds have half a question added on either side, so that none is infinite.
    """
    found = [one[kind][arm] for one in in_condition(results, condition)]
    cells = np.array([one["positives"] for one in found], float)
    grid = math.isqrt(cells.shape[1])
    rim = np.isin(np.arange(grid), (0, grid - 1)).astype(int)
    sides = np.add.outer(rim, rim).ravel()  # of the canvas that a cell touches
    touching = [sides == touched for touched in PLACES.values()]
    places = np.stack([cells[:, one].mean(1) for one in touching], axis=1)
    asked = np.outer([one["captions"] for one in found], [one.sum() for one in touching])
    right = places / 100 * asked
    return places, np.log((right + 0.5) / (asked - right + 0.5))


def described(condition: str) -> str:
    grid, size = condition.split("-")
    return f"{grid} cells, image of {size} px"
