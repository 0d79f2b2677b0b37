"""Two ways to do the same work, timed in turns in one process, so that what slows the machine slows both."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from eval.speed.peak_memory import peak_bytes, reset_peak


@dataclass(frozen=True)
class Ratio:
    """The times of the first way over those of the second: the median over rounds, and all of them.

    `seconds` of both, the median, for `units` of work a round; `peaks`, bytes, of the first round, None where they are
    not known.
    """

    median: float
    rounds: list[float]
    seconds: tuple[float, float]
    units: int
    peaks: tuple[int | None, int | None]


def side_by_side(
    first: Callable[[int], list],
    second: Callable[[int], list],
    rounds: int,
    units: Callable[[list], int] = len,
    seconds_of: Callable[[list], float] | None = None,
    peak_of: Callable[[list], int | None] | None = None,
) -> tuple[Ratio, list[tuple[list, list]]]:
    """Time `first(round)` and `second(round)` alternately; the ratio, and what both returned in each round.

    Which one begins alternates, too. Nothing is warmed up: give a round 0 of other work where that matters.
    `seconds_of`, `peak_of`: what a way returned says how long the part took that counts, and what memory other
    processes held; else its whole time counts, and this process's memory.
    """
    timed, results = [], []
    peaks = {}
    for number in range(rounds):
        order = (first, second) if number % 2 == 0 else (second, first)
        seconds, found = {}, {}
        for way in order:
            if number == 0:  # it takes longer than some works
                reset_peak()
            start = time.perf_counter()
            found[way] = way(number)
            seconds[way] = time.perf_counter() - start
            if number == 0:
                peaks[way] = peak_bytes() if peak_of is None else peak_of(found[way])
            if seconds_of is not None:
                seconds[way] = seconds_of(found[way])
        timed.append((seconds[first], seconds[second]))
        results.append((found[first], found[second]))
    ratios = [slow / fast for slow, fast in timed]
    both = tuple(statistics.median(times) for times in zip(*timed, strict=True))
    return Ratio(statistics.median(ratios), ratios, both, units(results[0][1]), (peaks[first], peaks[second])), results
