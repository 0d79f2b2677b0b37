"""Probe canvases: where the cells lie, how a picture is read and fitted, and how canvases are drawn.

Layouts:

- paper: the canvas of arXiv 2509.21984, as measured on nine canvases that its authors published: 800 px a side with 3x3
  cells of 256 px, 8 px between them and around them, enlarged to 840 px, which puts the cells at 8.4 to 277.2, 285.6 to
  554.4 and 562.8 to 831.6 px; JPEG of quality 75, 4:2:0. What they enlarged with is not known: here it is bicubic,
  Pillow's default. Other grids have the same gaps and borders and the largest cells that fit.
- even: cells that end on whole pixels of a canvas of any size (840 px: cells of 272 px, 4 px apart, 8 px around them;
  JPEG of quality 95). Once the default; all published results of the miniature are of it.
"""

import warnings
from io import BytesIO
from typing import NamedTuple

from PIL import Image

from data import pictures
from data.pictures import open_rgb, picture_size
from models.errors import InputError

ENLARGING = Image.Resampling.BICUBIC
RESAMPLING = Image.Resampling.LANCZOS
LARGEST_CANVAS = 65_500  # px; the most that JPEG can hold


class Layout(NamedTuple):
    """A square canvas of `grid * grid` square cells, in pixels; `border` is the left and the top one.

    It is drawn so, and then scaled to `enlarged` pixels a side, if given. Its file is a JPEG of `quality`.
    """

    grid: int
    canvas: int
    cell: int
    gap: int
    border: int
    enlarged: int | None = None
    quality: int = 95


class PictureError(ValueError):
    """A picture cannot be used. The message is the reason, one word: `undecodable` or `too_small`."""


def paper_layout(grid: int) -> Layout:
    """The paper's layout, with another grid if need be; see the module. Raises InputError for a bad grid."""
    return make_layout(grid, 800, None, 8, 8)._replace(enlarged=840, quality=75)


def make_layout(grid: int, canvas: int, cell: int | None, gap: int, border: int) -> Layout:
    """An even layout of these sizes (pixels).

    A given `cell` must fill the canvas exactly. Without one, the cells are the largest that fit, and the
    pixels that they leave over widen the border (the odd one goes to the right and the bottom). Raises
    InputError, which names the flags, for sizes that do not go together.
    """
    if not 2 <= grid <= 6:
        raise InputError(f"--grid {grid}: must be 2 to 6")
    if not 1 <= canvas <= LARGEST_CANVAS:
        raise InputError(f"--canvas {canvas}: must be 1 to {LARGEST_CANVAS} px")
    if gap < 0 or border < 0:
        raise InputError(f"--gap {gap} --border {border}: must not be negative")
    room = canvas - 2 * border - (grid - 1) * gap
    if room < grid:
        raise InputError(
            f"--canvas {canvas}: no room for {grid}x{grid} cells beside --border {border} and --gap {gap}; "
            "raise --canvas or lower the others"
        )
    if cell is None:
        return Layout(grid, canvas, room // grid, gap, border + room % grid // 2)
    if cell * grid != room:
        raise InputError(
            f"--cell {cell}: 2*border + grid*cell + (grid-1)*gap is {canvas - room + grid * cell} px, "
            f"not --canvas {canvas}; leave --cell out for the largest cells that fit ({room // grid})"
        )
    return Layout(grid, canvas, cell, gap, border)


def cell_corners(layout: Layout) -> list[tuple[int, int]]:
    """Left and top (pixels) of every cell, row-major."""
    starts = [layout.border + index * (layout.cell + layout.gap) for index in range(layout.grid)]
    return [(left, top) for top in starts for left in starts]


def decode(content: bytes, side: int, min_side: int = 1) -> Image.Image:
    """The picture in `content` (a JPEG, PNG, WebP, ... file), upright and RGB (data/pictures.py).

    A JPEG much larger than `side` px is decoded at a fraction of its size (never below twice `side`), which
    is all that fitting it into such a square needs. Raises PictureError if Pillow cannot decode the picture,
    if it is large enough for a decompression bomb, if it has no reading in RGB, or if its shorter side is below
    `min_side` px.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            size = picture_size(content)
            picture = open_rgb(content, draft=(2 * side, 2 * side))
        except pictures.PictureError as error:
            raise PictureError("undecodable") from error
    if min(size) < min_side:
        raise PictureError("too_small")
    return picture


def fit(picture: Image.Image, side: int) -> Image.Image:
    """`picture` scaled, up or down, so that its longer side is `side` px; its aspect is kept."""
    scale = side / max(picture.size)
    size = tuple(max(1, round(length * scale)) for length in picture.size)
    return picture.resize(size, RESAMPLING)


def draw_canvas(layout: Layout, target: Image.Image, distractors: list[Image.Image], k: int) -> Image.Image:
    """A white RGB canvas: `target` in row-major cell `k`, the `distractors`, in order, in the other cells.

    The pictures are already fitted (`fit`) and stand in the middle of their cells. Fewer distractors than
    cells leave the last cells white: none gives the canvas of the similarity study.
    """
    cells = list(range(layout.grid**2))
    cells = [cells.pop(k), *cells]
    return draw_cells(layout, dict(zip(cells, [target, *distractors], strict=False)))


def move_target(
    canvas: Image.Image, layout: Layout, target: Image.Image, distractors: list[Image.Image], k: int
) -> None:
    """Make the `draw_canvas` of target cell `k` - 1 that of `k`, in place: target and one distractor change cells."""
    corners = cell_corners(layout)
    for cell in (k - 1, k):
        left, top = corners[cell]
        canvas.paste("white", (left, top, left + layout.cell, top + layout.cell))
    paste_cell(canvas, layout, target, corners[k])
    if k - 1 < len(distractors):
        paste_cell(canvas, layout, distractors[k - 1], corners[k - 1])


def draw_cells(layout: Layout, pictures: dict[int, Image.Image]) -> Image.Image:
    """A white RGB canvas with fitted `pictures` in the middle of their cells (row-major number -> picture)."""
    canvas = Image.new("RGB", (layout.canvas, layout.canvas), "white")
    corners = cell_corners(layout)
    for cell, picture in pictures.items():
        paste_cell(canvas, layout, picture, corners[cell])
    return canvas


def paste_cell(canvas: Image.Image, layout: Layout, picture: Image.Image, corner: tuple[int, int]) -> None:
    """Put a fitted picture into the middle of the cell whose left top `corner` is given."""
    left, top = corner
    canvas.paste(picture, (left + (layout.cell - picture.width) // 2, top + (layout.cell - picture.height) // 2))


def encode(canvas: Image.Image, layout: Layout) -> bytes:
    """A drawn `canvas`, enlarged if its layout is, as a JPEG file of 4:2:0.

    The same pixels always give the same bytes (with one version of Pillow).
    """
    if layout.enlarged is not None:
        canvas = canvas.resize((layout.enlarged, layout.enlarged), ENLARGING)
    buffer = BytesIO()
    canvas.save(buffer, "JPEG", quality=layout.quality, subsampling="4:2:0")
    return buffer.getvalue()
