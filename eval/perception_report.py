"""Where the answer rests when the picture that is asked for is in each cell: the maps of eval/perception.py, summed.

Each map is divided by its maximum, as in the paper, and averaged by the cell of the target; a map without any effect
counts as zeros. Beside that, the share of a map's mass that lies in the target's part of the canvas; chance is one of
all cells, and maps without effect are left out.
"""

import argparse

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from data.grid import cell_names
from eval.cell_means import cell_means
from eval.heatmaps import NO_DATA, NO_DATA_TEXT, fit, save
from eval.map_grid import lay
from eval.measured import Measured, read_measured
from eval.text_table import text_table
from models.errors import InputError

FILE, UNIT = "occlusion.jsonl", "captions"
SAME_SETTINGS = ("mask_size", "mask_color", "target", "baseline")
INK, QUIET, TARGET = "#1a1a1a", "#5f5f5f", "#00a5b8"
SIZE, SMALL_SIZE, BAR_HEIGHT = (4.4, 5.5), (3.4, 4.5), 0.75  # inches: of a run's part, of one on a phone, of the bar


def report(arguments: argparse.Namespace) -> tuple[str, dict]:
    """Draw the picture; the table in words and all numbers."""
    text, numbers, drawn = describe(arguments)
    save(figure(drawn), arguments.output_path)
    return text, numbers


def describe(arguments: argparse.Namespace) -> tuple[str, dict, list[tuple[str, np.ndarray]]]:
    """The table in words, all numbers, and what `figure` draws."""
    runs, drawn, notes, columns = [], [], [], []
    for path, label in zip(arguments.results_file, arguments.labels, strict=True):
        measured = read_measured(path, {"map": list})
        maps = read_maps(measured)
        shares = target_shares(measured, maps)
        found = cell_means(shares, arguments.bootstrap, arguments.seed)
        empty = int((maps.max((1, 2)) == 0).sum())
        skipped = sum(value is None for row in measured.rows for line in row["map"] for value in line)
        notes.append(
            f"{label}: {len(measured.index)} captions, {measured.errors} errors (left out); {skipped} of {maps.size} "
            f"squares skipped (of one colour); {empty} maps without any effect (not in the shares)"
        )
        drawn.append((label, summed(measured, maps)))
        columns.append(found)
        runs.append({"label": label, "results_file": path, "captions": len(measured.index), "errors": measured.errors,
                     "skipped": skipped, "without_effect": empty, "target_share": found.as_dict()})  # fmt: skip
    if len({maps.shape for _, maps in drawn}) > 1:
        raise InputError("--results_file: maps of different grids; draw them apart")
    cells = len(columns[0].cells)
    table = [["share of the map in the target's cell, %", *arguments.labels]]
    table.append([f"mean (chance {100 / cells:.1f})", *(_words(one.mean, one.low, one.high) for one in columns)])
    for cell, name in enumerate(cell_names(round(cells**0.5))):
        numbers = [(one.cells[cell], one.cells_low[cell], one.cells_high[cell]) for one in columns]
        table.append([f"  {name}", *(_words(*triple) for triple in numbers)])
    text = "\n".join([*notes, "", text_table(table)])
    return text, {"bootstrap": arguments.bootstrap, "seed": arguments.seed, "runs": runs}, drawn


def read_maps(measured: Measured) -> np.ndarray:
    """(rows, rows of the map, columns), 0 where a square was skipped. Raises InputError for maps that are none."""
    try:
        return np.stack([np.nan_to_num(np.array(row["map"], float)) for row in measured.rows])
    except ValueError:
        raise InputError(f"{measured.path}: maps of different grids; start anew with --overwrite") from None


