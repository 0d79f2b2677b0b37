"""Attention from the text behind an image to its patches: maps with one scale, and what their shape is.

normalised entropy: 1 if all patches get the same, 0 if one gets all. centre: the map's centre of mass, from 0 (left,
top) to 1 (right, bottom). raster correlation: Pearson's, of a patch's attention with its place in reading order: what
rises towards the text behind the image is positive. image share: of all attention, what all tokens of the image get.
"""

import argparse
import base64
from dataclasses import dataclass

import numpy as np

from eval.entries import entry, plain
from eval.heatmaps import save
from eval.map_figure import map_figure
from eval.map_grid import lay
from eval.measured import read_rows
from eval.probe_answers import caption_group
from eval.probe_statistics import interval
from eval.resampling import resampled_sums
from eval.text_table import text_table
from models.errors import InputError

COMMON = 24  # rows and columns onto which maps are laid that differ in theirs
TITLES = {
    "entropy": "normalised entropy",
    "centre_x": "centre, from left to right",
    "centre_y": "centre, from top to bottom",
    "raster": "raster correlation",
    "image_share": "image share, %",
}
BASIC_INTERVALS = ("entropy", "raster")
SCALE = "attention of a patch, % of all"
LAYER_TITLES = {"entropy": TITLES["entropy"], "raster": TITLES["raster"], "image_share": "share of the patches, %"}
FIELDS = {"flow": str, "shape": list, "image_share": float}
FILE, UNIT = "information_flow.jsonl", "captions (probe) or pictures (benchmarks)"
BASIC = "entropy and raster correlation: basic intervals, which make up for noise and may lie beside the value"
SAME_SETTINGS = ("attending", "view")
Curves = list[tuple[str, dict[str, np.ndarray]]]  # (label, name -> (layers,))


@dataclass(frozen=True)
class Flow:
    """One run: `maps` are (items, layers, rows, columns), in percent of all attention."""

    label: str
    path: str
    rows: list[dict]
    maps: np.ndarray
    laid: bool  # onto a common grid
    errors: int


def report(arguments: argparse.Namespace) -> tuple[str, dict]:
    """Draw the picture; the table in words and all numbers."""
    text, numbers, maps, curves = summarise(arguments)
    save(map_figure(maps, SCALE, curves, LAYER_TITLES), arguments.output_path)
    return text, numbers


def summarise(arguments: argparse.Namespace) -> tuple[str, dict, list[tuple[str, np.ndarray]], Curves]:
    """The table in words, all numbers, the map of each run by its label, and numbers by layer where they were kept."""
    runs = [read_flow(path, label) for path, label in zip(arguments.results_file, arguments.labels, strict=True)]
    if len({run.maps.shape[2:] for run in runs}) > 1:
        raise InputError("--results_file: maps of different patch grids; draw them apart")
    found = [describe(run.maps.mean(1), run.rows, arguments.bootstrap, arguments.seed) for run in runs]
    layers = [layer_numbers(run.maps) if run.maps.shape[1] > 1 else {} for run in runs]
    maps = [(run.label, run.maps.mean((0, 1))) for run in runs]
    curves = [(run.label, numbers) for run, numbers in zip(runs, layers, strict=True) if numbers]
    notes = [f"{run.label}: {len(run.rows)} items, {run.errors} errors (left out)" for run in runs]
    notes += [f"{run.label}: several patch grids, laid onto {COMMON} x {COMMON}" for run in runs if run.laid]
    table = [["", *arguments.labels]]
    for name, title in TITLES.items():
        table.append([title, *(_words(numbers[name]) for numbers in found)])
    thirds = [["share of thirds, %", *arguments.labels]]
    for third in range(9):
        thirds.append([f"  row {third // 3 + 1}, column {third % 3 + 1}", *(_words(n["thirds"][third]) for n in found)])
    summaries = [
        {"label": run.label, "results_file": run.path, "items": len(run.rows), "errors": run.errors}
        | shape
        | {"layers": {name: [plain(value) for value in values] for name, values in by_layer.items()}}
        for run, shape, by_layer in zip(runs, found, layers, strict=True)
    ]
    parts = ["\n".join(notes), text_table(table), text_table(thirds)]
    if has_basic(summaries):
        parts.append(BASIC)
    numbers = {"bootstrap": arguments.bootstrap, "seed": arguments.seed, "runs": summaries}
    return "\n\n".join(parts), numbers, maps, curves


def has_basic(summaries: list[dict]) -> bool:
    """Whether any of the numbers of runs has a basic interval (`interval_of`)."""
    return any(run[name]["low"] is not None for run in summaries for name in BASIC_INTERVALS)


