"""Figures of the miniature's experiment: each seed's numbers by arm, accuracy by cell, attention to patches."""

import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from eval.heatmaps import Panel, probe_heatmaps, save
from eval.map_figure import map_figure
from eval.miniature_saved import COLUMNS, conditions_of, described, in_condition, over_seeds

DRAWN = ("balanced_accuracy", "variance_corrected", "flip")
# Arm -> its name, short enough for one size of letters, and its colour: Okabe and Ito's, which stay apart in every
# common form of colour blindness.
NAMES = {"a": "ordinary", "b": "switched on", "c0": "LoRA, ordinary", "c": "LoRA with BaPA", "d": "trained with BaPA"}
COLOURS = {"a": "#0072B2", "b": "#D55E00", "c0": "#56B4E9", "c": "#E69F00", "d": "#009E73"}


def draw_seeds(results: dict[int, dict], path: Path) -> None:
    """A dot for each seed and arm, a line through a seed's and a bar for their mean; a row for each condition."""
    conditions = conditions_of(results)
    figure = Figure(figsize=(2.9 * len(DRAWN), 1.75 * len(conditions)), facecolor="white", layout="constrained")
    grid = figure.subplots(len(conditions), len(DRAWN), squeeze=False, sharex=True)
    for row, condition in zip(grid, conditions, strict=True):
        for axes, name in zip(row, DRAWN, strict=True):
            numbers = np.array([over_seeds(results, condition, "arms", arm, "numbers", name) for arm in NAMES])
            axes.plot(range(len(NAMES)), numbers, color="#bbbbbb", linewidth=0.9, zorder=1)
            for place, arm in enumerate(NAMES):
                axes.plot([place] * numbers.shape[1], numbers[place], "o", color=COLOURS[arm], markersize=4.5)
                axes.hlines(numbers[place].mean(), place - 0.3, place + 0.3, color=COLOURS[arm], linewidth=2)
            axes.set_xticks(range(len(NAMES)), list(NAMES))
            axes.set_xlim(-0.6, len(NAMES) - 0.4)
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.tick_params(labelsize=8)
            axes.grid(axis="y", alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
            if condition == conditions[0]:
                axes.set_title(COLUMNS[name], fontsize=8.5)
        row[0].set_ylabel(described(condition).replace(", ", ",\n"), fontsize=8)
    figure.supxlabel("  ·  ".join(f"{arm}: {name}" for arm, name in NAMES.items()), fontsize=8)
    save(figure, path)


def draw_cells(results: dict[int, dict], condition: str, path: Path, alone: Path) -> None:
    """Accuracy of captions that are there by cell, mean over seeds, one heat map an arm: of full canvases into `path`,
    of pictures alone on theirs into `alone`, on one scale.
    """
    full, single = (cells_by_arm(results, condition, kind) for kind in ("arms", "alone"))
    probe_heatmaps(full, path, scaled_with=single)
    probe_heatmaps(single, alone, scaled_with=full)


def cells_by_arm(results: dict[int, dict], condition: str, kind: str) -> list[Panel]:
    panels = []
    for arm, name in NAMES.items():
        runs = [found[kind][arm]["positives"] for found in in_condition(results, condition)]
        cells = np.mean(np.array(runs, float), axis=0)
        cells = cells.reshape(2 * (math.isqrt(cells.size),))
        where = "full canvases" if kind == "arms" else "alone on the canvas"
        panels.append(Panel(f"{arm}: {name}", f"{where}: mean {cells.mean():.2f} %, {len(runs)} seeds", cells))
    return panels


def draw_flow(results: dict[int, dict], condition: str, path: Path) -> None:
    """The attention to every patch, mean over seeds, one map an arm."""
    maps = []
    for arm, name in NAMES.items():
        found = [found["flow"][arm]["map"] for found in in_condition(results, condition)]
        maps.append((f"{arm}: {name}", np.mean(found, axis=0)))
    save(map_figure(maps, "attention of a patch, % of all"), path)
