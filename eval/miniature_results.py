"""The miniature's experiment, from saved answers to one JSON file; eval/miniature_page.py makes the page from it.

    python eval/miniature_results.py --answers_dir results/miniature/answers --checkpoints checkpoints/miniature \\
        --output docs/miniature.json

scripts/experiment_miniature.sh writes the answers: `<seed>/<grid>x<grid>-<image size>/<arm>.jsonl`. The numbers are
those of eval/metrics.py, with its intervals over captions for each seed; the page shows how seeds differ.
"""

import argparse
import json
from pathlib import Path

from data.files import numbered_json_lines, write_atomic
from eval.answers import read_yes_no
from eval.manifest import check_finished
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


def collect(answers_dir: Path, resamples: int) -> dict:
    """Seed -> condition -> {"arms": arm -> summary, "pairs": "b - a" -> comparison}; InputError for a missing file."""
    seeds = sorted(path.name for path in answers_dir.glob("*") if path.name.isdigit())
    if not seeds:
        raise InputError(
            f"--answers_dir {answers_dir}: no folders of seeds; scripts/experiment_miniature.sh writes them"
        )
    conditions = sorted(path.name for path in (answers_dir / seeds[0]).iterdir())
    return {
        seed: {condition: measure_arms(answers_dir / seed / condition, resamples) for condition in conditions}
        for seed in seeds
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
    add("--answers_dir", type=Path, required=True, help="what scripts/experiment_miniature.sh wrote")
    add("--checkpoints", type=Path, required=True, help="the runs' folders, for their cost")
    add("--output", type=Path, required=True, help="the JSON file to write")
    add("--bootstrap", type=int, default=2000, help="resamples for intervals and nulls (%(default)s)")
    arguments = parser.parse_args(argv)
    content = {
        "versions": versions(),
        "commit": provenance()["git_commit"],
        "costs": costs(arguments.checkpoints),
        "seeds": collect(arguments.answers_dir, arguments.bootstrap),
    }
    write_atomic(arguments.output, json.dumps(content, indent=1, allow_nan=False) + "\n")
    print(f"written: {arguments.output}")


if __name__ == "__main__":
    run_script(main)
