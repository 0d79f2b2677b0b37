"""Drawn pictures for tests."""

import numpy as np
from PIL import Image


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Noise over a colour gradient: no two seeds alike."""
    rng = np.random.default_rng([seed, width, height])
    ramp = np.linspace(0, 120, width)[None, :, None] * rng.random(3)
    return Image.fromarray((ramp + rng.integers(0, 130, (height, width, 3))).astype(np.uint8))
