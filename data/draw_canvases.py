"""Drawing a build's canvases: several processes, each picture fitted once, what a kill left drawn again."""

import multiprocessing
import os
import secrets
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from tqdm import tqdm

from data.canvas import Layout, decode, draw_canvas, encode, fit, move_target
from data.files import writing
from models.errors import ignore_interrupts

JPEG_END = b"\xff\xd9"
HEADER = 8  # bytes before a fitted picture's pixels: width and height, four each


class Task(NamedTuple):
    """One caption's canvases: the pictures' files, the target's first; row-major cell of the target -> canvas."""

    pictures: list[Path]
    canvases: dict[int, Path]


def draw(layout: Layout, tasks: Sequence[Task], fitted: Path, workers: int) -> None:
    """Draw what is missing, or not whole, of the canvases of `tasks`.

    A picture is on the canvases of about nine captions: `fitted`, a folder, takes its pixels, fitted into a cell, for
    the next of them (three bytes a pixel of a cell: 2.0 GB for 10,000 pictures of the paper's layout). All canvases are
    on the disk when this returns.
    """
    fitted.mkdir(parents=True, exist_ok=True)
    there = {
        folder: set(os.listdir(folder)) for folder in {path.parent for task in tasks for path in task.canvases.values()}
    }
    left = []
    for task in tasks:
        missing = {
            k: path for k, path in task.canvases.items() if path.name not in there[path.parent] or not is_whole(path)
        }
        if missing:
            left.append(Task(task.pictures, missing))
    work = partial(_draw_caption, layout, fitted)
    progress = partial(tqdm, desc="drawing", unit=" captions", total=len(tasks), initial=len(tasks) - len(left))
    workers = min(workers, len(left))
    if workers <= 1:
        for task in progress(left):
            work(task)
    else:
        # Spawned, not forked: the parent may hold threads of parquet's reader.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, _end_with_parent) as executor:
            for _ in progress(executor.map(work, left)):
                pass
    if hasattr(os, "sync"):
        os.sync()  # once, instead of waiting for the disk after every canvas


def is_whole(path: Path) -> bool:
    """Whether a JPEG file has its end. A machine that lost power may have kept a canvas's name without its bytes."""
    with open(path, "rb") as file:
        file.seek(0, os.SEEK_END)
        if file.tell() < len(JPEG_END):
            return False
        file.seek(-len(JPEG_END), os.SEEK_END)
        return file.read() == JPEG_END


def _draw_caption(layout: Layout, fitted: Path, task: Task) -> None:
    target, *distractors = [_fit(path, layout.cell, fitted) for path in task.pictures]
    canvas, drawn = None, None
    for k, path in sorted(task.canvases.items()):
        if drawn is not None and k == drawn + 1:
            move_target(canvas, layout, target, distractors, k)
        else:
            canvas = draw_canvas(layout, target, distractors, k)
        drawn = k
        _write(path, encode(canvas, layout))


def _fit(path: Path, side: int, fitted: Path) -> Image.Image:
    """The picture of a file, fitted into a cell of `side` px; from `fitted` if it is there, else it is put there."""
    kept = fitted / f"{path.name}.{side}"
    try:
        content = kept.read_bytes()
    except FileNotFoundError:
        picture = fit(decode(path.read_bytes(), side), side)
        size = b"".join(length.to_bytes(4, "big") for length in picture.size)
        _write(kept, size + picture.tobytes())
        return picture
    size = tuple(int.from_bytes(content[start : start + 4], "big") for start in (0, 4))
    if len(content) != HEADER + 3 * size[0] * size[1]:  # a machine lost power
        kept.unlink()
        return _fit(path, side, fitted)
    return Image.frombytes("RGB", size, content[HEADER:])


def _write(path: Path, content: bytes) -> None:
    """All or nothing for a killed process, without waiting for the disk; processes may write the same file."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with writing(path):
            temporary.write_bytes(content)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _end_with_parent() -> None:
    """End this worker as soon as its parent is gone, even by a kill: it must not write to a resumed build."""
    ignore_interrupts()

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
