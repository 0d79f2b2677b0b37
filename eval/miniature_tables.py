"""Tables of the miniature's experiment, Markdown: over seeds (mean and range), and of each seed with its intervals."""

from collections.abc import Sequence

import numpy as np

from eval.entries import show_entry, two_decimals
from eval.markdown import table
from eval.miniature_results import ARMS, CONTRAST, PAIRS, TOWERS
from eval.miniature_saved import COLUMNS, PLACES, by_place, conditions_of, described, in_condition, over_seeds

CANVASES = {"arms": "full", "alone": "alone"}  # kind of answers -> what is around the picture
THERE = ("mean", "variance_corrected")  # numbers of eval/metrics.py of captions that are there
LOG_ODDS = "corners less inner, log odds"
PERCEPTION = "perception: share in the target's cell, % (evenly: {:.2f})"
# Number of eval/flow_report.py -> its column, and what it is multiplied by.
FLOW = {
    "entropy": ("attention: normalised entropy, %", 100),
    "raster": ("raster correlation, %", 100),
    "image_share": ("image share, %", 1),
}
# Number of eval/similarity_report.py -> its column.
SIMILARITY = {
    "own caption": "own caption",
    "another caption": "another caption",
    "own less another": "difference",
    "linear readout": "linear readout, %",
}
ARMS_TRAINED = {"a": "with ordinary positions", "d": "with BaPA"}


def spread(numbers: np.ndarray, signed: bool = False) -> str:
    """`81.30 (79.10 to 83.40)`: mean and range over seeds; `-` where a seed has no number."""
    if not np.isfinite(numbers).all():
        return "-"
    low, mean, high = (two_decimals(value, signed) for value in (numbers.min(), numbers.mean(), numbers.max()))
    return f"{mean} ({low} to {high})"


def arms_table(results: dict[int, dict], condition: str) -> str:
    """Numbers of the answers by arm."""
    rows = [["arm", *COLUMNS.values()]]
    for arm in ARMS:
        found = (over_seeds(results, condition, "arms", arm, "numbers", name) for name in COLUMNS)
        rows.append([f"**{arm}**", *map(spread, found)])
    return table(rows)


def pairs_table(results: dict[int, dict], condition: str) -> str:
    """Differences, and of how many seeds the 95% interval lies above and below zero."""
    rows = [["difference", *COLUMNS.values()]]
    for label in labels():
        numbers = [found["pairs"][label]["numbers"] for found in in_condition(results, condition)]
        cells = []
        for name in COLUMNS:
            entries = [one[name] for one in numbers]
            differences = over_seeds(results, condition, "pairs", label, "numbers", name)
            cells.append(spread(differences, signed=True) + clear(entries))
        rows.append([label, *cells])
    return table(rows)


def labels() -> list[str]:
    return [*(f"{second} - {first}" for first, second in PAIRS), CONTRAST]


def clear(entries: Sequence[dict]) -> str:
    """`, up 1, down 2`: seeds whose interval is on one side of zero; empty for numbers without one."""
    if any(one["low"] is None for one in entries):
        return ""
    up, down = sum(one["low"] > 0 for one in entries), sum(one["high"] < 0 for one in entries)
    return f", up {up}, down {down}"


def intervals(results: dict[int, dict]) -> int:
    """How many intervals stand behind the counts of all `pairs_table`s."""
    return sum(
        found["pairs"][label]["numbers"][name]["low"] is not None
        for condition in conditions_of(results)
        for found in in_condition(results, condition)
        for label in labels()
        for name in COLUMNS
    )


def seeds_table(results: dict[int, dict], condition: str) -> str:
    """Every seed's own numbers, with their intervals where eval/metrics.py gives one, and the null of the variance."""
    rows = [["arm", "seed", *COLUMNS.values(), "p of the variance"]]
    for arm in ARMS:
        for seed, found in zip(results, in_condition(results, condition), strict=True):
            run = found["arms"][arm]
            null = run["null"]["variance"]
            numbers = (show_entry(run["numbers"][name], False) for name in COLUMNS)
            rows.append([f"**{arm}**", str(seed), *numbers, f"{null['p']:.4f}" if null else "-"])
    return table(rows)


