"""The arithmetic of the spatial probe: from scored replies to numbers, their intervals, and their nulls.

Terms. A *caption* is one caption with its pictures, one per cell (nine in the paper); it is the unit that is
drawn at random, so it is the cluster of every interval. A *positive* asks about a caption that is on the
canvas (answer "Yes"), a *negative* about one that is not ("No"). A reply that cannot be read is wrong
whatever the answer.

Units. Shares are in percent (0 to 100), spreads in percentage points, variances in percent^2, as published;
d' has no unit. A number that the data cannot give (negatives missing, no complete caption) is NaN.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri
from scipy.stats import binomtest

YES, NO, UNREADABLE = 1, 0, -1
# Numbers that take a spread or an extreme over cells, and so hold noise. No interval that was tried covers for them;
# `variance_corrected` has one.
NO_INTERVAL = ("variance", "std", "cv", "gap", "relative_gap", "worst")
_CHUNK_ENTRIES = 1_000_000


@dataclass(frozen=True)
class Replies:
    """The scored rows of one answers file; every array has one entry per row."""

    caption: np.ndarray  # int, index of the row's caption, 0..captions-1
    cell: np.ndarray  # int, row-major cell of the target, 0..cells-1
    positive: np.ndarray  # bool, is the answer "Yes"?
    reply: np.ndarray  # int, YES, NO or UNREADABLE
    captions: int
    cells: int

    @property
    def correct(self) -> np.ndarray:
        """(rows,) bool."""
        return self.reply == self.positive


def count_by_caption(replies: Replies, pool_answers: bool = False) -> dict[str, np.ndarray]:
    """What every number is made of: arrays (captions, cells) or (captions, 1) that are summed over captions.

    `pool_answers` counts negatives into the accuracy of a cell, as the paper's scorer does; by default the
    accuracy of a cell is that of its positives. Consistency always looks at positives, and only at captions
    that have exactly one positive in every cell.
    """

    def count(rows: np.ndarray) -> np.ndarray:
        index = replies.caption[rows] * replies.cells + replies.cell[rows]
        counts = np.bincount(index, minlength=replies.captions * replies.cells)
        return counts.reshape(replies.captions, replies.cells).astype(float)

    positive, correct = replies.positive, replies.correct
    counted = {
        "positives": count(positive),
        "positives_correct": count(positive & correct),
        "negatives": count(~positive),
        "negatives_correct": count(~positive & correct),
        "false_alarms": count(~positive & (replies.reply == YES)),
        "yes": count(replies.reply == YES),
        "unreadable": count(replies.reply == UNREADABLE),
    }
    counted["rows"] = counted["positives"] + counted["negatives"]
    counted["correct"] = counted["positives_correct"] + counted["negatives_correct"]
    counted["judged"] = counted["rows"] if pool_answers else counted["positives"]
    counted["judged_correct"] = counted["correct"] if pool_answers else counted["positives_correct"]

    complete = (counted["positives"] == 1).all(axis=1)
    outcomes = [count(positive & (replies.reply == outcome)).sum(axis=1) for outcome in (YES, NO, UNREADABLE)]
    pairs = replies.cells * (replies.cells - 1)
    agreeing = sum(outcome * (outcome - 1) for outcome in outcomes) / pairs
    per_caption = {
        "complete": complete,
        "all_correct": complete & (counted["positives_correct"] == 1).all(axis=1),
        "same": complete & (np.max(outcomes, axis=0) == replies.cells),
        "disagreement": complete * (1 - agreeing),
    }
    return counted | {name: values[:, None].astype(float) for name, values in per_caption.items()}


def numbers(sums: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every number, from the sums over captions of `count_by_caption`.

    `sums`: arrays (samples, cells) or (samples, 1). Returns arrays (samples,), and (samples, cells) for the
    names that start with `cell_`. Spread is taken over the cells that have data.

    - `variance` is the population variance over cells in percent^2, `std` its root, `cv` = std / mean. They hold
      the noise of a finite file: see `variance_noise` for `variance_corrected`.
    - `gap` = best cell - worst cell, `relative_gap` = 1 - worst / best.
    - `consistency`: share of complete captions right in every cell. `flip`: share whose replies are not all
      equal (yes, no and unreadable are three replies), `same` the rest. `disagreement`: share of pairs of
      cells with unequal replies, averaged over captions. A model that always says the same never flips: read
      `flip` beside balanced accuracy.
    - `balanced_accuracy` of a cell is the mean of its accuracy on positives and on negatives.
    - `d_prime` of a cell is z(hit rate) - z(false-alarm rate) with the log-linear correction
      (count + 0.5) / (n + 1) of Hautus (1995), "Corrections for extreme proportions and their biasing effects
      on estimated values of d'". A hit is a positive answered Yes, a false alarm a negative answered Yes; n counts
      all their rows, so that who cannot be read has neither and a d' of 0.
    - `balanced_accuracy` and `d_prime` of the file are means over cells.
    """
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.filterwarnings("ignore", "Mean of empty slice|All-NaN|Degrees of freedom", RuntimeWarning)
        total = {name: values.sum(axis=1) for name, values in sums.items()}
        cell = 100 * sums["judged_correct"] / sums["judged"]
        mean, variance = np.nanmean(cell, axis=1), np.nanvar(cell, axis=1)
        best, worst = np.nanmax(cell, axis=1), np.nanmin(cell, axis=1)
        cell_negative = 100 * sums["negatives_correct"] / sums["negatives"]
        cell_balanced = (100 * sums["positives_correct"] / sums["positives"] + cell_negative) / 2
        cell_d_prime = _d_prime(sums)
        return {
            "accuracy": 100 * total["correct"] / total["rows"],
            "mean": mean,
            "variance": variance,
            "std": np.sqrt(variance),
            "cv": 100 * np.sqrt(variance) / mean,
            "gap": best - worst,
            "relative_gap": 100 * (1 - worst / best),
            "worst": worst,
            "consistency": 100 * total["all_correct"] / total["complete"],
            "same": 100 * total["same"] / total["complete"],
            "flip": 100 * (1 - total["same"] / total["complete"]),
            "disagreement": 100 * total["disagreement"] / total["complete"],
            "negative_accuracy": 100 * total["negatives_correct"] / total["negatives"],
            "balanced_accuracy": np.nanmean(cell_balanced, axis=1),
            "d_prime": np.nanmean(cell_d_prime, axis=1),
            "yes_rate": 100 * total["yes"] / total["rows"],
            "cell_accuracy": cell,
            "cell_negative_accuracy": cell_negative,
            "cell_balanced_accuracy": cell_balanced,
            "cell_d_prime": cell_d_prime,
        }


