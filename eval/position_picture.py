"""Draw what the flag changes: the positions of a short prompt with one image, flag off and on.

    python eval/position_picture.py --output docs/positions.png

The numbers come from models/positions.py, not from the drawing.
"""

import argparse

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from eval.heatmaps import check_suffix, save
from models.errors import ArgumentParser, run_script
from models.positions import balanced_position_ids

BEFORE, SIDE, AFTER = ["USER", ":"], 3, ["What", "is", "it", "?"]
INK, QUIET, TEXT_FILL = "#1a1a1a", "#5f5f5f", "#eeeeee"


def strip(axes: Axes, title: str, subtitle: str, positions: list[int]) -> None:
    """One prompt as a row of tokens: words grey, image tokens coloured by their distance to the word after them."""
    words = [*BEFORE, *[None] * SIDE**2, *AFTER]
    first_after = positions[len(BEFORE) + SIDE**2]
    farthest = SIDE**2
    for x, (word, position) in enumerate(zip(words, positions, strict=True)):
        distance = first_after - position
        fill = TEXT_FILL if word else colormaps["YlGnBu"](0.15 + 0.75 * (distance - 1) / (farthest - 1))
        dark = word is None and distance > 0.6 * farthest
        axes.add_patch(FancyBboxPatch((x + 0.09, 0.09), 0.82, 0.82, boxstyle="round,pad=0,rounding_size=0.1",
                                      facecolor=fill, linewidth=0))  # fmt: skip
        axes.text(x + 0.5, 0.5, str(position), ha="center", va="center", fontsize=14, weight="bold",
                  color="white" if dark else INK)  # fmt: skip
        label = word or f"patch {x - len(BEFORE) + 1}"
        axes.text(x + 0.5, -0.12, label, ha="center", va="top", fontsize=8, color=QUIET)
    axes.text(0.09, 1.62, title, fontsize=13, weight="bold", color=INK, va="center")
    axes.text(0.09, 1.22, subtitle, fontsize=9.5, color=QUIET, va="center")
    axes.set(xlim=(0, len(words)), ylim=(-0.5, 1.9), aspect="equal")
    axes.set_axis_off()


def draw(path: str) -> None:
    """Write the picture to `path`: png, pdf or svg."""
    image_ids = torch.tensor([[0] * len(BEFORE) + [1] * SIDE**2 + [0] * len(AFTER)])
    figure = Figure(figsize=(9.6, 3.3), facecolor="white")
    top, bottom = figure.subplots(2, 1, gridspec_kw={"left": 0.01, "right": 0.99, "top": 0.99, "bottom": 0.02})
    strip(
        top,
        '"position_balance": false',
        "the original model: patches stand at different distances from the question",
        balanced_position_ids(torch.zeros_like(image_ids))[0].tolist(),
    )
    strip(
        bottom,
        '"position_balance": true',
        "BaPA: all patches of an image share one position, the text goes on at the next",
        balanced_position_ids(image_ids)[0].tolist(),
    )
    save(figure, path)


def main(argv: list[str] | None = None) -> int:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--output", required=True, help="picture to write: .png, .pdf or .svg")
    arguments = parser.parse_args(argv)
    check_suffix(arguments.output)
    draw(arguments.output)
    return 0


if __name__ == "__main__":
    run_script(main)
