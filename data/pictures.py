"""Pictures as files hold them -> upright RGB: the one way in which training, evaluation and the builds show a picture.

Modes of 8 bits without transparency are as Pillow converts them. The others:

- turned by EXIF: upright, as transformers loads pictures;
- with transparency (an alpha channel, a transparent colour, a palette with either): on white;
- grey of 16 bits: 0 to 65,535 becomes 0 to 255 (of 12 bits, if the file says so: 0 to 4,095). A file of 16 bits does
  not say that its values come from a camera of 12; such a picture is dark, here as in a viewer;
- grey of 32-bit integers: as it is if all values are within 0 to 255, as 16 bits if within 0 to 65,535, else from its
  least value to its greatest; a file of 16-bit numbers with a sign is read so, too;
- grey of floats: 0 to 1 becomes 0 to 255; if a value is beyond, as it is if all are within 0 to 255, else from least
  to greatest;
- of a moving picture the first frame. Colour profiles are not applied, nor does transformers.

What has no such reading (values that are not finite, one value without a range) is a PictureError.
"""

import os
import re
import stat
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image

OPAQUE = 255
GREYS = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")  # Pillow's of more than 8 bits: it clips them in RGB
# Of TIFF: https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf
BITS, PHOTOMETRIC, SAMPLE_FORMAT, WHITE_IS_ZERO, UNSIGNED = 258, 262, 339, 0, 1
# EXIF's orientations -> what makes such a picture upright.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ON_ITS_SIDE = (5, 6, 7, 8)


class PictureError(ValueError):
    """A picture that cannot be read, or not be shown as it is. The message is a reason of one line."""


def read_file(path: str | os.PathLike) -> bytes:
    """The bytes of a picture's file. Raises PictureError for what is none: a FIFO would wait for its writer forever.

    A file that is missing or unreadable is a PictureError, too.
    """
    try:
        kind = os.stat(path).st_mode
        if not stat.S_ISREG(kind):
            raise PictureError("a folder, not a file" if stat.S_ISDIR(kind) else "a device or a pipe, not a file")
        return Path(path).read_bytes()
    except OSError as error:
        raise PictureError(error.strerror or str(error)) from None


def open_rgb(content: bytes, draft: tuple[int, int] | None = None) -> Image.Image:
    """The picture in `content` (a JPEG, PNG, TIFF, ... file), upright and RGB; see the module.

    `draft`: see `decoded`. Raises PictureError.
    """
    return to_rgb(decoded(content, draft))


def decoded(content: bytes, draft: tuple[int, int] | None = None) -> Image.Image:
    """The picture in `content`, decoded, as its file holds it. Raises PictureError if Pillow cannot.

    A JPEG may be decoded at a fraction of its size that is not below `draft` (width, height).
    """
    # A broken file raises whatever its decoder trips over, from OSError to struct.error.
    try:
        picture = Image.open(BytesIO(content))
        if draft is not None:
            picture.draft(None, draft)
        picture.load()
        return picture
    except Exception as error:
        raise PictureError(reason(error)) from None


def to_rgb(picture: Image.Image) -> Image.Image:
    """A decoded picture, upright and RGB; see the module. Raises PictureError for one that has no such reading."""
    try:
        turn = TURNS.get(picture.getexif().get(ExifTags.Base.Orientation))
        if picture.mode in GREYS:
            rgb = _grey(picture)
        elif picture.has_transparency_data:
            rgb = _on_white(picture)
        else:
            rgb = picture.convert("RGB")
        rgb.info = {}  # or what is upright would be turned again
        return rgb if turn is None else rgb.transpose(turn)
    except PictureError:
        raise
    except Exception as error:
        raise PictureError(reason(error)) from None


def picture_size(source: bytes | str | os.PathLike) -> tuple[int, int]:
    """(width, height) of the picture as `to_rgb` gives it, by its header alone. Raises PictureError."""
    return size_and_orientation(source)[0]


def size_and_orientation(source: bytes | str | os.PathLike) -> tuple[tuple[int, int], int]:
    """The upright (width, height), and EXIF's orientation of the pixels as stored: 1 to 8, 1 if it says none.

    Only the header is read. Raises PictureError.
    """
    try:
        with Image.open(_stream(source)) as picture:
            orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
            # Pillow has turned the size of a TIFF already, and turns its pixels as it reads them.
            turned = orientation in ON_ITS_SIDE and picture.format != "TIFF"
            size = picture.size[::-1] if turned else picture.size
    except PictureError:
        raise
    except Exception as error:
        raise PictureError(reason(error)) from None
    return size, orientation if orientation in TURNS else 1


