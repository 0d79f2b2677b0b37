"""Ask a model of every canvas of a spatial probe whether it holds a picture that matches the caption.

    python eval/probe.py --model_path checkpoints/llava-1.5-7b-hf --eval_file probe.jsonl --img_path images \\
        --answers_file results/answers.jsonl

The probe (data/build_probe.py, or the paper's released file) is JSON lines with id, image, caption, position
and answer, beside a folder of canvases. eval/metrics.py scores the answers. The same command continues a run
that was stopped.
"""

import argparse
import os
from pathlib import Path

from data.grid import grid_of
from eval.harness import Benchmark, run
from eval.items import leaves_folder, read_items
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
    parser.add_argument("--eval_file", type=Path, required=True, help="the probe's items, JSON lines")
    parser.add_argument("--img_path", type=Path, required=True, help="folder of its canvases")


def load_items(args: argparse.Namespace) -> list[dict]:
    """The probe's items in the order of the file. Raises InputError naming file, line and field."""
    if not args.img_path.is_dir():
        raise InputError(f"--img_path {args.img_path}: no such folder")

    root = os.path.realpath(args.img_path)

    def check(item: dict) -> str | None:
        if grid_of({item["position"]}) is None:
            return f"unknown position `{item['position']}`; see data/grid.py for the names"
        if item["answer"].lower() not in ("yes", "no"):
            return f"answer `{item['answer']}` is neither Yes nor No"
        if leaves_folder(root, item["image"]):
            return f"image `{item['image']}` lies outside --img_path {args.img_path}"
        return None

    items = read_items(args.eval_file, FIELDS, KEY, check)
    if grid_of({item["position"] for item in items}) is None:
        raise InputError(f"{args.eval_file}: field `position` has cells of grids of different sizes; use one grid")
    if not any((args.img_path / item["image"]).is_file() for item in items):
        raise InputError(f"--img_path {args.img_path}: holds none of the images that {args.eval_file} names")
    return items


def messages(item: dict, args: argparse.Namespace) -> list[dict]:
    """One question: the canvas, then the paper's prompt."""
    image = {"type": "image", "path": args.img_path / item["image"]}
    text = {"type": "text", "text": PROMPT.format(caption=item["caption"])}
    return [{"role": "user", "content": [image, text]}]


BENCHMARK = Benchmark("probe", add_arguments, load_items, messages, KEY)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    return run(BENCHMARK, argv)


if __name__ == "__main__":
    run_script(main)
