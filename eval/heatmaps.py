"""Pictures of results. Every function draws what it is given and writes one whole file: png, pdf or svg by suffix.

from eval.heatmaps import Panel, probe_heatmaps
probe_heatmaps([Panel("off", "mean 82.49 %", cells)], "heatmap.png")
"""

import io
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from data.files import write_atomic
from data.grid import cell_names
from models.errors import InputError

PANEL_WIDTH, PANEL_HEIGHT, DPI = 3.4, 4.3, 200  # inches, inches, dots per inch of a PNG
SUFFIXES = (".png", ".pdf", ".svg")
# Both maps keep their order in every common form of colour blindness (ColorBrewer).
_SEQUENTIAL, _DIVERGING = "YlGnBu", "PuOr"
_SMALLEST_SPAN = 5.0  # percent; noise of a point must not look like the whole scale
_INK, _QUIET = "#1a1a1a", "#5f5f5f"
# A field without data, and what is written on it.
NO_DATA = {"facecolor": "#f2f2f2", "edgecolor": "#cccccc", "hatch": "////", "linewidth": 0}
NO_DATA_TEXT = {"color": _QUIET, "bbox": {"facecolor": "#f2f2f2", "linewidth": 0, "pad": 1.5}}


@dataclass(frozen=True)
class Panel:
    """One heat map: `cells` is (grid, grid), NaN where there is no data; row 0 is the top.

    `notes` are the small lines under the values, row-major. Panels of one `scale`, what is measured and its unit, share
    their colours. A `diverging` panel holds signed differences, its colours centred at 0.
    """

    title: str
    subtitle: str
    cells: np.ndarray
    notes: Sequence[str] = ()
    diverging: bool = False
    scale: str = ""

    @property
    def legend(self) -> str:
        """What is written under the colours: without a `scale`, that of accuracies."""
        return self.scale or ("difference, percentage points" if self.diverging else "accuracy, %")


def check_suffix(path: str | os.PathLike) -> None:
    """Raise InputError unless `path` ends in a format that the plots can write."""
    if Path(path).suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: a picture's name must end in {', '.join(SUFFIXES)}")


def probe_heatmaps(panels: Sequence[Panel], path: str | os.PathLike, scaled_with: Sequence[Panel] = ()) -> None:
    """Draw heat maps of a grid's cells side by side and write them to `path` (atomically).

    Panels of one colour scale stand together, diverging ones last. `scaled_with` are panels of other pictures, whose
    scales these share. A PNG is PANEL_WIDTH * len(panels) by PANEL_HEIGHT inches at DPI. Raises InputError for a suffix
    other than png, pdf and svg, and for a path that cannot be written.
    """
    check_suffix(path)
    with _our_style():
        figure = _draw(panels, scaled_with)
    save(figure, path)


def save(figure: Figure, path: str | os.PathLike) -> None:
    """Write a figure to `path` (atomically), as png, pdf or svg by suffix; equal figures give equal files.

    Raises InputError for another suffix and for a path that cannot be written.
    """
    check_suffix(path)
    kind = Path(path).suffix.lower().lstrip(".")
    # A date in the file would make two equal pictures differ.
    undated = {"png": None, "pdf": {"CreationDate": None}, "svg": {"Date": None}}[kind]
    content = io.BytesIO()
    with _our_style():
        figure.savefig(content, format=kind, dpi=DPI, metadata=undated)
    write_atomic(path, content.getvalue())


def _our_style() -> AbstractContextManager:
    """The user's own matplotlibrc must not change a published figure; a fixed salt keeps the ids of an SVG the same."""
    return matplotlib.style.context(["default", {"svg.hashsalt": "bapa", "pdf.fonttype": 42}])


def _draw(panels: Sequence[Panel], scaled_with: Sequence[Panel]) -> Figure:
    width = PANEL_WIDTH * len(panels)
    figure = Figure(figsize=(width, PANEL_HEIGHT), facecolor="white")
    scaled = [*panels, *scaled_with]
    scales = {panel.legend: _scale([other for other in scaled if other.legend == panel.legend]) for panel in panels}
    for index, panel in enumerate(panels):
        left = (index + 0.05) * PANEL_WIDTH / width
        side = 0.9 * PANEL_WIDTH
        axes = figure.add_axes((left, 0.66 / PANEL_HEIGHT, side / width, side / PANEL_HEIGHT))
        _draw_panel(axes, panel, *scales[panel.legend])
    for legend, (colours, norm) in scales.items():
        members = [index for index, panel in enumerate(panels) if panel.legend == legend]
        _draw_scale(figure, members, len(panels), ScalarMappable(norm, colours), legend)
    return figure


