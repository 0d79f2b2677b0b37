"""Pictures that stand inside a page: figures as SVG that follow its light or dark theme, canvases as small JPEGs."""

import base64
import io
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from data.pictures import open_rgb
from eval.heatmaps import Panel, probe_heatmaps, save
from eval.reporting.parts import Picture

SMALL = 300  # px, longer side of a canvas
PIXELS_PER_POINT = 96 / 72
# What eval/heatmaps.py and eval/map_figure.py draw with, and what takes its place on a dark page. Colours of data stay.
DARK = {
    "fill: #1a1a1a": "fill: #ececf1",
    "fill: #5f5f5f": "fill: #a9a9b4",
    "stroke: #5f5f5f": "stroke: #a9a9b4",
    "stroke: #000000": "stroke: #a9a9b4",
    "stroke: #1f5a9e": "stroke: #74b0f4",
    "fill: #1f5a9e": "fill: #74b0f4",
    "stroke: #c2571a": "stroke: #f0a06a",
    "fill: #c2571a": "fill: #f0a06a",
    "fill: #f2f2f2": "fill: #2c2c35",  # a field without data
    "stroke: #cccccc": "stroke: #45454f",  # and its hatch
}


def drawn(draw: Callable[[str], object], alt: str) -> Picture:
    """The picture that `draw` writes to the path it is given."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figure.svg"
        draw(str(path))
        svg = path.read_text(encoding="utf-8")
    return figure_picture(svg, alt)


def saved(figure: Figure, alt: str) -> Picture:
    """A figure of matplotlib's as a picture."""
    return drawn(lambda path: save(figure, path), alt)


def heatmap_pictures(panels: list[Panel], alts: list[str]) -> list[Picture]:
    """Heat maps, each a picture of its own, panels of one legend on one scale."""
    return [
        drawn(lambda path, panel=panel: probe_heatmaps([panel], path, scaled_with=panels), alt)
        for panel, alt in zip(panels, alts, strict=True)
    ]


def figure_picture(svg: str, alt: str) -> Picture:
    """An SVG of matplotlib's as a picture that turns dark with the page."""
    width = float(re.search(r'<svg [^>]*?width="([\d.]+)pt"', svg)[1])
    themed = svg.replace("</style>", f"</style><style>{_dark_rules()}</style>", 1)
    return Picture(_data_uri(themed.encode(), "image/svg+xml"), alt, round(width * PIXELS_PER_POINT))


def canvas_picture(stored: bytes, alt: str) -> Picture:
    """A canvas, made small. Raises PictureError, a ValueError, for what is no picture."""
    small = open_rgb(stored)
    small.thumbnail((SMALL, SMALL), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    small.save(content, "JPEG", quality=80, optimize=True)
    return Picture(_data_uri(content.getvalue(), "image/jpeg"), alt, small.width)


def _dark_rules() -> str:
    rules = ['#patch_1 path, [id^="axes"] > [id^="patch"] > path[style^="fill: #ffffff"] { fill: none !important }']
    # Text without a colour of its own is black: on the fields of a heat map rightly, but not beside them.
    rules += ['[id^="matplotlib.axis"], [id^="legend"] { fill: #a9a9b4 }']
    rules += [f'[style*="{old}"] {{ {new} !important }}' for old, new in DARK.items()]
    rules += ['[fill="#f2f2f2"] { fill: #2c2c35 }']  # below the hatch, where matplotlib writes no style
    return f"@media (prefers-color-scheme: dark) {{ {' '.join(rules)} }}"


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
