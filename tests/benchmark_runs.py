"""eval/<benchmark>.py run in this process, and what each would ask."""

import argparse
import importlib
from pathlib import Path

from eval.arguments import build_parser
from eval.harness import Benchmark
from eval.items import open_picture


def script(name: str):
    return importlib.import_module(f"eval.{name}")


def command(model: Path, answers: Path, arguments: list, *more) -> list[str]:
    """The command line behind the script's name."""
    own = ("--model_path", model, "--answers_file", answers, "--max_new_tokens", 6, "--num_workers", 0)
    return [str(part) for part in (*own, *arguments, *more)]


def ask(name: str, model: Path, answers: Path, arguments: list, *more) -> int:
    return script(name).main(command(model, answers, arguments, *more))


def parsed(name: str, arguments: list, *more) -> tuple[Benchmark, argparse.Namespace]:
    benchmark = script(name).BENCHMARK
    parser = build_parser("", 128)
    benchmark.add_arguments(parser)
    given = ["--model_path", "m", "--answers_file", "a", *arguments, *more]
    return benchmark, parser.parse_args([str(part) for part in given])


def questions(name: str, arguments: list, *more) -> tuple[list[dict], list[list]]:
    """The items, and of each prompt its parts in order: texts, and sizes of pictures."""
    benchmark, args = parsed(name, arguments, *more)
    items = benchmark.load_items(args)
    contents = [turn["content"] for item in items for turn in benchmark.messages(item, args)]
    return items, [
        [part["text"] if part["type"] == "text" else open_picture(part)[0].size for part in content]
        for content in contents
    ]
