"""Scripts as a user starts them: eval/probe.py's command, what a run takes, and what it prints."""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from models.errors import InputError

PROBE = Path(__file__).parents[1] / "probe.py"
USAGE = Path(__file__).with_name("usage.py")
LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node")


@dataclass(frozen=True)
class Called:
    """Seconds from start to end, peak memory of the largest of its processes (bytes, or not known), what it printed."""

    seconds: float
    peak: int | None
    printed: str


def command(args: argparse.Namespace, eval_file: Path, answers: Path, processes: int = 1) -> list[str]:
    """eval/probe.py in so many processes; no loader processes, so that one process is one."""
    launcher = (sys.executable,) if processes == 1 else (sys.executable, *LAUNCHER, processes)
    words = [PROBE, "--model_path", args.model_path, "--eval_file", eval_file, "--img_path", args.img_path]
    words += ["--answers_file", answers, "--num_workers", "0", "--max_new_tokens", "3", "--device", args.device]
    if args.position_balance is not None:
        words += ["--position_balance", str(args.position_balance).lower()]
    return [*map(str, launcher), *map(str, words)]


def called(words: list[str]) -> Called:
    """Run a command, one thread a process; InputError with its last line if it fails."""
    single = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    with tempfile.NamedTemporaryFile("r") as usage:
        around = [sys.executable, "-S", USAGE, usage.name]
        ended = subprocess.run([*around, *words], capture_output=True, text=True, env=single)
        if ended.returncode:
            said = ended.stderr.strip().splitlines() or [f"ended with status {ended.returncode}"]
            raise InputError(f"{' '.join(words)}: {said[-1]}")
        seconds, peak = usage.read().split()
    return Called(float(seconds), int(peak), ended.stdout)


def items_per_second(printed: str) -> float:
    """Of what eval/probe.py printed."""
    return float(re.search(r"([\d.]+) items/s", printed)[1])


def first_items(args: argparse.Namespace, folder: Path) -> tuple[Path, int]:
    """A file in `folder` with the first items of a probe, four times `--items`; and how many they are."""
    items = [line for line in args.eval_file.read_text(encoding="utf-8").splitlines() if line][: 4 * args.items]
    few = folder / "few.jsonl"
    few.write_text("\n".join(items) + "\n", encoding="utf-8")
    return few, len(items)