def _d_prime(sums: dict[str, np.ndarray]) -> np.ndarray:
    """(samples, cells); NaN where a cell has no positives or no negatives."""
    positives, negatives = sums["positives"], sums["negatives"]
    hit_rate = (sums["positives_correct"] + 0.5) / (positives + 1)
    false_alarm_rate = (sums["false_alarms"] + 0.5) / (negatives + 1)
    return np.where((positives > 0) & (negatives > 0), ndtri(hit_rate) - ndtri(false_alarm_rate), np.nan)


def point(counts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The numbers of the data themselves: scalars, and (cells,) for the names that start with `cell_`."""
    sums = {name: values.sum(axis=0, keepdims=True) for name, values in counts.items()}
    return {name: values[0] for name, values in numbers(sums).items()}


def bootstrap(counts: dict[str, np.ndarray], resamples: int, seed: int) -> dict[str, np.ndarray]:
    """The numbers of `resamples` files whose captions are drawn with replacement: arrays (resamples, ...).

    The draw depends on the seed and the number of captions only: two files with the same captions,
    bootstrapped with one seed, are resampled as pairs, and the difference of their samples is a paired
    sample. A resample holds the noise of the data once more, so its spreads lie higher than those of the data: those
    of NO_INTERVAL must not be made intervals of.
    """
    captions = len(counts["rows"])
    generator = np.random.default_rng(seed)
    chunk = max(1, _CHUNK_ENTRIES // captions)
    sums = {name: [values[:0]] for name, values in counts.items()}
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        drawn = generator.integers(captions, size=(size, captions)) + captions * np.arange(size)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=size * captions).reshape(size, captions).astype(float)
        for name, values in counts.items():
            sums[name].append(weights @ values)
    return numbers({name: np.concatenate(parts) for name, parts in sums.items()})


def interval(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95% percentile interval over axis 0, leaving NaN samples out; NaN where no sample is left."""
    if not len(samples):
        return (np.full(samples.shape[1:], np.nan),) * 2
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN", RuntimeWarning)
        low, high = np.nanpercentile(samples, (2.5, 97.5), axis=0)
    return low, high


def variance_noise(counts: dict[str, np.ndarray]) -> float:
    """How much the noise of a finite file adds to `variance` on average, percent^2; NaN with fewer than two captions.

    `variance` less this is `variance_corrected`, an estimate without bias of the variance of the true accuracies, which
    may be negative. With q_jk = (correct of caption j in cell k - accuracy of k * its rows) / all rows of k, and c_jk
    that less the mean of q_j over cells, it is sum(c_jk^2) / cells * captions / (captions - 1): where every caption
    has a row in every cell, the mean square of residuals of the two-way table, divided by captions.
    """
    rows, correct = counts["judged"], counts["judged_correct"]
    present, drawn = rows.any(axis=0), rows.any(axis=1)
    captions = int(drawn.sum())
    if captions < 2:
        return np.nan
    rows, correct = rows[drawn][:, present], correct[drawn][:, present]
    all_rows = rows.sum(axis=0)
    error = 100 * (correct - correct.sum(axis=0) / all_rows * rows) / all_rows
    error -= error.mean(axis=1, keepdims=True)
    return float((error**2).sum() / error.shape[1] * captions / (captions - 1))


def corrected_samples(values: dict[str, np.ndarray], samples: dict[str, np.ndarray], noise: float) -> np.ndarray:
    """(resamples,): what `variance_corrected` might have been, for its interval and that of a difference of two runs.

    `values` and `samples` are of `point` and `bootstrap`, `noise` of `variance_noise`. A resample takes the cells as
    they came out for the truth, whose spread holds noise, and adds noise once more. So percentiles of `variance` lie
    too high, by more the more noise there is, and of two runs the less accurate would seem the less even. Here the
    cells are first drawn together until their variance is `variance_corrected` (at one point if that is negative), each
    resample's errors are put on top, and the noise is taken off.

    Simulated with two runs of one true variance (300 to 500 files each of 30 and 200 captions, accuracies of 60 and
    95%, 90 and 60%, 80 and 82%, captions of one or of various difficulty), the 95% interval of the difference left out
    zero in 0 to 2.3% of files where positions make no difference and in 0 to 6% where they make the same to both;
    percentiles of `variance` did in up to 84%.
    """
    cells, variance = values["cell_accuracy"], float(values["variance"])
    corrected = variance - noise
    kept = max(corrected, 0.0) / variance if variance else 0.0
    centre = values["mean"]
    drawn_together = centre + np.sqrt(kept) * (cells - centre)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice|All-NaN|Degrees of freedom", RuntimeWarning)
        spreads = np.nanvar(drawn_together + samples["cell_accuracy"] - cells, axis=1)
    return spreads - noise + corrected - kept * variance


def null_spread(counts: dict[str, np.ndarray], resamples: int, seed: int) -> dict[str, np.ndarray]:
    """`gap` and `variance` over cells, (resamples,), of a model to which position makes no difference.

    Both are above zero by noise alone. Here the cells of every caption are shuffled (only among cells that
    have the same number of rows, so missing rows stay missing), which keeps how hard each caption is.
    """
    rows, correct = counts["judged"], counts["judged_correct"]
    generator = np.random.default_rng(seed)
    shuffled = np.tile(correct.sum(axis=0), (resamples, 1))
    patterns, pattern_of = np.unique(rows, axis=0, return_inverse=True)
    for index, pattern in enumerate(patterns):
        for size in np.unique(pattern[pattern > 0]):
            cells = np.flatnonzero(pattern == size)
            block = correct[pattern_of == index][:, cells].astype(np.int16)
            block = block[(block != block[:, :1]).any(axis=1)]
            if block.size:
                shuffled[:, cells] += _shuffle_rows(block, resamples, generator) - block.sum(axis=0)
    present = rows.any(axis=0)
    if not present.any():
        return {"gap": np.full(resamples, np.nan), "variance": np.full(resamples, np.nan)}
    accuracy = 100 * shuffled[:, present] / rows[:, present].sum(axis=0)
    return {"gap": np.ptp(accuracy, axis=1), "variance": np.var(accuracy, axis=1)}


def _shuffle_rows(block: np.ndarray, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """Column sums, (resamples, columns), of `block` with each row shuffled on its own, anew each time."""
    chunk = max(1, _CHUNK_ENTRIES // block.size)
    sums = [np.empty((0, block.shape[1]), np.int64)]
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        copies = np.broadcast_to(block, (size, *block.shape))
        sums.append(generator.permuted(copies, axis=2).sum(axis=1, dtype=np.int64))
    return np.concatenate(sums)


def p_value(observed: float, null: np.ndarray) -> float:
    """Share of the null at least as large as `observed`, the observation itself counted in: never 0."""
    return float((1 + np.sum(null >= observed - 1e-9)) / (1 + len(null)))


def mcnemar(first_correct: np.ndarray, second_correct: np.ndarray) -> dict[str, float]:
    """Exact two-sided McNemar test (McNemar 1947) of paired rows: the binomial test of the discordant ones.

    It takes rows as independent. Rows of one caption are not, so p is too small where captions differ in
    difficulty; the paired bootstrap over captions has no such flaw.
    """
    only_first = int(np.sum(first_correct & ~second_correct))
    only_second = int(np.sum(~first_correct & second_correct))
    discordant = only_first + only_second
    p = float(binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0
    return {"only_first_correct": only_first, "only_second_correct": only_second, "p": p}
