"""The bootstrap of sums: what is drawn with replacement are captions, or items."""

import numpy as np

_CHUNK_ENTRIES = 10_000_000


def resampled_sums(values: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Sums over units of `values`, (units, numbers): of the data in row 0, then of each resample.

    (1 + resamples, numbers). The draw depends on the seed and the number of units only, so that runs over the same
    units are resampled as pairs.
    """
    units, generator = len(values), np.random.default_rng(seed)
    sums = [values.sum(0, keepdims=True)]
    chunk = max(1, _CHUNK_ENTRIES // units)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        sums.append(generator.multinomial(units, np.full(units, 1 / units), size=size) @ values)
    return np.concatenate(sums)
