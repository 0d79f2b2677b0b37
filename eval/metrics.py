"""Score answers to the spatial probe: accuracy by cell, its spread, intervals, and the difference of two runs.

    python eval/metrics.py --results_file results/off.jsonl --results_file results/on.jsonl --labels off on \
        --output_heatmap results/off_on.png --output_json results/off_on.json

eval/probe_statistics.py defines every number. The JSON file holds all that is printed: the settings; per run its
counts, `numbers` (name -> value, low, high: the 95% interval), worst and best cell (null if all are equal), `null` of
the spreads and `cells`; and for two runs `comparison`, the same for second - first, with McNemar's test. What the
data cannot say is null.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.files import write_json
from data.grid import cell_names
from eval.answers import read_yes_no, read_yes_no_paper
from eval.entries import entry, plain
from eval.heatmaps import check_suffix, probe_heatmaps
from eval.manifest import check_finished
from eval.probe_answers import Answers, pair, read_answers, to_replies
from eval.probe_report import NOISE, panels, report
from eval.probe_statistics import (
    NO_INTERVAL,
    UNREADABLE,
    Replies,
    bootstrap,
    corrected_samples,
    count_by_caption,
    interval,
    mcnemar,
    null_spread,
    p_value,
    point,
    variance_noise,
)
from eval.result_files import check_inputs, name_runs
from models.errors import ArgumentParser, run_script

SCORERS = {"default": read_yes_no, "paper": read_yes_no_paper}
CELL = "cell_"  # prefix of the names in eval/probe_statistics.py that have one value per cell


@dataclass(frozen=True)
class Run:
    """One measured answers file. `summary` is what goes into the JSON file; the rest is what `compare` needs."""

    label: str
    replies: Replies
    point: dict[str, np.ndarray]
    samples: dict[str, np.ndarray]
    summary: dict


def measure(answers: Answers, label: str, pool_answers: bool = False, resamples: int = 2000, seed: int = 0) -> Run:
    """All numbers of one answers file, with 95% bootstrap intervals by caption and the nulls of the spreads.

    `pool_answers`: see `count_by_caption`. With `resamples` 0 there are no intervals and no nulls.
    """
    replies = to_replies(answers)
    counts = count_by_caption(replies, pool_answers)
    here, samples = point(counts), bootstrap(counts, resamples, seed)
    null, noise = null_spread(counts, resamples, seed), variance_noise(counts)
    samples["variance_corrected"] = corrected_samples(here, samples, noise)
    here["variance_corrected"] = here["variance"] - noise
    names = cell_names(answers.grid)
    has_positives = counts["positives"].any(axis=1)
    cells_differ = here["gap"] > 0  # False if no cell has data
    summary = {
        "label": label,
        "results_file": answers.path,
        "items": len(answers.replies) + len(answers.errors) + answers.left_out,
        "errors": len(answers.errors),
        "left_out": answers.left_out,
        "scored": len(replies.reply),
        "positives": int(replies.positive.sum()),
        "negatives": int((~replies.positive).sum()),
        "unreadable": int((replies.reply == UNREADABLE).sum()),
        "captions": replies.captions,
        "incomplete_captions": int((has_positives & (counts["complete"][:, 0] == 0)).sum()),
        "numbers": _numbers(here, samples),
        "worst_cell": names[np.nanargmin(here["cell_accuracy"])] if cells_differ else None,
        "best_cell": names[np.nanargmax(here["cell_accuracy"])] if cells_differ else None,
        "null": {name: _against_null(here[name], null[name]) for name in null},
        "cells": _cells(names, here, samples),
    }
    for index, cell in enumerate(summary["cells"]):
        cell |= {kind: int(counts[kind][:, index].sum()) for kind in ("positives", "negatives")}
    return Run(label, replies, here, samples, summary)


def compare(first: Run, second: Run) -> dict:
    """The paired differences second - first of two runs over the same rows, in the same order, measured with one seed.

    Intervals are paired bootstrap intervals by caption. McNemar's test counts rows that only one run got right.
    """
    difference = {name: second.point[name] - first.point[name] for name in first.point}
    samples = {name: second.samples[name] - first.samples[name] for name in first.samples}
    names = [cell["position"] for cell in first.summary["cells"]]
    correct, positive = (first.replies.correct, second.replies.correct), first.replies.positive
    return {
        "label": f"{second.label} - {first.label}",
        "numbers": _numbers(difference, samples),
        "cells": _cells(names, difference, samples),
        "mcnemar": {"all": mcnemar(*correct), "positives": mcnemar(correct[0][positive], correct[1][positive])},
    }


def _numbers(values: dict, samples: dict) -> dict[str, dict]:
    names = [name for name in values if not name.startswith(CELL)]
    none = (np.nan, np.nan)
    return {name: entry(values[name], *(none if name in NO_INTERVAL else interval(samples[name]))) for name in names}


def _cells(names: Sequence[str], values: dict[str, np.ndarray], samples: dict[str, np.ndarray]) -> list[dict]:
    by_cell = [name for name in values if name.startswith(CELL)]
    return [
        {"position": position}
        | {name.removeprefix(CELL): entry(values[name][k], *interval(samples[name][:, k])) for name in by_cell}
        for k, position in enumerate(names)
    ]


def _against_null(value: float, null: np.ndarray) -> dict | None:
    """Mean and 95th percentile of the null, and the share of it that reaches `value`; None where there is none."""
    if not len(null) or not np.isfinite(value):
        return None
    return {"mean": plain(null.mean()), "p95": plain(np.percentile(null, 95)), "p": p_value(value, null)}


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument(
        "--results_file",
        "--result_file",
        action="append",
        required=True,
        metavar="FILE",
        help="answers of eval/probe.py (JSON lines); give it twice to compare two runs over the same items",
    )
    parser.add_argument("--output_heatmap", metavar="FILE", help="picture to write: .png, .pdf or .svg (default: none)")
    parser.add_argument("--output_json", metavar="FILE", help="all numbers, as JSON (default: none)")
    parser.add_argument(
        "--scorer",
        choices=SCORERS,
        default="default",
        help="default: whole words, accuracy of a cell over its positives; paper: the rule of the paper's scorer, "
        "accuracy of a cell over all its rows (default: %(default)s)",
    )
    parser.add_argument("--labels", nargs="+", metavar="LABEL", help="a name per results file (default: file names)")
    parser.add_argument(
        "--bootstrap",
        type=int,
        default=2000,
        metavar="N",
        help="resamples for intervals and nulls, 0 for none (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the resamples (default: %(default)s)")
    arguments = parser.parse_args(argv)
    _check(arguments)
    return arguments


def _check(arguments: argparse.Namespace) -> None:
    files = arguments.results_file
    check_inputs(files, "results_file")
    arguments.labels = name_runs(arguments.labels, files, "results")
    if arguments.output_heatmap:
        check_suffix(arguments.output_heatmap)


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    answers = [read_answers(file, SCORERS[arguments.scorer]) for file in arguments.results_file]
    for file in answers:
        check_finished(Path(file.path), len(file.replies) + len(file.errors))
    if len(answers) == 2:
        answers = pair(*answers)
    pooled = arguments.scorer == "paper"
    runs = [
        measure(file, label, pooled, arguments.bootstrap, arguments.seed)
        for file, label in zip(answers, arguments.labels, strict=True)
    ]
    comparison = compare(*runs) if len(runs) == 2 else None
    summaries = [run.summary for run in runs]
    if arguments.output_json:
        settings = {name: getattr(arguments, name) for name in ("scorer", "bootstrap", "seed")}
        content = settings | {"grid": answers[0].grid, "runs": summaries, "comparison": comparison}
        write_json(arguments.output_json, content)
    if arguments.output_heatmap:
        probe_heatmaps(panels(summaries, comparison), arguments.output_heatmap)
    print(report(summaries, comparison))
    if arguments.bootstrap:
        print(f"[]: 95% bootstrap intervals, {arguments.bootstrap} resamples of captions, seed {arguments.seed};")
        print(f"    {NOISE}")
    if pooled:
        print("scorer paper: its reading of replies, and positives and negatives pooled in the accuracy of a cell")
    for output in filter(None, (arguments.output_json, arguments.output_heatmap)):
        print(f"written: {output}")


if __name__ == "__main__":
    run_script(main)
