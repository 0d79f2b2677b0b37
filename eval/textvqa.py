"""Ask a model TextVQA's validation questions, which are about text in pictures.

    python eval/textvqa.py --model_path checkpoints/llava-1.5-7b-hf --eval_file TextVQA_0.5.1_val.json \\
        --img_path textvqa/train_images --answers_file results/textvqa.jsonl

The questions are the official file beside train_images, or the hub's table (--dataset_path lmms-lab/textvqa).
LLaVA's published figure is with tokens of an OCR engine in the prompt: --ocr_file llava_textvqa_val_v051_ocr.jsonl.
eval/scorers/textvqa.py has the scoring rules.
"""

import argparse
from pathlib import Path

from eval import question_source, tables
from eval.harness import Benchmark, run
from eval.picture_folder import PictureFolder
from eval.prompts import add_prompt, user_turn
from eval.records import BadRecord, Records, build_items, json_records, require_fields
from eval.scored_run import print_score
from eval.scorers import textvqa
from eval.table_source import Table
from models.errors import InputError, run_script

PROMPTS = {"official": "LLaVA's: the question, and a request for a short answer", "lmms": "the question capitalised"}
REQUEST = "\nAnswer the question using a single word or phrase."
FIELDS = {"question_id": (str, int), "question": str, "image_id": str, "answers": list}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the questions are, and how they are put."""
    question_source.add_arguments(parser, "TextVQA_0.5.1_val.json", "folder train_images", "lmms-lab/textvqa")
    parser.add_argument(
        "--ocr_file",
        type=Path,
        help="LLaVA's prompts with OCR tokens, JSON lines (default: none, no OCR in the prompt)",
    )
    add_prompt(parser, PROMPTS)


def load_items(args: argparse.Namespace) -> list[dict]:
    """The questions in the order of their file. Raises InputError naming the place."""
    folder = None if question_source.comes_as_table(args) else PictureFolder(args.img_path)
    texts = read_ocr_prompts(args.ocr_file) if args.ocr_file else None
    if texts is not None and args.prompt != "official":
        raise InputError(f"--prompt {args.prompt}: --ocr_file has LLaVA's wording; leave one of them out")

    def item_of(record: dict) -> dict:
        text = record["question"].capitalize() if args.prompt == "lmms" else record["question"]
        item = {"id": record["question_id"], "text": text + REQUEST, "answer": record["answers"]}
        if complaint := textvqa.check(item):
            raise BadRecord(complaint.replace("`answer`", "`answers`"))
        if texts is not None:
            item["text"] = texts.get((record["image_id"], record["question"].lower()))
            if item["text"] is None:
                raise BadRecord(f"--ocr_file {args.ocr_file} has no such question of image {record['image_id']}")
        return item | question_source.picture_of(record, folder)

    if folder is None:
        tables.require_pictures(table(args))
        return build_items(tables.table_records(table(args), tuple(FIELDS)), FIELDS, item_of, ("id",))
    items = build_items(file_records(args.eval_file), FIELDS, item_of, ("id",))
    folder.check_any((item["image"] for item in items), args.eval_file)
    return items


def table(args: argparse.Namespace) -> Table | None:
    """The hub's table, if the questions come from it."""
    return tables.table_of(args, "validation")


def file_records(file: Path) -> Records:
    """The records of the official file, with the picture's name."""
    for where, record in json_records(file, inside="data"):
        yield where, record | {"image": f"{record.get('image_id')}.jpg"}


def read_ocr_prompts(file: Path) -> dict[tuple[str, str], str]:
    """(image_id, question in lower case) -> the whole prompt, of LLaVA's file, whose question_id is the image's."""
    prompts = {}
    for where, line in json_records(file):
        require_fields(where, line, {"question_id": str, "text": str})
        prompts[line["question_id"], line["text"].split("\n")[0].lower()] = line["text"]
    return prompts


def messages(item: dict, args: argparse.Namespace) -> list[dict]:
    """One question about its picture."""
    return user_turn([question_source.item_image_part(item, args, table(args))], item["text"])


BENCHMARK = Benchmark(
    "textvqa",
    add_arguments,
    load_items,
    messages,
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
