"""Ask a model POPE's questions: is there such an object in the picture?

    python eval/pope.py --model_path checkpoints/llava-1.5-7b-hf --img_path coco/val2014 \\
        --eval_file coco_pope_random.json coco_pope_popular.json coco_pope_adversarial.json \\
        --answers_file results/pope.jsonl

The files are the official ones (JSON lines; their names say the split, or a field `category`), or the hub's table
(--dataset_path lmms-lab/POPE). LLaVA's llava_pope_test.jsonl is not needed: it asks the same in the same words, but has
no labels; its scripts take them from the official files, too. eval/scorers/pope.py has the scoring rules.
"""

import argparse
from pathlib import Path

from eval import question_source, tables
from eval.harness import Benchmark, run
from eval.picture_folder import PictureFolder
from eval.prompts import add_prompt, user_turn
from eval.records import BadRecord, Records, build_items, json_records, require_fields
from eval.scored_run import print_score
from eval.scorers import pope
from eval.table_source import Table
from models.errors import InputError, run_script

PROMPTS = {
    "official": "the question, and LLaVA's request for a single word or phrase",
    "bare": "the question alone",
}
REQUEST = "\nAnswer the question using a single word or phrase."
FIELDS = {"question_id": (str, int), "category": str, "text": str, "label": str}
COLUMNS = {"question_id": (str, int), "category": str, "question": str, "answer": str}
KEY = ("category", "id")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the questions are, and how they are put."""
    question_source.add_arguments(
        parser, "coco_pope_*.json, one or more", "folder of COCO's val2014", "lmms-lab/POPE", several=True
    )
    add_prompt(parser, PROMPTS)


def load_items(args: argparse.Namespace) -> list[dict]:
    """The questions of all splits given. Raises InputError naming the place."""
    folder = None if question_source.comes_as_table(args) else PictureFolder(args.img_path)

    def item_of(record: dict) -> dict:
        text = record["text"].removesuffix(REQUEST).strip()
        item = {"id": record["question_id"], "category": record["category"], "text": text, "answer": record["label"]}
        if complaint := pope.check(item):
            raise BadRecord(complaint.replace("`answer`", "`label`" if folder else "`answer`"))
        return item | question_source.picture_of(record, folder)

    if folder is None:
        tables.require_pictures(table(args))
        return build_items(table_records(table(args)), FIELDS, item_of, KEY)
    records = (record for file in args.eval_file for record in file_records(file))
    items = build_items(records, FIELDS | {"image": str}, item_of, KEY)
    folder.check_any((item["image"] for item in items), args.eval_file[0])
    return items


def table(args: argparse.Namespace) -> Table | None:
    """The hub's table, if the questions come from it."""
    return tables.table_of(args, "test")


def table_records(source: Table) -> Records:
    """The rows under the names that the official files have."""
    for where, record in tables.table_records(source, tuple(COLUMNS)):
        require_fields(where, record, COLUMNS)
        yield where, record | {"text": record["question"], "label": record["answer"]}


def file_records(file: Path) -> Records:
    """The records of a file, with the split that its name says where they do not."""
    named = [split for split in pope.SPLITS if split in file.name]
    for where, record in json_records(file):
        if "category" in record and "label" not in record:
            raise InputError(
                f"{where}: field `label` is missing: LLaVA's file has the questions alone; give those with labels, "
                f"--eval_file {' '.join(map(str, official_files(file)))}"
            )
        if "category" not in record:
            if len(named) != 1:
                raise InputError(
                    f"{where}: no field `category`, and the file's name has none of {', '.join(pope.SPLITS)}"
                )
            record = record | {"category": named[0]}
        yield where, record


def official_files(file: Path) -> list[Path]:
    """The official files of all splits: where LLaVA's layout has them beside a file, else by their names alone."""
    names = [f"coco_pope_{split}.json" for split in pope.SPLITS]
    places = [folder for folder in (file.parent / "coco", file.parent) if (folder / names[0]).is_file()]
    return [Path(*places[:1], name) for name in names]


def messages(item: dict, args: argparse.Namespace) -> list[dict]:
    """One question about its picture."""
    picture = question_source.item_image_part(item, args, table(args))
    return user_turn([picture], item["text"] + (REQUEST if args.prompt == "official" else ""))


BENCHMARK = Benchmark(
    "pope",
    add_arguments,
    load_items,
    messages,
    KEY,
    strips=True,
    image_aspect_ratio="pad",
    afterwards=print_score,
    tables=table,
)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    return run(BENCHMARK, argv)


if __name__ == "__main__":
    run_script(main)
