"""Maps of any grid beside each other with one scale of colours, and numbers by layer below them."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from eval.heatmaps import fit

WIDTH, HEIGHT, LAYERS_HEIGHT = 3.4, 3.9, 2.4  # inches of a map's part, of the row of maps, of the row of curves
INK, QUIET = "#1a1a1a", "#5f5f5f"
COLOURS = ("#1f5a9e", "#c2571a", "#3f8f5b", "#7b4ea3")


def map_figure(
    maps: Sequence[tuple[str, np.ndarray]],
    scale: str,
    layers: Sequence[tuple[str, dict[str, np.ndarray]]] = (),
    titles: dict[str, str] | None = None,
    columns: int | None = None,
    notes: Sequence[str] = (),
    norm: Normalize | None = None,
) -> Figure:
    """(title, (rows, columns)) maps in a row, or `columns` to a row; `scale` says what the colours are.

    `norm` is theirs; None: `scale_of` them. `notes` stand under the maps, behind their numbers of patches. `layers`
    holds (label, name -> (layers,)) curves, drawn in one small plot per name of `titles`.
    """
    columns = columns or len(maps)
    maps_height = HEIGHT * (len(maps) // columns)
    height = maps_height + (LAYERS_HEIGHT if layers else 0)
    figure = Figure(figsize=(WIDTH * max(columns, 2 if layers else 1), height), facecolor="white", layout="constrained")
    heights = [maps_height, LAYERS_HEIGHT][: 1 + bool(layers)]
    above, *below = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    norm = norm or scale_of(maps)
    axes = above.subplots(len(maps) // columns, columns, squeeze=False).ravel()
    for one, (title, values), note in zip(axes, maps, notes or [""] * len(maps), strict=True):
        picture = one.imshow(values, cmap=colormaps["YlGnBu"], norm=norm, interpolation="nearest")
        one.set_title(title, fontsize=fit(title, 11), color=INK, weight="bold", parse_math=False)
        below_map = f"{values.shape[0]} x {values.shape[1]} patches" + (f", {note}" if note else "")
        one.set_xlabel(below_map, fontsize=8, color=QUIET)
        one.set(xticks=[], yticks=[])
    several = len(maps) > columns  # rows: they fill the figure's width, and the bar must not touch its edges
    bar = above.colorbar(picture, ax=list(axes), orientation="horizontal", shrink=0.9 if several else 1.0,
                         fraction=0.05, pad=0.03, aspect=40)  # fmt: skip
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, length=2, color=QUIET, labelcolor=INK)
    bar.set_label(scale, fontsize=8.5, color=INK)
    if layers:
        _curves(below[0], layers, titles)
    return figure


def scale_of(maps: Sequence[tuple[str, np.ndarray]]) -> Normalize:
    """From 0, or the smallest value if that is less, to the largest."""
    return Normalize(min(0.0, *(one.min() for _, one in maps)), max(one.max() for _, one in maps))


def curve_figure(layers: Sequence[tuple[str, dict[str, np.ndarray]]], name: str, title: str) -> Figure:
    """The numbers `name` of `layers`, as in `map_figure`, in a plot of their own, as wide as a map."""
    figure = Figure(figsize=(WIDTH, LAYERS_HEIGHT), facecolor="white", layout="constrained")
    axes = figure.subplots()
    _plot(axes, layers, name, title)
    axes.legend(fontsize=7, frameon=False)
    return figure


def _curves(figure, layers, titles: dict[str, str]) -> None:
    for one, (name, title) in zip(figure.subplots(1, len(titles), squeeze=False)[0], titles.items(), strict=True):
        _plot(one, layers, name, title)
    one.legend(fontsize=7, frameon=False)


def _plot(axes: Axes, layers, name: str, title: str) -> None:
    for (label, numbers), colour in zip(layers, COLOURS * len(layers), strict=False):
        places = np.arange(1, len(numbers[name]) + 1)
        axes.plot(places, numbers[name], color=colour, label=label, marker="o", markersize=2.5, linewidth=1.2)
    axes.set_title(title, fontsize=8.5, color=INK)
    axes.set_xlabel("layer", fontsize=8, color=QUIET)
    axes.tick_params(labelsize=7, color=QUIET)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.get_major_locator().set_params(integer=True)
