"""Ask a model HallusionBench's yes/no questions about figures, their edited copies, and (some) no figure at all.

    python eval/hallusionbench.py --model_path checkpoints/llava-1.5-7b-hf --eval_file HallusionBench.json \\
        --img_path data/hallusion_bench --answers_file results/hallusionbench.jsonl

All 1,129 rows are asked, as the official script does; of its rules those without a judge, lmms-eval and VLMEvalKit
count the 951 with a figure. --img_path holds the folders VD and VS. eval/scorers/hallusionbench.py has the rules.
"""

import argparse

from eval import picture_folder
from eval.harness import Benchmark, run
from eval.picture_folder import PictureFolder, image_part
from eval.prompts import add_prompt, user_turn
from eval.records import BadRecord, build_items, json_records
from eval.scored_run import print_score
from eval.scorers import hallusionbench
from models.errors import run_script

PROMPTS = {
    "official": "the question alone",
    "vlmevalkit": "and a request for yes or no",
    "paper": "and the paper's request for Yes or No without reasoning",
}
REQUESTS = {
    "official": "",
    "vlmevalkit": " Please answer yes or no.",
    "paper": "\nThe answer should only contain 'Yes' or 'No', without reasoning process.",
}
KEY = hallusionbench.KEY
TEXTS = ("visual_input", "question", "gt_answer", "gt_answer_details")
FIELDS = {field: (str, int) for field in (*KEY, *TEXTS)} | {"filename": (str, type(None))}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the questions are, and how they are put."""
    picture_folder.add_arguments(parser, "HallusionBench.json", "folder that holds VD/ and VS/")
    add_prompt(parser, PROMPTS)


def load_items(args: argparse.Namespace) -> list[dict]:
    """The rows in the order of the file. Raises InputError naming file, entry and field."""
    folder = PictureFolder(args.img_path)

    def item_of(record: dict) -> dict:
        item = {field: record[field] for field in (*KEY, "visual_input", "question", "gt_answer_details")}
        item = {"id": "_".join(str(record[field]) for field in KEY), **item, "answer": record["gt_answer"]}
        if complaint := hallusionbench.check(item):
            raise BadRecord(complaint.replace("`answer`", "`gt_answer`"))
        has_figure = str(record["visual_input"]) != "0"
        if has_figure != (record["filename"] is not None):
            raise BadRecord(f"field `filename` is {record['filename']!r}, but visual_input is {record['visual_input']}")
        if has_figure:
            folder.check(record["filename"])
            item["image"] = record["filename"]
        return item

    items = build_items(json_records(args.eval_file), FIELDS, item_of, KEY)
    folder.check_any((item["image"] for item in items if "image" in item), args.eval_file)
    return items


def messages(item: dict, args: argparse.Namespace) -> list[dict]:
    """One question: the figure, if there is one, and the text."""
    pictures = [image_part(args.img_path, item["image"])] if "image" in item else []
    return user_turn(pictures, item["question"] + REQUESTS[args.prompt])


BENCHMARK = Benchmark("hallusionbench", add_arguments, load_items, messages, KEY, afterwards=print_score)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    return run(BENCHMARK, argv)


if __name__ == "__main__":
    run_script(main)
