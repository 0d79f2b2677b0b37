"""What eval/metrics.py says: its summaries in words, in aligned tables, and as the panels of the heat map.

A summary and a comparison are the dictionaries that go into the JSON file; nothing is computed here.
"""

import numpy as np

from eval.entries import show_entry, two_decimals
from eval.heatmaps import Panel
from eval.text_table import text_table

TITLES = {
    "mean": "mean over cells, %",
    "variance": "variance over cells, %^2",
    "variance_corrected": "variance over cells less noise, %^2",
    "std": "standard deviation, points",
    "cv": "coefficient of variation, %",
    "gap": "gap (best - worst cell), points",
    "relative_gap": "relative gap, %",
    "worst": "worst cell, %",
    "consistency": "right in every cell, % of captions",
    "same": "same reply in every cell, % of captions",
    "flip": "flip rate, % of captions",
    "disagreement": "pairwise disagreement, %",
    "accuracy": "accuracy of all rows, %",
    "negative_accuracy": "accuracy of negatives, %",
    "balanced_accuracy": "balanced accuracy, %",
    "d_prime": "d'",
    "yes_rate": "replies Yes, %",
}
# Why spreads have no interval.
NOISE = "spreads and the worst cell have none, since they hold noise: fewer wrong replies make less of it"
CELL_TITLES = {
    "accuracy": "accuracy by cell, %",
    "negative_accuracy": "accuracy of negatives by cell, %",
    "balanced_accuracy": "balanced accuracy by cell, %",
    "d_prime": "d' by cell",
}


def report(summaries: list[dict], comparison: dict | None) -> str:
    """Everything in words and aligned tables, one column per run and one for the difference."""
    columns = summaries + ([comparison] if comparison else [])
    headings = [column["label"] for column in columns]

    def row(title: str, entries: list[dict]) -> list[str]:
        return [title, *(show_entry(entry, signed=index >= len(summaries)) for index, entry in enumerate(entries))]

    parts = ["\n".join(_counts(summary) for summary in summaries)]
    rows = [["", *headings]]
    for name, title in TITLES.items():
        if summaries[0]["numbers"][name]["value"] is not None:
            rows.append(row(title, [column["numbers"][name] for column in columns]))
    parts.append(text_table(rows))
    for name, title in CELL_TITLES.items():
        if any(cell[name]["value"] is not None for cell in summaries[0]["cells"]):
            rows = [[title, *headings]]
            for cells in zip(*(column["cells"] for column in columns), strict=True):
                rows.append(row(f"  {cells[0]['position']}", [cell[name] for cell in cells]))
            parts.append(text_table(rows))
    notes = [note for summary in summaries for note in _notes(summary)]
    if comparison:
        first, second = headings[:2]
        for rows, test in comparison["mcnemar"].items():
            notes.append(
                f"McNemar, {rows}: {test['only_first_correct']} right in {first} alone, "
                f"{test['only_second_correct']} in {second} alone, p = {test['p']:.3g} (rows taken as independent)"
            )
    return "\n\n".join([*parts, "\n".join(notes)])


def _counts(summary: dict) -> str:
    words = {
        "items": "items",
        "captions": "captions",
        "positives": "positives",
        "negatives": "negatives",
        "unreadable": "unreadable replies (scored as wrong)",
        "errors": "error rows (not scored)",
        "incomplete_captions": "incomplete captions (not in the shares of captions)",
    }
    counts = [f"{summary[name]} {word}" for name, word in words.items()]
    if summary["left_out"]:
        counts.append(f"{summary['left_out']} left out (error rows of the other file)")
    return f"{summary['label']}: {', '.join(counts)}"


def _notes(summary: dict) -> list[str]:
    label, notes = summary["label"], []
    if summary["worst_cell"]:
        notes.append(f"{label}: worst cell {summary['worst_cell']}, best cell {summary['best_cell']}")
    elif summary["numbers"]["gap"]["value"] == 0:
        notes.append(f"{label}: all cells equal")
    for name, null in summary["null"].items():
        if null:
            notes.append(
                f"{label}: {name} {summary['numbers'][name]['value']:.2f}; with positions shuffled "
                f"{null['mean']:.2f} on average and below {null['p95']:.2f} in 95% (p = {null['p']:.3g})"
            )
    if not summary["negatives"]:
        notes.append(f"{label}: no negatives: a model that always says Yes scores 100")
    if not summary["positives"]:
        notes.append(f"{label}: no positives: nothing can be said about cells or consistency")
    return notes


def panels(summaries: list[dict], comparison: dict | None) -> list[Panel]:
    """The heat maps: one per run and, of two, their difference."""
    drawn = [_panel(summary, "%", signed=False) for summary in summaries]
    return drawn + ([_panel(comparison, "points", signed=True)] if comparison else [])


def _panel(column: dict, unit: str, signed: bool) -> Panel:
    entries = [cell["accuracy"] for cell in column["cells"]]
    values = np.array([np.nan if entry["value"] is None else entry["value"] for entry in entries])
    side = round(len(entries) ** 0.5)
    mean, variance = (two_decimals(column["numbers"][name]["value"], signed) for name in ("mean", "variance"))
    minus = "\N{MINUS SIGN}"
    return Panel(
        title=column["label"].replace(" - ", f" {minus} "),
        subtitle=f"mean {mean} {unit}, variance {variance} %²".replace("-", minus),
        cells=values.reshape(side, side),
        notes=[show_entry(entry, signed).partition(" ")[2] for entry in entries],
        diverging=signed,
    )
