"""Maps of any grid laid onto another."""

import numpy as np


def lay(maps: np.ndarray, side: int) -> np.ndarray:
    """Maps, (..., rows, columns), on a square grid of `side`: what a patch holds is spread over the area it covers."""
    rows, columns = overlaps(maps.shape[-2], side), overlaps(maps.shape[-1], side)
    return rows @ maps @ columns.T


def overlaps(old: int, new: int) -> np.ndarray:
    """Which share of each of `old` equal stretches lies in each of `new`: (new, old), columns sum to 1."""
    starts, ends = np.arange(old) / old, np.arange(1, old + 1) / old
    low, high = np.arange(new)[:, None] / new, np.arange(1, new + 1)[:, None] / new
    return np.clip(np.minimum(ends, high) - np.maximum(starts, low), 0, None) * old