def upright_box(box: list[float], size: tuple[int, int], orientation: int) -> list[float]:
    """A box (left, top, right, bottom) of the pixels as stored, in the picture as it is shown, of this (width, height).

    Left, top, right and bottom are places between pixels, from 0 to the side.
    """
    width, height = size
    corners = [_upright(x, y, width, height, orientation) for x, y in (box[:2], box[2:])]
    (left, right), (top, bottom) = (sorted(places) for places in zip(*corners, strict=True))
    return [left, top, right, bottom]


def _upright(x: float, y: float, width: int, height: int, orientation: int) -> tuple[float, float]:
    """Where a place of the stored pixels is in the upright picture: what EXIF says row 0 and column 0 are."""
    across, down = (y, x) if orientation in ON_ITS_SIDE else (x, y)
    if orientation in (2, 3, 6, 7):
        across = width - across
    if orientation in (3, 4, 7, 8):
        down = height - down
    return across, down


def reason(error: Exception) -> str:
    """Why a picture cannot be read, in one line that is the same in every run."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "no picture, or of a kind that Pillow does not read"
    told = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    return re.sub(r"<[^<>]* at 0x[0-9a-fA-F]+>", "the file", told)


def _stream(source: bytes | str | os.PathLike) -> BinaryIO | Path:
    if isinstance(source, bytes):
        return BytesIO(source)
    if not stat.S_ISREG(os.stat(source).st_mode):
        raise PictureError("not a file")
    return Path(source)


def _on_white(picture: Image.Image) -> Image.Image:
    colour = picture.info.get("transparency")
    if picture.mode in ("RGB", "L") and _is_wide(colour):
        # Of 16-bit samples Pillow keeps the upper halves, but not of the colour that stands for transparency.
        picture = picture.copy()
        picture.info["transparency"] = tuple(c >> 8 for c in colour) if isinstance(colour, tuple) else colour >> 8
    straight = {"La": "LA", "RGBa": "RGBA"}.get(picture.mode)
    layer = (picture.convert(straight) if straight else picture).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    white.alpha_composite(layer)
    return white.convert("RGB")


def _is_wide(colour: object) -> bool:
    values = colour if isinstance(colour, tuple) else (colour,)
    return all(isinstance(value, int) for value in values) and max(values) > OPAQUE


def _grey(picture: Image.Image) -> Image.Image:
    """A picture of one wide channel, by the rules of the module."""
    tags = getattr(picture, "tag_v2", {})
    values = np.asarray(picture)
    if picture.mode == "I" and tags.get(SAMPLE_FORMAT, (UNSIGNED,))[0] == UNSIGNED and tags.get(BITS) == (32,):
        values = values.view(np.uint32)  # Pillow reads numbers without a sign as if they had one
    values = values.astype(np.float64)
    low, high = _range(picture, values, 2.0 ** tags.get(BITS, (16,))[0] - 1)
    shown = (values - low) * (255 / (high - low))
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        shown = 255 - shown
    transparent = picture.info.get("transparency")
    if isinstance(transparent, int | float):
        shown[values == transparent] = 255
    return Image.fromarray(np.rint(shown).astype(np.uint8)).convert("RGB")


def _range(picture: Image.Image, values: np.ndarray, most: float) -> tuple[float, float]:
    """The values that become black and white; `most` is the greatest that 16 bits, or the file's bits, hold."""
    low, high = values.min(), values.max()
    if not np.isfinite([low, high]).all():
        raise PictureError("holds values that are not finite")
    if picture.mode.startswith("I;16"):
        return 0.0, most
    if picture.mode == "I" and picture.format in ("PPM", "PNG"):  # Pillow reads their samples of 16 bits into 32
        return 0.0, 65535.0
    for bound in (1.0, 255.0) if picture.mode == "F" else (255.0, 65535.0):
        if low >= 0 and high <= bound:
            return 0.0, bound
    if low == high:
        raise PictureError(f"all its values are {low:g}: they have no range to be shown in")
    return low, high
