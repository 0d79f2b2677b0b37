"""Ask a model the questions of ScienceQA's test split: one letter of up to five.

    python eval/scienceqa.py --model_path checkpoints/llava-1.5-7b-hf --eval_file llava_test_CQM-A.json \\
        --img_path scienceqa/images/test --answers_file results/scienceqa.jsonl

The questions are LLaVA's file beside its pictures, or the hub's table (--dataset_path lmms-lab/ScienceQA): the 2,017
that have a picture, or with --all_questions all 4,241 of the file. eval/scorers/scienceqa.py has the scoring rules;
--audit asks in four ways and scores in three (eval/scienceqa_audit.py).
"""

import argparse
import re
import sys

from eval import question_source, tables
from eval.harness import Benchmark, run
from eval.picture_folder import PictureFolder
from eval.prompts import add_prompt, user_turn
from eval.records import BadRecord, build_items, json_records
from eval.scored_run import print_score
from eval.scorers import scienceqa
from eval.scorers.rules import LETTERS
from eval.table_source import Table
from models.errors import InputError, run_script

INSTRUCTION = "Answer with the option's letter from the given choices directly."
PLACEHOLDER = "<image>"
PROMPTS = {
    "official": "LLaVA's text without its placeholder of the picture",
    "paper": "the literal <image> stays in the text, beside the picture, as in the paper's script",
}
FILE_FIELDS = {"id": (str, int), "conversations": list}
TABLE_FIELDS = {"question": str, "choices": list, "answer": int, "hint": str}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the questions are, and how they are put."""
    question_source.add_arguments(
        parser, "LLaVA's llava_test_CQM-A.json", "folder of its pictures, <id>/image.png", "lmms-lab/ScienceQA"
    )
    parser.add_argument("--audit", action="store_true", help="ask in four ways and score in three, in one process")
    parser.add_argument("--all_questions", action="store_true", help="those without a picture, too; of --eval_file")
    add_prompt(parser, PROMPTS)


def load_items(args: argparse.Namespace) -> list[dict]:
    """The questions in the order of their file. Raises InputError naming the place."""
    if not question_source.comes_as_table(args):
        return from_file(args)
    if args.all_questions:
        raise InputError("--all_questions: the table has those with a picture only; leave it out, or give --eval_file")
    return from_table(table(args))


def table(args: argparse.Namespace) -> Table | None:
    """The hub's table, if the questions come from it."""
    return tables.table_of(args, "test", "ScienceQA-IMG")


def from_file(args: argparse.Namespace) -> list[dict]:
    """The items of LLaVA's file."""
    folder = PictureFolder(args.img_path)

    def item_of(record: dict) -> dict | None:
        image = record.get("image")
        if image is None and not args.all_questions:
            return None
        text, letter = question_and_answer(record["conversations"])
        if PLACEHOLDER in text and image is None:
            raise BadRecord("field `image` is missing, but the text has a place for it")
        options = options_of(text)
        item = {"id": record["id"], "text": text.replace(PLACEHOLDER, "").strip(), "answer": letter}
        picture = {} if image is None else question_source.picture_of(record, folder)
        return checked(item | {"choices": len(options), "options": options}) | picture

    items = build_items(json_records(args.eval_file), FILE_FIELDS, item_of, ("id",))
    folder.check_any((item["image"] for item in items if "image" in item), args.eval_file)
    return items


def checked(item: dict) -> dict:
    """The item, if its scorer can score it; else raises BadRecord."""
    if complaint := scienceqa.check(item):
        raise BadRecord(complaint)
    return item


def question_and_answer(conversation: list) -> tuple[str, str]:
    """What the person and the model say in a conversation of LLaVA's format."""
    try:
        question, answer = (turn["value"] for turn in conversation)
        return question.strip(), answer.strip()
    except (AttributeError, KeyError, TypeError, ValueError):
        raise BadRecord("field `conversations` is not a question and an answer, each with its `value`") from None


def options_of(text: str) -> list[str]:
    """The texts of the options: the last lines `A. ...`, `B. ...` and so on of the question."""
    found = [*re.finditer(r"^([A-Z])\. ?(.*)$", text, re.MULTILINE)]
    start = max((place for place, match in enumerate(found) if match[1] == "A"), default=None)
    options = [] if start is None else found[start:]
    if "".join(match[1] for match in options) != LETTERS[: len(options)] or len(options) < 1:
        raise BadRecord("the text has no options A., B., ..., each on a line of its own")
    return [match[2] for match in options]


def from_table(source: Table) -> list[dict]:
    """The items of the hub's table, with the text that LLaVA's file has."""
    tables.require_pictures(source)

    def item_of(record: dict) -> dict:
        options, answer = record["choices"], record["answer"]
        if not 0 <= answer < len(options):
            raise BadRecord(f"field `answer` is {answer}; the index of one of {len(options)} options is expected")
        context = f"Context: {record['hint']}\n" if record["hint"] else ""
        lines = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
        item = {"id": record["row"], "text": f"{context}{record['question']}\n{lines}\n{INSTRUCTION}"}
        item |= {"answer": LETTERS[answer], "choices": len(options), "options": options}
        return checked(item) | question_source.picture_of(record, None)

    return build_items(tables.table_records(source, tuple(TABLE_FIELDS)), TABLE_FIELDS, item_of, ("id",))


def messages(item: dict, args: argparse.Namespace) -> list[dict]:
    """One question: its picture, if it has one, and its text."""
    if "image" not in item and "row" not in item:
        return user_turn([], item["text"])
    placeholder = f"{PLACEHOLDER}\n" if args.prompt == "paper" else ""
    return user_turn([question_source.item_image_part(item, args, table(args))], placeholder + item["text"])


BENCHMARK = Benchmark(
    "scienceqa",
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
    arguments = sys.argv[1:] if argv is None else argv
    if "--audit" in arguments:
        from eval.scienceqa_audit import audit

        return audit(BENCHMARK, [argument for argument in arguments if argument != "--audit"])
    return run(BENCHMARK, argv)


if __name__ == "__main__":
    run_script(main)
