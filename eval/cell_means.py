"""Means by cell of anything that is measured of a caption in every cell, with bootstrap intervals by caption."""

from dataclasses import dataclass

import numpy as np

from data.grid import cell_names
from eval.entries import entry, plain
from eval.heatmaps import Panel
from eval.probe_statistics import interval
from eval.resampling import resampled_sums


@dataclass(frozen=True)
class CellMeans:
    """What `cell_means` finds; `low` and `high` are the ends of 95% intervals, NaN without resamples."""

    mean: float
    low: float
    high: float
    spread: float  # standard deviation over cells; it holds the noise of a finite file
    cells: np.ndarray  # (cells,)
    cells_low: np.ndarray
    cells_high: np.ndarray

    def as_dict(self) -> dict:
        """For JSON."""
        names = cell_names(round(len(self.cells) ** 0.5))
        by_cell = zip(names, self.cells, self.cells_low, self.cells_high, strict=True)
        return {
            **entry(self.mean, self.low, self.high),
            "spread": plain(self.spread),
            "cells": [{"position": name, **entry(*numbers)} for name, *numbers in by_cell],
        }

    def panel(self, title: str, scale: str, diverging: bool = False) -> Panel:
        """A heat map with the intervals under the values."""
        side = round(len(self.cells) ** 0.5)
        notes = [
            f"[{low:.2f}, {high:.2f}]" if np.isfinite(low) else ""
            for low, high in zip(self.cells_low, self.cells_high, strict=True)
        ]
        subtitle = f"mean {self.mean:.2f}, spread over cells {self.spread:.2f}".replace("-", "\N{MINUS SIGN}")
        return Panel(title, subtitle, self.cells.reshape(side, side), notes, diverging, scale)


def cell_means(values: np.ndarray, resamples: int, seed: int) -> CellMeans:
    """Means over captions of `values`, (captions, cells), NaN where a caption was not measured in a cell.

    The mean of the file is that of its cells. With `resamples` 0, or one caption, there are no intervals.
    """
    resamples = resamples if len(values) > 1 else 0
    present = np.isfinite(values)
    known = np.where(present, values, 0.0)
    sums = resampled_sums(np.hstack([known, present]), resamples, seed)
    with np.errstate(invalid="ignore"):
        cells = sums[:, : values.shape[1]] / sums[:, values.shape[1] :]
    means = np.nanmean(cells, axis=1)
    low, high = interval(means[1:])
    cells_low, cells_high = interval(cells[1:])
    return CellMeans(means[0], low, high, float(np.nanstd(cells[0])), cells[0], cells_low, cells_high)
