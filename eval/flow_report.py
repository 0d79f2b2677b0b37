"""Attention from the text behind an image to its patches: maps with one scale, and what their shape is.

normalised entropy: 1 if all patches get the same, 0 if one gets all. centre: the map's centre of mass, from 0 (left,
top) to 1 (right, bottom). raster correlation: Pearson's, of a patch's attention with its place in reading order: what
rises towards the text behind the image is positive. image share: of all attention, what goes to the patches.
"""

import argparse
import base64

import numpy as np

from eval.cell_means import entry, plain
from eval.heatmaps import save
from eval.map_figure import map_figure
from eval.map_grid import lay
from eval.measured import read_rows
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
LAYER_TITLES = {name: TITLES[name] for name in ("entropy", "raster", "image_share")}
FIELDS = {"flow": str, "shape": list, "image_share": float}


FILE, UNIT = "information_flow.jsonl", "items"
SAME_SETTINGS = ("attending", "view")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments but those of all studies."""


def report(arguments: argparse.Namespace) -> tuple[str, dict]:
    """Draw the picture; the table in words and all numbers."""
    runs, notes = [], []
    for path, label in zip(arguments.results_file, arguments.labels, strict=True):
        numbered, errors = read_rows(path, FIELDS)
        rows = [row for _, row in numbered]
        maps, laid = read_maps(rows, path)
        shares = np.array([row["image_share"] for row in rows])
        runs.append((label, path, maps, shares, errors))
        notes.append(f"{label}: {len(rows)} items, {errors} errors (left out)")
        if laid:
            notes.append(f"{label}: pictures of several patch grids, laid onto {COMMON} x {COMMON}")
    if len({maps.shape[2:] for _, _, maps, _, _ in runs}) > 1:
        raise InputError("--results_file: maps of different patch grids; draw them apart")
    found = [describe(maps.mean(1), shares, arguments.bootstrap, arguments.seed) for _, _, maps, shares, _ in runs]
    pictures = [(label, maps.mean((0, 1))) for label, _, maps, _, _ in runs]
    layers = [(label, layer_numbers(maps)) for label, _, maps, _, _ in runs if maps.shape[1] > 1]
    save(map_figure(pictures, "attention of a patch, % of all", layers, LAYER_TITLES), arguments.output_path)
    table = [["", *arguments.labels]]
    for name, title in TITLES.items():
        table.append([title, *(_words(numbers[name]) for numbers in found)])
    thirds = [["share of thirds, %", *arguments.labels]]
    for third in range(9):
        thirds.append([f"  row {third // 3 + 1}, column {third % 3 + 1}", *(_words(n["thirds"][third]) for n in found)])
    text = "\n".join([*notes, "", text_table(table), "", text_table(thirds)])
    summaries = [
        {"label": label, "results_file": path, "items": len(maps), "errors": errors} | numbers
        for (label, path, maps, _, errors), numbers in zip(runs, found, strict=True)
    ]
    per_layer = {
        label: {name: [plain(value) for value in values] for name, values in numbers.items()}
        for label, numbers in layers
    }
    return text, {"bootstrap": arguments.bootstrap, "seed": arguments.seed, "runs": summaries, "layers": per_layer}


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


def describe(maps: np.ndarray, shares: np.ndarray, resamples: int, seed: int) -> dict:
    """Numbers of the mean of `maps`, (items, rows, columns), with intervals over items."""
    both = np.hstack([maps.reshape(len(maps), -1), 100 * shares[:, None]])
    means = resampled_sums(both, resamples, seed) / len(maps)
    numbers = {"image_share": means[:, -1]}
    means = means[:, :-1].reshape(-1, *maps.shape[1:])
    numbers |= shape_numbers(means)
    thirds = lay(means, 3).reshape(len(means), 9)
    thirds = 100 * thirds / thirds.sum(1, keepdims=True)
    found = {name: entry(values[0], *interval(values[1:])) for name, values in numbers.items()}
    return found | {"thirds": [entry(values[0], *interval(values[1:])) for values in thirds.T]}


def shape_numbers(maps: np.ndarray) -> dict[str, np.ndarray]:
    """Of maps (n, rows, columns), (n,): entropy, centre_x, centre_y, raster."""
    rows, columns = maps.shape[1:]
    flat = maps.reshape(len(maps), -1)
    share = flat / flat.sum(1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.where(share > 0, share * np.log(share), 0).sum(1) / np.log(share.shape[1])
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
