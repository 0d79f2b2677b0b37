"""The probe as whole processes: one beside two that share its items, and what it costs to go on with a long file."""

import argparse
import json
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from eval.items import hash_pictures, image_field
from eval.journal import append_rows, open_part, part_paths
from eval.probe import messages
from eval.speed.commands import Called, called, command, first_items, items_per_second
from eval.speed.rows import Row
from eval.speed.side_by_side import side_by_side
from models.errors import InputError

LONG, SHORT = 90_000, 90  # rows; the paper's probe is the former


def sharding(args: argparse.Namespace, device) -> Iterator[Row]:
    """Two rows: items a second of one process and of two, without their start; seconds of going on with 90,000 rows."""
    with tempfile.TemporaryDirectory() as root:
        yield processes_row(args, Path(root))
        yield resume_row(args, Path(root))


def processes_row(args: argparse.Namespace, folder: Path) -> Row:
    few, count = first_items(args, folder)

    def way(name: str, processes: int):
        def run(number: int) -> list[float]:
            printed = called(command(args, few, folder / f"{name}-{number}.jsonl", processes)).printed
            return [count / items_per_second(printed)] * count

        return run

    one, two = way("one", 1), way("two", 2)
    ratio, _ = side_by_side(one, two, args.rounds, seconds_of=lambda times: times[0])
    for number in range(args.rounds):
        first, second = ((folder / f"{name}-{number}.jsonl").read_bytes() for name in ("one", "two"))
        assert first == second, "one process and two answer differently"
    note = f"efficiency {ratio.median / 2:.0%} of two processes; one thread each"
    return Row("shard", f"eval/probe.py, {count} items", "1 process", "2 processes", "items", ratio, note=note)


def resume_row(args: argparse.Namespace, folder: Path) -> Row:
    """Answers as a killed run leaves them: its manifest, and a part file with a row for every item, made up here."""
    runs = {count: answered(args, folder, count) for count in (LONG, SHORT)}

    def way(count: int):
        def run(number: int) -> list[float]:
            go_on(args, *runs[count], count)
            return [number]

        return run

    ratio, _ = side_by_side(way(LONG), way(SHORT), args.rounds)
    more = (ratio.seconds[0] - ratio.seconds[1]) / LONG * 1e6
    note = f"the start of Python and of the libraries is in both; beyond it {more:.0f} microseconds a row"
    return Row("shard", "going on where nothing is left", f"{LONG:,} rows", f"{SHORT} rows", "runs", ratio, note=note)


def go_on(args: argparse.Namespace, eval_file: Path, answers: Path, part: bytes, count: int) -> Called:
    """The whole command where every one of `count` items has been answered, all in a part file."""
    answers.unlink(missing_ok=True)
    answers.with_name(f"{answers.name}.part-0").write_bytes(part)
    ended = called(command(args, eval_file, answers))
    assert f"0 new, {count} resumed" in ended.printed
    return ended


def answered(args: argparse.Namespace, folder: Path, count: int) -> tuple[Path, Path, bytes]:
    """(questions, answers, bytes of a part file) of a probe of `count` items on the pictures of `args.eval_file`."""
    rows = [json.loads(line) for line in args.eval_file.read_text(encoding="utf-8").splitlines() if line]
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
