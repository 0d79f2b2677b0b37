"""Ask a model the questions of CRPE: what is in the picture, and how are the things in it related.

    python eval/crpe.py --model_path checkpoints/llava-1.5-7b-hf --eval_file crpe_exist.jsonl crpe_relation.jsonl \\
        --img_path data/crpe --answers_file results/crpe.jsonl

The files are those of the hub's OpenGVLab/CRPE (not the *_meta ones, which lack the circular copies); --img_path holds
its abnormal_images/ and coco/val2017/, which COCO has. eval/scorers/crpe.py has the scoring rules.
"""

import argparse

from eval import picture_folder
from eval.harness import Benchmark, run
from eval.picture_folder import PictureFolder, image_part
from eval.prompts import add_prompt, user_turn
from eval.records import BadRecord, build_items, json_records
from eval.scored_run import print_score
from models.errors import run_script

PROMPTS = {"official": "the text as it is", "lmms": "and a sentence that asks for the letter alone"}
LETTER_ALONE = "Please answer directly with only the letter of the correct option and nothing else."
FIELDS = {"question_id": (str, int), "image": str, "text": str, "correct_option": str, "category": str}
KEY = ("category", "question_id")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the questions are, and how they are put."""
    files = "crpe_exist.jsonl, crpe_relation.jsonl or both"
    picture_folder.add_arguments(parser, files, "folder that holds coco/ and abnormal_images/", several=True)
    add_prompt(parser, PROMPTS)


def load_items(args: argparse.Namespace) -> list[dict]:
    """The rows of all files, in their order. Raises InputError naming file, line and field."""
    folder = PictureFolder(args.img_path)

    def item_of(record: dict) -> dict:
        letter = record["correct_option"]
        if letter not in [*"ABCD"]:
            raise BadRecord(f"field `correct_option` is {letter!r}; one of A, B, C, D is expected")
        folder.check(record["image"])
        kept = {field: record[field] for field in ("question_id", "category", "image", "text")}
        return {"id": f"{record['category']}_{record['question_id']}", **kept, "answer": letter}

    records = (record for file in args.eval_file for record in json_records(file))
    items = build_items(records, FIELDS, item_of, KEY)
    folder.check_any((item["image"] for item in items), args.eval_file[0])
    return items


def messages(item: dict, args: argparse.Namespace) -> list[dict]:
    """One row: the picture, then the question with its options."""
    text = item["text"] if args.prompt == "official" else f"{item['text']}\n{LETTER_ALONE}"
    return user_turn([image_part(args.img_path, item["image"])], text)


BENCHMARK = Benchmark("crpe", add_arguments, load_items, messages, KEY, strips=True, afterwards=print_score)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    return run(BENCHMARK, argv)


if __name__ == "__main__":
    run_script(main)
