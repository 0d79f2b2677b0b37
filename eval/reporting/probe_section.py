"""The spatial probe on the page: verdict, heat maps, numbers with tests, replies that changed."""

import argparse

import numpy as np

from data.files import iter_json_lines
from data.grid import cell_names
from eval.entries import show_entry, two_decimals
from eval.heatmaps import Panel
from eval.metrics import SCORERS, compare, measure
from eval.probe_answers import pair, read_answers
from eval.probe_report import CELL_TITLES, NOISE, TITLES, panels, report
from eval.reporting.examples import Canvases, changed_examples
from eval.reporting.pairs import Comparison
from eval.reporting.parts import Section, Table, with_minus
from eval.reporting.pictures import heatmap_pictures
from eval.reporting.verdict import Verdict, judge
from models.errors import InputError

TEXT = (
    "How many of the captions on the canvas are found, by the cell in which their picture is; one scale for both runs."
)


def probe_section(
    name: str, one: Comparison, settings: argparse.Namespace, canvases: Canvases
) -> tuple[Section, Verdict]:
    """The probe's runs of a model called `name`. Raises InputError for answers that eval/metrics.py refuses."""
    answers = [read_answers(path, SCORERS[settings.scorer]) for path in one.paths]
    if len(answers) == 2:
        check_same_pictures(one.paths)
        answers = pair(*answers)
    runs = [
        measure(file, label, settings.scorer == "paper", settings.bootstrap, settings.seed)
        for file, label in zip(answers, one.labels, strict=True)
    ]
    comparison = compare(*runs) if len(runs) == 2 else None
    summaries = [run.summary for run in runs]
    maps = panels(summaries, comparison)
    notes = report(summaries, comparison).split("\n\n")[0].splitlines()  # the counts; the rest is in the tables
    if settings.bootstrap:
        notes.append(
            f"In brackets: 95% bootstrap intervals, {settings.bootstrap} resamples of captions, seed {settings.seed}; "
            f"{NOISE}."
        )
    if settings.scorer == "paper":
        notes.append("Scorer paper: its reading of replies, and positives and negatives pooled in a cell's accuracy.")
    examples, examples_text = [], ""
    if comparison and settings.examples:
        examples, examples_text = changed_examples(tuple(answers), one.labels, settings.examples, canvases)
    if one.other_config:
        notes.append("config.json differs between the runs, as it does where the flag was changed there.")
    names = [name] if one.same_weights else one.names
    verdict = judge(names, summaries, comparison, bool(one.partial), warnings_of(one))
    first = summaries[0]
    section = Section(
        title="Spatial probe",
        about=f"{first['captions']} captions, {first['items']} questions, {answers[0].grid} × {answers[0].grid} cells",
        text=TEXT,
        warnings=warnings_of(one),
        pictures=[heatmap_pictures(maps, [_alt(panel) for panel in maps])],
        tables=[*_number_tables(summaries, comparison), *_test_tables(summaries, comparison)],
        notes=list(map(with_minus, notes)),
        examples=examples,
        examples_text=examples_text,
    )
    return section, verdict


def warnings_of(one: Comparison) -> list[str]:
    """What must be known of two runs before their numbers are read."""
    found = [f"Partial: {words}." for words in one.partial]
    if len(one.runs) == 2 and not one.same_weights:
        paths = ", ".join(
            f"{label}: {run.manifest['model_path']}" for label, run in zip(one.labels, one.runs, strict=True)
        )
        found.append(f"Two checkpoints ({paths}): all that tells them apart is in the difference, not the flag alone.")
    if one.differing:
        found.append(f"The runs differ in more than the flag: {one.differing}.")
    return found


def check_same_pictures(paths: list[str]) -> None:
    """Raise InputError if two runs were shown other pictures under the same names (errors have none)."""
    first, second = (
        {(row["image"], row["image_sha256"]) for _, row in iter_json_lines(path) if "image_sha256" in row}
        for path in paths
    )
    shown = {image for image, _ in first}
    differing = sorted(image for image, _ in second - first if image in shown)
    if differing:
        raise InputError(
            f"{paths[0]} and {paths[1]}: the same questions about {len(differing)} different pictures (first: "
            f"{differing[0]}); these are two data sets: report them from different folders"
        )


def _number_tables(summaries: list[dict], comparison: dict | None) -> list[Table]:
    columns = [*summaries, *([comparison] if comparison else [])]
    head = [*(summary["label"] for summary in summaries), *(["difference"] if comparison else [])]
    entries = [[title, [column["numbers"][name] for column in columns]] for name, title in TITLES.items()]
    tables = [Table("Numbers over all cells", _rows(["", *head], entries, len(summaries)))]
    for name, title in CELL_TITLES.items():
        cells = zip(*(column["cells"] for column in columns), strict=True)
        entries = [[cell[0]["position"].replace("_", " "), [one[name] for one in cell]] for cell in cells]
        found = _rows(["cell", *head], entries, len(summaries))
        if len(found) > 1:
            word = title.split()[0].isalpha()  # d' is a symbol
            tables.append(Table(title[0].upper() + title[1:] if word else title, found, folded=True))
    return tables


def _test_tables(summaries: list[dict], comparison: dict | None) -> list[Table]:
    """Spreads against those of shuffled positions, and McNemar's tests."""
    rows = [["", "found", "shuffled, mean", "shuffled, 95% below", "p"]]
    for summary in summaries:
        for name, null in summary["null"].items():
            if null:
                numbers = (summary["numbers"][name]["value"], null["mean"], null["p95"])
                title = f"{summary['label']}: {name} over cells"
                rows.append([title, *(f"{number:.2f}" for number in numbers), f"{null['p']:.3g}"])
    tables = [Table("Spread over cells, tested against shuffled positions", rows)] if len(rows) > 1 else []
    if comparison:
        first, second = (summary["label"] for summary in summaries)
        rows = [["questions", f"right with {first} alone", f"right with {second} alone", "p"]]
        for name, test in comparison["mcnemar"].items():
            counts = (test["only_first_correct"], test["only_second_correct"])
            rows.append([name, *map(str, counts), f"{test['p']:.3g}"])
        tables.append(Table("McNemar\N{RIGHT SINGLE QUOTATION MARK}s test (rows taken as independent)", rows))
    return tables


def _rows(head: list[str], entries: list, runs: int) -> list[list[str]]:
    """Rows of text, without those that have no number."""
    found = [head]
    for title, numbers in entries:
        if any(number["value"] is not None for number in numbers):
            shown = [with_minus(show_entry(number, signed=place >= runs)) for place, number in enumerate(numbers)]
            found.append([with_minus(title.replace("^2", "²")), *shown])
    return found


def _alt(panel: Panel) -> str:
    """The heat map in words."""
    names = cell_names(len(panel.cells))
    cells = [
        f"{name.replace('_', ' ')} {two_decimals(None if np.isnan(value) else value, panel.diverging)}"
        for name, value in zip(names, panel.cells.ravel(), strict=True)
    ]
    return with_minus(f"Heat map, {panel.title}, {panel.legend}; {panel.subtitle}: {', '.join(cells)}")
