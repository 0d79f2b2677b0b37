"""Two ways to do the same work, timed in turns in one process, so that what slows the machine slows both."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """How many times faster the second way is: the median over rounds, and all of them.

    `seconds` of both, the median, for `units` of work a round.
    """

    median: float
    rounds: list[float]
    seconds: tuple[float, float]
    units: int


def side_by_side(
    first: Callable[[int], list], second: Callable[[int], list], rounds: int, units: Callable[[list], int] = len
) -> tuple[Ratio, list[tuple[list, list]]]:
    """Time `first(round)` and `second(round)` alternately; the ratio, and what both returned in each round.

    Which one begins alternates, too. Nothing is warmed up: give a round 0 of other work where that matters.
    """
    timed, results = [], []
    for number in range(rounds):
        order = (first, second) if number % 2 == 0 else (second, first)
        seconds, found = {}, {}
        for way in order:
            start = time.perf_counter()
            found[way] = way(number)
            seconds[way] = time.perf_counter() - start
        timed.append((seconds[first], seconds[second]))
        results.append((found[first], found[second]))
    ratios = [slow / fast for slow, fast in timed]
    both = tuple(statistics.median(times) for times in zip(*timed, strict=True))
    return Ratio(statistics.median(ratios), ratios, both, units(results[0][1])), results
