"""Ask a model ChartQA's test questions: half written by people, half by a program.

    python eval/chartqa.py --model_path checkpoints/Qwen2.5-VL-7B-Instruct --dataset_path lmms-lab/ChartQA \\
        --answers_file results/chartqa.jsonl

The questions are the hub's table, or the official test_human.json and test_augmented.json (--eval_file) beside the
folder png (--img_path). eval/scorers/chartqa.py has the scoring rules.
"""

import argparse
from pathlib import Path

from eval import question_source, tables
from eval.harness import Benchmark, run
from eval.picture_folder import PictureFolder
from eval.prompts import add_prompt, user_turn
from eval.records import BadRecord, Records, build_items, json_records, require_fields
from eval.scored_run import print_score
from eval.scorers import chartqa
from eval.table_source import Table
from models.errors import InputError, run_script

PROMPTS = {"lmms": "and a request for a single word", "vlmevalkit": "and a request for a single word or phrase"}
REQUESTS = {
    "lmms": "\nAnswer the question with a single word.",
    "vlmevalkit": "\nAnswer the question using a single word or phrase.",
}
FIELDS = {"type": str, "question": str, "answer": str}
FILE_FIELDS = {"imgname": str, "query": str, "label": str}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the questions are, and how they are put."""
    files = "test_human.json, test_augmented.json or both"
    question_source.add_arguments(parser, files, "folder png", "lmms-lab/ChartQA", several=True)
    add_prompt(parser, PROMPTS, default="lmms")


def load_items(args: argparse.Namespace) -> list[dict]:
    """The questions in the order of their rows. Raises InputError naming the place."""
    folder = None if question_source.comes_as_table(args) else PictureFolder(args.img_path)
    asked = {}

    def item_of(record: dict) -> dict:
        if complaint := chartqa.check(record):
            raise BadRecord(complaint)
        kind = record["type"]
        asked[kind] = number = asked.get(kind, -1) + 1
        item = {"id": f"{kind}_{number}", "type": kind, "text": record["question"], "answer": record["answer"]}
        return item | question_source.picture_of(record, folder)

    if folder is None:
        tables.require_pictures(table(args))
        return build_items(tables.table_records(table(args), tuple(FIELDS)), FIELDS, item_of, ("id",))
    if len({half_of(file) for file in args.eval_file}) < len(args.eval_file):
        raise InputError("--eval_file: two files of one half; give test_human.json, test_augmented.json or both")
    records = (record for file in args.eval_file for record in file_records(file))
    items = build_items(records, FIELDS, item_of, ("id",))
    folder.check_any((item["image"] for item in items), args.eval_file[0])
    return items


def table(args: argparse.Namespace) -> Table | None:
    """The hub's table, if the questions come from it."""
    return tables.table_of(args, "test")


def half_of(file: Path) -> str:
    """Which half an official file is, by its name."""
    halves = [kind for kind, half in chartqa.HALVES.items() if half in file.name]
    if len(halves) != 1:
        raise InputError(f"--eval_file {file}: neither human nor augmented in its name; keep the official names")
    return halves[0]


def file_records(file: Path) -> Records:
    """The records of an official file under the table's names."""
    for where, record in json_records(file):
        require_fields(where, record, FILE_FIELDS)
        named = {"question": record["query"], "answer": record["label"], "image": record["imgname"]}
        yield where, {"type": half_of(file), **named}


def messages(item: dict, args: argparse.Namespace) -> list[dict]:
    """One question about its chart."""
    picture = question_source.item_image_part(item, args, table(args))
    return user_turn([picture], item["text"] + REQUESTS[args.prompt])


BENCHMARK = Benchmark("chartqa", add_arguments, load_items, messages, afterwards=print_score, tables=table)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    return run(BENCHMARK, argv)


if __name__ == "__main__":
    run_script(main)
