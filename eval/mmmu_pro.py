"""Ask a model the questions of MMMU-Pro: exam questions of up to twelve options and seven pictures.

    python eval/mmmu_pro.py --model_path checkpoints/Qwen2.5-VL-7B-Instruct --dataset_path MMMU/MMMU_Pro \\
        --dataset_variant "standard (10 options)" vision --mode direct --answers_file results/mmmu_pro.jsonl

1,730 questions in each of three variants; the official overall figure is the mean of the two above, which are the
default. A marker `<image 3>` in question or options always means the picture image_3: pictures follow the text in the
order of their markers, repeated ones too, and the markers become `[image]`, as in the official script for
transformers. eval/scorers/mmmu_pro.py has the scoring rules.
"""

import argparse
import ast
import re

from eval import tables
from eval.harness import Benchmark, run
from eval.records import BadRecord, build_items
from eval.scored_run import print_score
from eval.scorers import mmmu_pro
from eval.scorers.mmmu_pro import VARIANTS
from eval.scorers.rules import LETTERS
from eval.table_source import Table
from eval.tables import table_image_part
from models.errors import run_script

LAST_LINE = (
    "The last line of your response should be of the following format: 'Answer: $LETTER' (without quotes) where LETTER "
    "is one of options."
)
DIRECT = "Answer with the option letter from the given choices directly."
REASONING = "Think step by step before answering."
# Of the official prompts.yaml.
INSTRUCTIONS = {
    ("direct", "standard"): DIRECT,
    ("direct", "vision"): f"{DIRECT} {LAST_LINE}",
    ("cot", "standard"): f"Answer the preceding multiple choice question. {LAST_LINE} {REASONING}",
    ("cot", "vision"): (
        f"Write out the multiple-choice question in the image and then solve it. {LAST_LINE} {REASONING}"
    ),
}
MARKER = re.compile(r"<image\s+(\d+)>")
FIELDS = {"id": str, "options": (str, list), "answer": str}
KEY = ("variant", "id")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the questions are, and how they are put."""
    tables.add_arguments(parser, "MMMU/MMMU_Pro")
    parser.add_argument(
        "--dataset_variant",
        nargs="+",
        choices=VARIANTS,
        default=["standard (10 options)", "vision"],
        metavar="VARIANT",
        help=f"of {', '.join(map(repr, VARIANTS))} (default: the first and the last)",
    )
    parser.add_argument(
        "--mode",
        choices=("direct", "cot"),
        default="direct",
        help="the letter at once, or after reasoning: give --max_new_tokens room for it (default: %(default)s)",
    )


def load_items(args: argparse.Namespace) -> list[dict]:
    """The questions of all variants asked for. Raises InputError naming data set, row and field."""
    return [item for table in tables_of(args) for item in variant_items(args, table)]


def tables_of(args: argparse.Namespace) -> list[Table]:
    """The table of each variant asked for."""
    return [tables.table_of(args, "test", variant) for variant in dict.fromkeys(args.dataset_variant)]


def variant_items(args: argparse.Namespace, table: Table) -> list[dict]:
    """The questions of one variant, in the order of its rows."""
    variant = table.config
    if variant == "vision":
        tables.require_pictures(table)
    present = tables.pictures_present(table)
    fields = FIELDS if variant == "vision" else FIELDS | {"question": str}

    def item_of(record: dict) -> dict:
        row, options = record["row"], listed(record["options"])
        text, images = vision_text(args.mode) if variant == "vision" else standard_text(args.mode, record, options)
        missing = [name for name in images if name not in present or not present[name][row]]
        if missing:
            raise BadRecord(f"the text has a place for {missing[0]}, which is not there; download the data again")
        item = {"id": record["id"], "variant": variant, "mode": args.mode, "text": text, "options": options}
        item |= {"answer": record["answer"], "row": row, "images": images}
        if complaint := mmmu_pro.check(item):
            raise BadRecord(complaint)
        return item

    return build_items(tables.table_records(table, tuple(fields)), fields, item_of, KEY)


def vision_text(mode: str) -> tuple[str, list[str]]:
    """What is asked of a picture that has question and options in it, and the picture's column."""
    return INSTRUCTIONS[mode, "vision"], ["image"]


def standard_text(mode: str, record: dict, options: list[str]) -> tuple[str, list[str]]:
    """Question, options and instruction, and the columns of the pictures in the order of their markers."""
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    text = "\n".join([record["question"], *lines, INSTRUCTIONS[mode, "standard"]])
    return MARKER.sub("[image]", text), [f"image_{number}" for number in MARKER.findall(text)]


def listed(options: str | list) -> list[str]:
    """The options, which the data has as a text that holds a Python list."""
    if isinstance(options, str):
        try:
            options = ast.literal_eval(options)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            options = None
    if not isinstance(options, list) or not 0 < len(options) <= len(LETTERS):
        raise BadRecord("field `options` is not a list of texts, nor a text that holds one; download the data again")
    return [str(option) for option in options]


def messages(item: dict, args: argparse.Namespace) -> list[dict]:
    """One question: its text, then its pictures in the order of their markers."""
    table = tables.table_of(args, "test", item["variant"])
    pictures = [table_image_part(table, item["row"], name) for name in item["images"]]
    return [{"role": "user", "content": [{"type": "text", "text": item["text"]}, *pictures]}]


BENCHMARK = Benchmark(
    "mmmu_pro", add_arguments, load_items, messages, KEY, 1024, afterwards=print_score, tables=tables_of
)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    return run(BENCHMARK, argv)


if __name__ == "__main__":
    run_script(main)