def places_table(results: dict[int, dict], condition: str) -> str:
    """Captions that are there, in corners, at edges and in inner cells, of full canvases and alone on the canvas."""
    rows = [["arm", "canvas", *(COLUMNS[name] for name in THERE), *(f"{place}, %" for place in PLACES), LOG_ODDS]]
    for arm in ARMS:
        for kind, canvas in CANVASES.items():
            found = [over_seeds(results, condition, kind, arm, "numbers", name) for name in THERE]
            places, odds = by_place(results, condition, kind, arm)
            cells = [*map(spread, [*found, *places.T]), spread(odds[:, 0] - odds[:, -1], signed=True)]
            rows.append([f"**{arm}**", canvas, *cells])
    return table(rows)


def studies_table(results: dict[int, dict], condition: str) -> str:
    """Perception and information flow by arm."""
    rows = [["arm", *studies_columns(condition)]]
    for arm in ARMS:
        found = [over_seeds(results, condition, "perception", arm)]
        found += [factor * over_seeds(results, condition, "flow", arm, name) for name, (_, factor) in FLOW.items()]
        rows.append([f"**{arm}**", *map(spread, found)])
    return table(rows)


def studies_columns(condition: str) -> list[str]:
    grid = int(condition.split("x")[0])
    return [PERCEPTION.format(100 / grid**2), *(column for column, _ in FLOW.values())]


def studies_seeds(results: dict[int, dict], condition: str) -> str:
    """The same of each seed, with intervals."""
    rows = [["arm", "seed", *studies_columns(condition)]]
    for arm in ARMS:
        for seed, found in zip(results, in_condition(results, condition), strict=True):
            flow = found["flow"][arm]
            entries = [found["perception"][arm], *(times(flow[name], factor) for name, (_, factor) in FLOW.items())]
            rows.append([f"**{arm}**", str(seed), *(show_entry(entry, False) for entry in entries)])
    return table(rows)


def times(entry: dict, factor: float) -> dict:
    """A number and its interval, multiplied; None stays None."""
    return {name: None if number is None else factor * number for name, number in entry.items()}


def similarity_table(results: dict[int, dict]) -> str:
    """Of each condition and tower: cosines in hundredths, and captions that a linear readout reads, by cell."""
    rows = [["condition", "trained", *SIMILARITY.values(), "readout: spread over cells, points"]]
    for condition in conditions_of(results):
        for arm in TOWERS:
            numbers = [over_seeds(results, condition, "similarity", arm, name) for name in SIMILARITY]
            found = [found["similarity"][arm]["linear readout"] for found in in_condition(results, condition)]
            numbers.append(np.array([one["spread"] for one in found], float))
            rows.append([described(condition), ARMS_TRAINED[arm], *map(spread, numbers)])
    return table(rows)


def similarity_seeds(results: dict[int, dict]) -> str:
    """The same of each seed, with intervals."""
    rows = [["condition", "trained", "seed", *SIMILARITY.values()]]
    for condition in conditions_of(results):
        for arm in TOWERS:
            for seed, found in zip(results, in_condition(results, condition), strict=True):
                entries = (show_entry(found["similarity"][arm][name], False) for name in SIMILARITY)
                rows.append([described(condition), ARMS_TRAINED[arm], str(seed), *entries])
    return table(rows)


def costs_table(results: dict[int, dict]) -> str:
    """Hours of each stage, over seeds and arms; a language model is a seed's (or an arm's), all else an arm's."""
    kinds: dict[str, list[dict]] = {}
    for result in results.values():
        for name, cost in result["costs"].items():
            kinds.setdefault(name.removesuffix(", off").removesuffix(", on"), []).append(cost)
    rows = [["stage", "how many", "updates each", "hours each", "hours"]]
    total = 0.0
    for kind, found in kinds.items():
        hours = np.array([cost["hours"] for cost in found])
        updates = sorted({cost["updates"] for cost in found})
        rows.append([kind, str(len(found)), ", ".join(map(str, updates)), spread(hours), f"{hours.sum():.2f}"])
        total += hours.sum()
    measuring = np.array([result["measuring_hours"] for result in results.values()])
    rows.append(["measuring, a seed", str(len(measuring)), "", spread(measuring), f"{measuring.sum():.2f}"])
    rows.append(["all", "", "", "", f"{total + measuring.sum():.2f}"])
    return table(rows)
