"""Ask a model of every canvas of a spatial probe whether it holds a picture that matches the caption.

    python eval/probe.py --model_path checkpoints/llava-1.5-7b-hf --eval_file probe.jsonl --img_path images \\
        --answers_file results/answers.jsonl

The probe (data/build_probe.py, or the paper's released file) is JSON lines with id, image, caption, position
and answer, beside a folder of canvases. eval/metrics.py scores the answers. The same command continues a run
that was stopped.
"""

import argparse

from data.grid import grid_of
from eval import picture_folder
from eval.harness import Benchmark, run
from eval.picture_folder import PictureFolder, image_part
from eval.prompts import user_turn
from eval.records import BadRecord, build_items, json_records
from models.errors import InputError, run_script

# The paper's wording, to the letter (arXiv 2509.21984).
PROMPT = (
    "Determine if there is a sub-image in the given image that matches the text following.\n"
    "Text: {caption}\n"
    "The answer should only contain 'Yes' or 'No', without reasoning process.\n"
)
FIELDS = {"id": (str, int), "image": str, "caption": str, "position": str, "answer": str}
# The paper's released file may give one id to all cells of a caption.
KEY = ("id", "position", "answer")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The probe's own arguments."""
    picture_folder.add_arguments(parser, "the probe's items, JSON lines", "folder of its canvases")


def load_items(args: argparse.Namespace) -> list[dict]:
    """The probe's items in the order of the file. Raises InputError naming file, line and field."""
    folder = PictureFolder(args.img_path, follows_links=False)

    def checked(item: dict) -> dict:
        if grid_of({item["position"]}) is None:
            raise BadRecord(f"unknown position `{item['position']}`; see data/grid.py for the names")
        if item["answer"].lower() not in ("yes", "no"):
            raise BadRecord(f"answer `{item['answer']}` is neither Yes nor No")
        folder.check(item["image"])
        return item

    items = build_items(json_records(args.eval_file), FIELDS, checked, KEY)
    if grid_of({item["position"] for item in items}) is None:
        raise InputError(f"{args.eval_file}: field `position` has cells of grids of different sizes; use one grid")
    folder.check_any((item["image"] for item in items), args.eval_file)
    return items


def messages(item: dict, args: argparse.Namespace) -> list[dict]:
    """One question: the canvas, then the paper's prompt."""
    return user_turn([image_part(args.img_path, item["image"])], PROMPT.format(caption=item["caption"]))


BENCHMARK = Benchmark("probe", add_arguments, load_items, messages, KEY)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    return run(BENCHMARK, argv)


if __name__ == "__main__":
    run_script(main)
