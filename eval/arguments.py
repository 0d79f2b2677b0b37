"""The command line that all benchmarks share."""

import argparse
import re
from pathlib import Path

from eval.engine_arguments import add_engine_arguments
from models.errors import ArgumentParser, true_or_false

ANSWERS = "answers.jsonl"
DTYPES = ("auto", "bfloat16", "float16", "float32")


def build_parser(
    description: str, max_new_tokens: int | None, file_in_folder: str | None = None
) -> argparse.ArgumentParser:
    """The parser of what all benchmarks share; a mistake on the command line is an InputError of one line.

    `max_new_tokens` None: the benchmark asks for no replies. `file_in_folder`: it writes pictures as well, so a folder
    is asked for instead of the answers file, which gets this name in it.
    """
    parser = ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.written = ("answers_file",)
    add = parser.add_argument
    add("--model_path", "--model", required=True, help="checkpoint: a folder, or an id of the hub")
    if file_in_folder is None:
        where = parser.add_mutually_exclusive_group(required=True)
        where.add_argument("--answers_file", "--answer_file", type=Path, help="JSON lines to write, one per item")
        where.add_argument(
            "--output_dir",
            dest="answers_file",
            type=lambda text: Path(text) / ANSWERS,
            metavar="FOLDER",
            help=f"or the folder to write them into, as {ANSWERS}",
        )
    else:
        add(
            "--output_dir",
            dest="answers_file",
            type=lambda text: Path(text) / file_in_folder,
            required=True,
            metavar="FOLDER",
            help=f"folder to write {file_in_folder} (JSON lines, one per item) and pictures into",
        )
    add(
        "--position_balance",
        type=true_or_false,
        metavar="true|false",
        help="overrides the checkpoint's config.json for this run (default: as config.json says)",
    )
    for bound in ("min", "max"):
        add(
            f"--{bound}_pixels",
            type=count,
            metavar="N",
            help=f"{bound}imum of pixels that pictures are scaled to, of models that take any size (default: the "
            "checkpoint's)",
        )
    add(
        "--image_aspect_ratio",
        choices=("pad", "crop"),
        help="LLaVA-1.5: pad pictures to a square with the mean colour, or crop one (default: the checkpoint's way; "
        "where it does not say, pad in LLaVA's published benchmarks, else crop)",
    )
    add(
        "--batch_size",
        type=auto_or_count,
        default=None,
        metavar="auto|N",
        help="prompts, in perception covered pictures, at a time (default: auto: 8, on a GPU 32, halved when its "
        "memory is too small)",
    )
    if max_new_tokens is not None:
        add(
            "--max_new_tokens",
            type=count,
            default=max_new_tokens,
            help="longest reply, in tokens (default: %(default)s)",
        )
    add(
        "--dtype",
        choices=DTYPES,
        default="auto",
        help="of weights and arithmetic (default: auto: on the CPU float32, else as the checkpoint says)",
    )
    add(
        "--device",
        type=device_name,
        default="auto",
        metavar="auto|cpu|cuda|cuda:N|mps",
        help="where the model runs (default: auto: a GPU if there is one; process r takes GPU r)",
    )
    add(
        "--attn_implementation",
        help="sdpa, eager, flash_attention_2, ... (default: the checkpoint's, else sdpa)",
    )
    add_engine_arguments(parser, count)
    add("--limit", type=count, help="ask only the first N items (default: all)")
    add(
        "--overwrite",
        action="store_true",
        help="delete the answers that are there and start anew; leave it out to continue",
    )
    add(
        "--num_workers",
        type=count_or_zero,
        help="processes that open pictures beside the model; 0: none (default: the free cores, at most 4)",
    )
    return parser


def count(text: str) -> int:
    """argparse's `type` of a number of things, at least one; like its neighbours, it raises ArgumentTypeError."""
    if not re.fullmatch(r"[0-9]+", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def count_or_zero(text: str) -> int:
    """The same, or 0."""
    return 0 if text == "0" else count(text)


def auto_or_count(text: str) -> int | None:
    """The same, or None for `auto`."""
    return None if text == "auto" else count(text)


def device_name(text: str) -> str:
    """One of auto, cpu, cuda, cuda:N and mps."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is none of auto, cpu, cuda, cuda:N, mps")
    return text
