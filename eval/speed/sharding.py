"""The probe as whole processes: one beside two that share its items, and what it costs to go on with a long file."""

import argparse
import json
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from data.files import numbered_json_lines
from eval.items import hash_pictures, image_field
from eval.journal import append_rows, open_part, part_paths
from eval.probe import messages
from eval.speed.commands import Called, called, command, first_items, items_per_second
from eval.speed.rows import Row, Size
from eval.speed.side_by_side import Ratio, side_by_side
from models.errors import InputError

ITEMS = (90, 9_000, 90_000)  # the last: the paper's probe


def sharding(args: argparse.Namespace, device: torch.device) -> Iterator[Row | Size]:
    """Items a second of one process and of two, without their start; what a run costs beside the model, by its length;
    and from both, what the paper's probe takes with more processes. (One GPU has no second process to compare.)
    """
    with tempfile.TemporaryDirectory() as root:
        compared = None
        if device.type != "cuda" or torch.cuda.device_count() > 1:
            compared = processes_row(args, Path(root))
            yield compared
        sizes = [bookkeeping_size(args, Path(root), ITEMS[0], None)]
        sizes += [bookkeeping_size(args, Path(root), count, sizes[0]) for count in ITEMS[1:]]
        yield from sizes
        if compared is not None:
            yield from processes_sizes(sizes[-1], compared.ratio, compared.ratio.units)


def processes_row(args: argparse.Namespace, folder: Path) -> Row:
    few, count = first_items(args, folder)

    def way(name: str, processes: int):
        def run(number: int) -> list[Called]:
            ended = called(command(args, few, folder / f"{name}-{number}.jsonl", processes))
            return [replace(ended, seconds=count / items_per_second(ended.printed))] * count

        return run

    one, two = way("one", 1), way("two", 2)
    ratio, _ = side_by_side(one, two, args.rounds, len, lambda items: items[0].seconds, lambda items: items[0].peak)
    for number in range(args.rounds):
        first, second = ((folder / f"{name}-{number}.jsonl").read_bytes() for name in ("one", "two"))
        assert first == second, "one process and two answer differently"
    note = f"efficiency {ratio.median / 2:.0%} of two processes; one thread each"
    return Row("shard", f"eval/probe.py, {count} items", "1 process", "2 processes", "items", ratio, note=note)


def bookkeeping_size(args: argparse.Namespace, folder: Path, count: int, start: Size | None) -> Size:
    """A run's bookkeeping: from start to end where every item has been answered, so that no model is loaded.

    `start`: the same of a few items, which is the start of Python and of the libraries.
    """
    ended = go_on(args, *answered(args, folder, count), count)
    limit = "the start of Python and of the libraries"
    if start is not None:
        more = (ended.seconds - start.seconds * start.size) / count * 1e6
        limit = f"beyond the start, {more:.0f} microseconds an item: its row read, its picture hashed"
    return Size("shard", "eval/probe.py without the model", count, "item", ended.seconds / count, ended.peak, limit)


def processes_sizes(bookkeeping: Size, ratio: Ratio, count: int) -> Iterator[Size]:
    """Seconds an item of the largest probe: its bookkeeping, which one process does, and the model's part of it.

    The model's is that of `ratio`, measured on a few items with one process and two; more suppose a core or GPU each.
    The peak is that of one of them, which grows with the items only as the bookkeeping does.
    """
    of = f"eval/probe.py, {bookkeeping.size:,} items, processes"
    alone, both = (seconds / count for seconds in ratio.seconds)
    one, two = ratio.peaks
    for processes, model, peak in ((1, alone, one), (2, both, two), (4, alone / 4, two), (8, alone / 8, two)):
        seconds = bookkeeping.seconds + model
        limit = f"the model, {model / seconds:.0%}; the rest is one process's"
        yield Size("shard", of, processes, "item", seconds, peak, limit, computed=True)


def go_on(args: argparse.Namespace, eval_file: Path, answers: Path, part: bytes, count: int) -> Called:
    """The whole command where every one of `count` items has been answered, all in a part file."""
    answers.unlink(missing_ok=True)
    answers.with_name(f"{answers.name}.part-0").write_bytes(part)
    ended = called(command(args, eval_file, answers))
    assert f"0 new, {count} resumed" in ended.printed
    return ended


def answered(args: argparse.Namespace, folder: Path, count: int) -> tuple[Path, Path, bytes]:
    """(questions, answers, bytes of a part file) of a probe of `count` items on the pictures of `args.eval_file`."""
    rows = [row for _, row in numbered_json_lines(args.eval_file)]
    items = [rows[number % len(rows)] | {"id": f"{number}"} for number in range(count)]
    eval_file, answers = folder / f"{count}.jsonl", folder / f"answers-{count}.jsonl"
    eval_file.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    process = subprocess.Popen(command(args, eval_file, answers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not any(path.stat().st_size for path in part_paths(answers)):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    parts = part_paths(answers)
    if not parts or not parts[0].stat().st_size:
        raise InputError(f"{args.model_path}: eval/probe.py ended before its first answer; run it to see why")
    hashes = {}
    for item in items:
        if item["image"] not in hashes:
            hashes[item["image"]] = image_field(hash_pictures(messages(item, args)))
    parts[0].unlink()
    with open_part(answers, 0) as part:
        made_up = {"prompt": "a prompt of ordinary length " * 12, "prediction": "Yes"}
        append_rows(part, [item | made_up | hashes[item["image"]] for item in items])
    return eval_file, answers, parts[0].read_bytes()
