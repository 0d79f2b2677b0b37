"""One table of several benchmarks' scores, from what eval/score.py has written.

    python eval/score_table.py --scores results/scienceqa/llava/scores.json results/crpe/llava/scores.json

One line a number, with 95% intervals; a column for each run, and their difference where two were compared. All files
need the same labels.
"""

import argparse
from pathlib import Path

from eval.entries import show_entry
from eval.text_table import text_table
from models.errors import ArgumentParser, InputError, run_script
from models.outside import read_json_object


def read_scores(path: Path) -> dict:
    """What eval/score.py --output_json wrote. Raises InputError for anything else."""
    try:
        scores = read_json_object(path, "not what eval/score.py --output_json writes; give such a file")
        is_whole = all(run["numbers"] and run["label"] for run in scores["runs"]) and scores["benchmark"]
    except (KeyError, TypeError):
        is_whole = False
    if not is_whole:
        raise InputError(f"{path}: not what eval/score.py --output_json writes; give such a file")
    return scores


def rows_of(scores: dict) -> list[list[str]]:
    """A line for each number of a benchmark."""
    columns = scores["runs"] + ([scores["comparison"]] if scores["comparison"] else [])
    title = f"{scores['benchmark']} ({scores['scorer']})"
    title += ", PARTIAL" * any(run["partial"] for run in scores["runs"])
    lines = []
    for name in scores["runs"][0]["numbers"]:
        entries = [column["numbers"].get(name) for column in columns]
        signed = [column is scores["comparison"] for column in columns]
        shown = [show_entry(entry, sign) if entry else "-" for entry, sign in zip(entries, signed, strict=True)]
        lines.append([f"{title}: {name}", *shown])
    return lines


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--scores", type=Path, nargs="+", required=True, metavar="FILE", help="JSON of eval/score.py")
    files = parser.parse_args(argv).scores
    header, lines = None, []
    for file in files:
        scores = read_scores(file)
        compared = [scores["comparison"]["label"]] if scores["comparison"] else []
        labels = [run["label"] for run in scores["runs"]] + compared
        if header not in (None, labels):
            raise InputError(f"{file}: {', '.join(labels)}, {files[0]} has {', '.join(header)}; score them alike")
        header = labels
        lines += rows_of(scores)
    print(text_table([["", *header], *lines]))


if __name__ == "__main__":
    run_script(main)
