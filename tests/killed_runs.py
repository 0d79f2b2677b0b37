"""Scripts in real processes that are killed with SIGKILL at a known place of their answers."""

import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import datasets

# What takes seconds to import is imported once, in the process that the others are forked from.
IMPORTED = ["eval.generate", "models.load", "datasets"]


def killed_after(rows: int, script: Path, words: list[str]) -> int:
    """Run `python script words...` until so many rows of its answers are on the disk; returns the exit status."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    process = context.Process(target=_run, args=(rows, str(script), words, datasets.config.HF_DATASETS_CACHE))
    process.start()
    process.join()
    return process.exitcode


def _run(rows: int, script: str, words: list[str], table_cache: Path) -> None:
    datasets.config.HF_DATASETS_CACHE = table_cache
    part = Path(f"{words[words.index('--answers_file') + 1]}.part-0")
    os.fsync = _then_killed(os.fsync, part, rows)
    sys.argv = [script, *words]
    runpy.run_path(script, run_name="__main__")


def _then_killed(fsync: Callable[[int], None], part: Path, rows: int) -> Callable[[int], None]:
    """`os.fsync`, after which the journal knows a row to be on the disk, and then the kill."""

    def sync(handle: int) -> None:
        fsync(handle)
        if part.exists() and part.read_bytes().count(b"\n") == rows:
            os.kill(os.getpid(), signal.SIGKILL)

    return sync
