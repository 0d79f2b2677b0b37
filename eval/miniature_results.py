"""The miniature's experiment, from saved answers to one JSON file; eval/miniature_page.py makes the page from it.

    python eval/miniature_results.py --results_dir results/miniature --checkpoints checkpoints/miniature \\
        --output docs/miniature.json

scripts/experiment_miniature.sh writes the answers: `answers/<seed>/<grid>x<grid>-<image size>/<arm>.jsonl`, and beside
`answers` the studies. The numbers are those of eval/metrics.py and eval/plots.py, with their intervals for each seed;
the page shows how seeds differ.
"""

import argparse
from pathlib import Path

from data.files import numbered_json_lines, write_json
from eval import flow_report, perception_report, similarity_report
from eval.answers import read_yes_no
from eval.cell_means import cell_means
from eval.manifest import check_finished
from eval.measured import read_measured
from eval.metrics import compare, measure
from eval.probe_answers import pair, read_answers
from models.errors import ArgumentParser, InputError, run_script
from models.provenance import provenance, versions

# Arm -> what it is: trained with, then adapted with, tested with.
ARMS = {
    "a": "ordinary positions throughout",
    "b": "a, BaPA switched on without training",
    "c0": "a, LoRA with ordinary positions",
    "c": "a, LoRA with BaPA, tested with BaPA",
    "d": "trained and tested with BaPA",
}
# second - first: what the second does to the first.
PAIRS = (("a", "b"), ("b", "c"), ("a", "c0"), ("c0", "c"), ("a", "d"))


# Arms whose vision tower and projector are their own: neither LoRA nor the flag changes them.
TOWERS = ("a", "d")


def collect(results_dir: Path, resamples: int) -> dict:
    """Seed -> condition -> "arms" (arm -> summary), "pairs" ("b - a" -> comparison) and the studies, arm -> numbers.

    Raises InputError for a missing file.
    """
    answers = results_dir / "answers"
    seeds = sorted(path.name for path in answers.glob("*") if path.name.isdigit())
    if not seeds:
        raise InputError(f"--results_dir {results_dir}: no answers/<seed>; scripts/experiment_miniature.sh writes them")
    conditions = sorted(path.name for path in (answers / seeds[0]).iterdir())
    return {
        seed: {
            condition: measure_arms(answers / seed / condition, resamples)
            | measure_studies(results_dir, f"{seed}/{condition}", resamples)
            for condition in conditions
        }
        for seed in seeds
    }


def measure_studies(results_dir: Path, run: str, resamples: int) -> dict:
    """Perception and information flow of every arm of `run`, "<seed>/<condition>", and similarity of every tower."""
    return {
        "perception": {arm: perception(results_dir / "perception" / run / arm, resamples) for arm in ARMS},
        "flow": {arm: flow(results_dir / "information_flow" / run / f"{arm}.jsonl", resamples) for arm in ARMS},
        "similarity": {arm: similarity(results_dir / "similarity" / run / f"{arm}.jsonl", resamples) for arm in TOWERS},
    }


def perception(folder: Path, resamples: int) -> dict:
    """Percent of a map's mass in the target's cell, by cell."""
    measured = read_measured(str(folder / perception_report.FILE), {"map": list})
    shares = perception_report.target_shares(measured, perception_report.read_maps(measured))
    return cell_means(shares, resamples, seed=0).as_dict()


def flow(path: Path, resamples: int) -> dict:
    """The numbers of eval/flow_report.py and the mean map."""
    run = flow_report.read_flow(str(path), "")
    maps = run.maps.mean(1)
    numbers = flow_report.describe(maps, run.rows, resamples, seed=0)
    return numbers | {"map": [[round(float(value), 5) for value in line] for line in maps.mean(0)]}


def similarity(path: Path, resamples: int) -> dict:
    """Cosines in hundredths and the linear readout, by cell."""
    measured = read_measured(str(path), {"similarity": float, "similarity_other": float})
    return {
        name: cell_means(values, resamples, seed=0).as_dict()
        for name, values in similarity_report.studied(measured).items()
    }


def measure_arms(folder: Path, resamples: int) -> dict:
    answers = {}
    for arm in ARMS:
        if not (folder / f"{arm}.jsonl").is_file():
            raise InputError(f"{folder / arm}.jsonl: is missing; scripts/experiment_miniature.sh goes on where it was")
        answers[arm] = read_answers(str(folder / f"{arm}.jsonl"), read_yes_no)
        check_finished(folder / f"{arm}.jsonl", len(answers[arm].replies) + len(answers[arm].errors))
    runs = {arm: measure(one, arm, resamples=resamples) for arm, one in answers.items()}
    pairs = {}
    for first, second in PAIRS:
        pair(answers[first], answers[second])  # the same items, or an InputError
        pairs[f"{second} - {first}"] = brief(compare(runs[first], runs[second]))
    return {"arms": {arm: brief(run.summary) for arm, run in runs.items()}, "pairs": pairs}


def brief(summary: dict) -> dict:
    """What the page shows of a summary or a comparison."""
    cells = [cell["balanced_accuracy"]["value"] for cell in summary["cells"]]
    kept = {name: summary[name] for name in ("items", "captions", "unreadable", "null") if name in summary}
    return kept | {"numbers": summary["numbers"], "cells": cells, "positives": positives(summary)}


def positives(summary: dict) -> list[float | None]:
    return [cell["accuracy"]["value"] for cell in summary["cells"]]


def costs(checkpoints: Path) -> dict[str, dict]:
    """Run -> updates and seconds. A log may lack the seconds of its first updates: then as many as the others'."""
    found = {}
    for log in sorted(checkpoints.glob("*/log.jsonl")):
        lines = [line for _, line in numbered_json_lines(log) if "loss" in line]
        seconds = [line["seconds"] for line in lines if "seconds" in line]
        if seconds:
            found[log.parent.name] = {
                "updates": lines[-1]["step"],
                "seconds": round(sum(seconds) / len(seconds) * len(lines)),
                "last_loss": round(sum(line["loss"] for line in lines[-20:]) / len(lines[-20:]), 4),
            }
    return found


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--results_dir", type=Path, required=True, help="what scripts/experiment_miniature.sh wrote")
    add("--checkpoints", type=Path, required=True, help="the runs' folders, for their cost")
    add("--output", type=Path, required=True, help="the JSON file to write")
    add("--bootstrap", type=int, default=2000, help="resamples for intervals and nulls (%(default)s)")
    arguments = parser.parse_args(argv)
    content = {
        "versions": versions(),
        "commit": provenance()["git_commit"],
        "costs": costs(arguments.checkpoints),
        "seeds": collect(arguments.results_dir, arguments.bootstrap),
    }
    write_json(arguments.output, content)
    print(f"written: {arguments.output}")


if __name__ == "__main__":
    run_script(main)
