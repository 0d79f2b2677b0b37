"""ScienceQA in twelve ways: why the same model has 0.78 in one place and 0.87 in another (docs/scienceqa_audit.md).

    python eval/scienceqa.py --audit --model_path checkpoints/Qwen2.5-VL-7B-Instruct \\
        --eval_file llava_test_CQM-A.json --img_path scienceqa/images/test --answers_file results/audit/scienceqa.jsonl

The literal `<image>` stays in the text or not; pictures have at least 3,136 or at least 200,704 pixels; replies are
read by LLaVA's rule, by lmms-eval's, or must be the letter and nothing else. The model runs four times, each time
resumable, with its answers beside --answers_file; the three rules read the same replies. Models that scale pictures to
a size of their own run twice. The table also goes to `<answers>.audit.json`.
"""

import argparse
import os
from dataclasses import replace
from pathlib import Path

from data.files import write_json
from eval.arguments import build_parser
from eval.entries import show_entry
from eval.harness import Benchmark, run
from eval.scorers import scienceqa
from eval.scorers.answers_file import read_answers
from eval.scorers.measure import clusters_of, measure, score_rows
from eval.scorers.rules import Context, Verdict
from eval.text_table import text_table
from models.errors import InputError

PROMPTS = {"kept": "paper", "removed": "official"}  # what happens to the placeholder -> --prompt
MIN_PIXELS = (3136, 200704)  # of the paper's script, which leaves the processor's default, and of lmms-eval
RESAMPLES, SEED = 2000, 0


def exact(row: dict, context: Context) -> Verdict:
    """The reply is the gold letter and not one character more; that no other letter is meant is not asked."""
    return Verdict(row["prediction"] or None, row["prediction"] == row["answer"])


SCORERS = {"LLaVA": scienceqa.official, "lmms": scienceqa.lmms, "exact letter": exact}


def audit(benchmark: Benchmark, argv: list[str]) -> int:
    """Run the model in each way, print the cells of the table, return the worst exit status of the runs."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("--audit: runs in one process; start it with python, not torchrun")
    args = parse_arguments(benchmark, argv)
    cells, statuses = [], []
    for placeholder, prompt in PROMPTS.items():
        for pixels in least_pixels(args.model_path):
            answers = args.answers_file.with_name(f"{args.answers_file.stem}-{placeholder}-{pixels or 'own'}.jsonl")
            chosen = ["--prompt", prompt, "--answers_file", str(answers)]
            chosen += ["--min_pixels", str(pixels)] if pixels else []
            statuses.append(run(replace(benchmark, afterwards=None), [*argv, *chosen]))
            cells += [{"placeholder": placeholder, "min_pixels": pixels} | cell for cell in score(answers)]
    table = Path(f"{args.answers_file}.audit.json")
    write_json(table, {"model_path": args.model_path, "position_balance": args.position_balance, "cells": cells})
    print(report(cells))
    print(f"accuracy in percent, []: 95% bootstrap intervals by picture; written: {table}")
    return max(statuses)


def parse_arguments(benchmark: Benchmark, argv: list[str]) -> argparse.Namespace:
    """The benchmark's arguments, without those that the audit sets."""
    for option in ("--output_dir", "--prompt", "--min_pixels"):
        if any(argument.partition("=")[0] == option for argument in argv):
            raise InputError(f"{option}: --audit sets it itself, beside --answers_file; leave it out")
    parser = build_parser(__doc__, benchmark.max_new_tokens)
    benchmark.add_arguments(parser)
    return parser.parse_args(argv)


def least_pixels(model_path: str) -> tuple[int | None, ...]:
    """The values of --min_pixels to try; only None for models that scale pictures to a size of their own."""
    from models.outline import load_outline
    from models.processors import pixel_bounds

    return MIN_PIXELS if pixel_bounds(load_outline(model_path)[1]) else (None,)


def score(path: Path) -> list[dict]:
    """The cells of one answers file: accuracy and share of unreadable replies by each rule; None if all are errors."""
    cells = []
    for name in SCORERS:
        rules = replace(scienceqa.RULES, scorers=SCORERS)
        try:
            answers = read_answers(str(path), "scienceqa", rules, name, allow_partial=True)
        except InputError:  # no question has an answer
            cells.append({"scorer": name, "accuracy": None, "unreadable": None})
            continue
        scored = score_rows(answers, clusters_of(answers.rows, rules), rules, name, Context(SEED))
        numbers = measure(answers, scored, name, rules, name, RESAMPLES, SEED).summary["numbers"]
        cells.append({"scorer": name, "accuracy": numbers["accuracy"], "unreadable": numbers["unreadable"]})
    return cells


def report(cells: list[dict]) -> str:
    """One line a way to ask, one column a rule."""
    ways = {}
    for cell in cells:
        shown = show_entry(cell["accuracy"], signed=False) if cell["accuracy"] else "all questions are errors"
        ways.setdefault((cell["placeholder"], cell["min_pixels"]), []).append(shown)
    header = ["<image> in the text", "least pixels", *SCORERS]
    return text_table([header, *([kept, str(pixels or "fixed"), *shown] for (kept, pixels), shown in ways.items())])