def _scale(panels: Sequence[Panel]) -> tuple[Colormap, Normalize]:
    values = np.concatenate([panel.cells.ravel() for panel in panels])
    values = values[np.isfinite(values)]
    if panels[0].diverging:
        limit = max(_SMALLEST_SPAN / 2, np.abs(values).max(initial=0))
        return matplotlib.colormaps[_DIVERGING], Normalize(-limit, limit)
    low, high = (np.floor(values.min()), np.ceil(values.max())) if values.size else (0.0, 100.0)
    if high - low < _SMALLEST_SPAN:
        low = np.floor((low + high - _SMALLEST_SPAN) / 2)
        low = min(max(0.0, low), 100 - _SMALLEST_SPAN) if values.min() >= 0 else low
        high = low + _SMALLEST_SPAN
    return matplotlib.colormaps[_SEQUENTIAL], Normalize(low, high)


def _draw_panel(axes: Axes, panel: Panel, colours: Colormap, norm: Normalize) -> None:
    grid = len(panel.cells)
    shrink = min(1.0, (3 / grid) ** 0.75)
    form = ("{:+.2f}" if panel.diverging else "{:.2f}") if grid <= 4 else ("{:+.1f}" if panel.diverging else "{:.1f}")
    for index, (value, name) in enumerate(zip(panel.cells.ravel(), cell_names(grid), strict=True)):
        row, column = divmod(index, grid)
        box, middle = ((column, row), 1, 1), column + 0.5
        name = name.replace("_", " ").replace("row", "r").replace("col", "c")
        style = {"ha": "center", "va": "center"}
        if np.isfinite(value):
            fill = colours(norm(value))
            style["color"] = _contrasting(fill)
            axes.add_patch(Rectangle(*box, facecolor=fill, linewidth=0))
            axes.text(middle, row + 0.5, _minus(form.format(value)), fontsize=15 * shrink, **style)
            if panel.notes and grid <= 3:
                note = _minus(panel.notes[index])
                axes.text(middle, row + 0.81, note, fontsize=7.5 * min(1, 15 / max(1, len(note))), **style)
        else:
            style |= NO_DATA_TEXT
            axes.add_patch(Rectangle(*box, **NO_DATA))
            axes.text(middle, row + 0.5, "no data", fontsize=9 * shrink, **style)
        axes.text(middle, row + 0.17, name, fontsize=max(6, 7.5 * shrink), **style)
        axes.add_patch(Rectangle(*box, facecolor="none", edgecolor="white", linewidth=2))
    axes.set(xlim=(0, grid), ylim=(grid, 0))
    axes.set_axis_off()
    heading = {"transform": axes.transAxes, "ha": "center", "parse_math": False}
    axes.text(0.5, 1.11, panel.title, fontsize=fit(panel.title, 13), color=_INK, weight="bold", **heading)
    axes.text(0.5, 1.035, panel.subtitle, fontsize=fit(panel.subtitle, 9.5), color=_QUIET, **heading)


def _minus(text: str) -> str:
    """With true minus signs, which are as wide as a plus."""
    return text.replace("-", "\N{MINUS SIGN}")


def fit(text: str, size: float) -> float:
    """The font size in points, not above `size`, at which `text` fits over a panel."""
    average_letter = 0.68
    return min(size, 0.92 * PANEL_WIDTH * 72 / (average_letter * max(1, len(text))))


def _draw_scale(figure: Figure, members: list[int], panels: int, mappable: ScalarMappable, legend: str) -> None:
    """One horizontal colour bar under the panels that it belongs to."""
    start, end = (members[0] + 0.05) / panels, (members[-1] + 0.95) / panels
    length = min(end - start, 0.9 / panels)
    axes = figure.add_axes(((start + end - length) / 2, 0.47 / PANEL_HEIGHT, length, 0.11 / PANEL_HEIGHT))
    bar = figure.colorbar(mappable, cax=axes, orientation="horizontal", ticks=MaxNLocator(6))
    bar.outline.set_visible(False)
    axes.tick_params(labelsize=8, length=2, color=_QUIET, labelcolor=_INK, pad=2)
    axes.set_xlabel(legend, fontsize=8.5, color=_INK, labelpad=2)


def _contrasting(fill: tuple[float, ...]) -> str:
    """Black or white, whichever has the higher contrast ratio on `fill` (WCAG 2.1, relative luminance)."""
    channels = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in fill[:3]]
    luminance = np.dot(channels, (0.2126, 0.7152, 0.0722))
    return "white" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else "black"
