"""A map of squares drawn over the picture that it is of."""

import io
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from data.files import write_atomic
from data.pictures import open_rgb, read_file

STRONGEST = 0.75  # opacity of the map's largest value
SOFTWARE = "BaPA eval/perception.py"  # in each overlay, so that only these are ever removed
PALENESS = 0.7  # what is left of the picture's contrast


def write_overlay(picture: Path, values: list[list[float | None]], path: Path) -> None:
    """Write the picture, pale and grey, with `values` (rows, columns; None: nothing) over it in red, as a PNG."""
    shown = open_rgb(read_file(picture))
    grey = np.asarray(shown.convert("L"), float)[..., None].repeat(3, axis=2)
    grey = 255 - PALENESS * (255 - grey)
    map_ = np.array([[0.0 if value is None else value for value in row] for row in values])
    map_ = map_ / (map_.max() or 1.0)
    tall, wide = -(-grey.shape[0] // len(map_)), -(-grey.shape[1] // map_.shape[1])

    def laid(values: np.ndarray) -> np.ndarray:  # squares of the map over the pixels that they cover
        return values.repeat(tall, 0).repeat(wide, 1)[: grey.shape[0], : grey.shape[1]]

    colour = laid(255 * colormaps["YlOrRd"](map_)[..., :3])
    opacity = laid(STRONGEST * np.sqrt(map_)[..., None])  # small values are to be seen, and the picture below them
    blended = Image.fromarray((grey * (1 - opacity) + colour * opacity).astype(np.uint8))
    content, made_by = io.BytesIO(), PngInfo()
    made_by.add_text("Software", SOFTWARE)
    blended.save(content, "PNG", pnginfo=made_by)
    write_atomic(path, content.getvalue())


def is_overlay(path: Path) -> bool:
    """Whether a file is what `write_overlay` wrote, and no one's own picture."""
    try:
        with Image.open(path) as image:
            return image.info.get("Software") == SOFTWARE
    except (OSError, ValueError, Image.DecompressionBombError):
        return False