def target_shares(measured: Measured, maps: np.ndarray) -> np.ndarray:
    """(captions, cells): percent of a map's mass in the target's cell, NaN for none and for maps without effect."""
    cells = measured.index.shape[1]
    parts = lay(maps, round(cells**0.5)).reshape(len(maps), cells)
    with np.errstate(invalid="ignore"):
        parts = 100 * parts / parts.sum(1, keepdims=True)
    captions, targets = (measured.index >= 0).nonzero()
    shares = np.full(measured.index.shape, np.nan)
    shares[captions, targets] = parts[measured.index[captions, targets], targets]
    return shares


def summed(measured: Measured, maps: np.ndarray) -> np.ndarray:
    """Maps divided by their maximum, mean by target cell: (cells, rows, columns), NaN for a cell without any row.

    A map without any effect has no maximum to divide by; it counts as zeros.
    """
    scaled = maps / np.maximum(maps.max((1, 2), keepdims=True), np.finfo(float).tiny)
    return np.stack([scaled[rows[rows >= 0]].mean(0) if (rows >= 0).any() else np.full(maps.shape[1:], np.nan)
                     for rows in measured.index.T])  # fmt: skip


def scale_of(drawn: list[tuple[str, np.ndarray]]) -> Normalize:
    """From 0 to the largest value."""
    return Normalize(0, max(np.nanmax(maps) for _, maps in drawn) or 1)


def figure(
    drawn: list[tuple[str, np.ndarray]], norm: Normalize | None = None, size: tuple[float, float] = SIZE
) -> Figure:
    """One grid of maps per run, by target cell, with one scale for all: `norm`, or `scale_of` these.

    `size`: width and height of a run's part, inches.
    """
    side = round(len(drawn[0][1]) ** 0.5)
    width, height = size[0] * len(drawn), size[1]
    whole = Figure(figsize=(width, height), facecolor="white", layout="constrained")
    norm = norm or scale_of(drawn)
    above, below = whole.subfigures(2, 1, height_ratios=(height - BAR_HEIGHT, BAR_HEIGHT))
    parts = above.subfigures(1, len(drawn), wspace=0.06, squeeze=False)[0]
    for part, (label, maps) in zip(parts, drawn, strict=True):
        part.suptitle(label, fontsize=fit(label, 12), weight="bold", color=INK, parse_math=False)
        axes = part.subplots(side, side, squeeze=False).ravel()
        for cell, (one, values, name) in enumerate(zip(axes, maps, cell_names(side), strict=True)):
            if np.isfinite(values).all():
                extent = (0, side, side, 0)  # in cells of the canvas
                one.imshow(values, cmap=colormaps["magma_r"], norm=norm, interpolation="nearest", extent=extent)
                place = (cell % side, cell // side)
                one.add_patch(Rectangle(place, 1, 1, fill=False, edgecolor=TARGET, linewidth=1.2))
            else:
                one.add_patch(Rectangle((0, 0), side, side, **NO_DATA))
                one.text(side / 2, side / 2, "no data", fontsize=8, ha="center", va="center", **NO_DATA_TEXT)
            one.set_title(name.replace("_", " "), fontsize=8, color=QUIET, pad=3)
            one.set(xticks=[], yticks=[], xlim=(0, side), ylim=(side, 0), aspect="equal")
            one.spines[:].set_color(QUIET)
    # A bar of its own, since axes of several subfigures cannot share one.
    mappable = ScalarMappable(norm, colormaps["magma_r"])
    bar = below.colorbar(mappable, cax=below.subplots(), orientation="horizontal")
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, length=2, color=QUIET, labelcolor=INK)
    text = "what the answer loses when a square is covered,", "mean of maps of maximum 1"
    text = (" " if width >= SIZE[0] else "\n").join(text)
    bar.set_label(f"{text}\nframed: the cell of the picture that was asked for", fontsize=7.5, color=INK)
    return whole


def _words(value: float, low: float, high: float) -> str:
    if not np.isfinite(value):
        return "-"
    return f"{value:.1f}" + (f" [{low:.1f}, {high:.1f}]" if np.isfinite(low) else "")