def read_flow(path: str, label: str) -> Flow:
    """The run in an answers file. Raises InputError as eval/measured.py does, and for maps that are none."""
    numbered, errors = read_rows(path, FIELDS)
    rows = [row for _, row in numbered]
    maps, laid = read_maps(rows, path)
    return Flow(label, path, rows, maps, laid, errors)


def read_maps(rows: list[dict], path: str) -> tuple[np.ndarray, bool]:
    """(items, layers, rows, columns), in percent of all attention; and whether they were laid onto a common grid."""
    maps = []
    for row in rows:
        try:
            stored = np.frombuffer(base64.b64decode(row["flow"]), np.float32)
            maps.append(100 * stored.reshape(row["shape"]))
        except ValueError:
            raise InputError(f"{path}: a row's `flow` does not have its `shape`; start anew with --overwrite") from None
    if len({one.shape for one in maps}) == 1:
        return np.stack(maps), False
    if len({len(one) for one in maps}) > 1:
        raise InputError(f"{path}: maps of different numbers of layers; start anew with --overwrite")
    return np.stack([lay(one, COMMON) for one in maps]), True


def describe(maps: np.ndarray, rows: list[dict], resamples: int, seed: int) -> dict:
    """Numbers of the mean of `maps`, (items, rows, columns), with intervals over the captions or pictures of `rows`.

    Items of one picture, or of one caption's canvases, are drawn together: they resemble each other.
    """
    flat = np.hstack([maps.reshape(len(maps), -1), np.array([[100 * row["image_share"], 1.0] for row in rows])])
    names = [drawn_with(row, place) for place, row in enumerate(rows)]
    units, unit_of = np.unique(names, return_inverse=True)
    by_unit = np.zeros((len(units), flat.shape[1]))
    np.add.at(by_unit, unit_of, flat)
    sums = resampled_sums(by_unit, resamples if len(units) > 1 else 0, seed)
    means = sums[:, :-2] / sums[:, -1:]
    means = means.reshape(-1, *maps.shape[1:])
    thirds = lay(means, 3).reshape(len(means), 9)
    thirds = 100 * thirds / thirds.sum(1, keepdims=True)
    numbers = shape_numbers(means) | {"image_share": sums[:, -2] / sums[:, -1]}
    found = {name: entry(values[0], *interval_of(name, values)) for name, values in numbers.items()}
    return found | {"thirds": [entry(values[0], *interval(values[1:])) for values in thirds.T]}


def drawn_with(row: dict, place: int) -> str:
    """What a row is drawn together with: its caption in the probe, its picture elsewhere, or itself."""
    if "position" in row and "image" in row:
        return caption_group(row["image"])
    return str(row.get("image_sha256", row.get("image", place)))


def interval_of(name: str, values: np.ndarray) -> tuple[float, float]:
    """95% interval of a number from its value, first, and its resamples.

    Noise flattens no map: it makes entropy and correlation smaller, in the data and once more in every resample. For
    these two the basic interval, 2 * value - percentiles, makes up for it; it may lie beside the value.
    """
    low, high = interval(values[1:])
    if name not in BASIC_INTERVALS:
        return low, high
    low, high = 2 * values[0] - high, 2 * values[0] - low
    return (max(low, -1.0), min(high, 1.0)) if np.isfinite(low) else (low, high)


def shape_numbers(maps: np.ndarray) -> dict[str, np.ndarray]:
    """Of maps (n, rows, columns), (n,): entropy, centre_x, centre_y, raster."""
    rows, columns = maps.shape[1:]
    flat = maps.reshape(len(maps), -1)
    share = flat / flat.sum(1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.where(share == 0, 0, share * np.log(share)).sum(1) / np.log(share.shape[1])
        centred, order = share - share.mean(1, keepdims=True), np.arange(share.shape[1]) - (share.shape[1] - 1) / 2
        raster = centred @ order / (np.linalg.norm(centred, axis=1) * np.linalg.norm(order))
    x, y = (np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows
    grid = share.reshape(maps.shape)
    return {
        "entropy": entropy,
        "centre_x": (grid.sum(1) @ x),
        "centre_y": (grid.sum(2) @ y),
        "raster": raster,
    }


def layer_numbers(maps: np.ndarray) -> dict[str, np.ndarray]:
    """The numbers by layer of maps (items, layers, rows, columns): name -> (layers,)."""
    means = maps.mean(0)
    return shape_numbers(means) | {"image_share": means.sum((1, 2))}


def _words(number: dict) -> str:
    bounds = "" if number["low"] is None else f" [{number['low']:.3f}, {number['high']:.3f}]"
    return "-" if number["value"] is None else f"{number['value']:.3f}{bounds}"
