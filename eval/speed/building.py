"""Building the probe beside the least that it must do: encode its canvases as JPEG, on as many cores."""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from data.canvas import encode, make_layout
from eval.speed.commands import Called, called
from eval.speed.rows import Goal, Row
from eval.speed.side_by_side import side_by_side
from models.errors import InputError

DATA = Path(__file__).parents[2] / "data"
PHOTOS = DATA / "samples/photos"
CROPS = 16  # of each photograph: captions must differ, and a small build is mostly the start of its workers
SIDE = 512  # px, of a crop: that of LAION's pictures as img2dataset keeps them, at most
LAYOUT = make_layout(3, 840, None, 4, 8)  # even, as all measurements so far: nothing is enlarged
GOAL = Goal(0.8)


def write_source(folder: Path) -> int:
    """Crops of the bundled photographs, with captions, as a source of pairs; returns how many."""
    rng, count = np.random.default_rng(0), 0
    for path in sorted(PHOTOS.glob("*.jpg")):
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
        for _ in range(CROPS):
            side = int(min(picture.size) * rng.uniform(0.5, 1))
            left, top = (int(rng.integers(0, whole - side + 1)) for whole in picture.size)
            crop = picture.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            crop.save(folder / f"{count:04d}.jpg", quality=95)
            (folder / f"{count:04d}.txt").write_text(f"{path.stem}, crop {count}")
            count += 1
    return count


def encode_alone(paths: list[Path]) -> float:
    """Seconds that encoding the canvases in `paths` takes, without reading and decoding them."""
    canvases = []
    for path in paths:
        with Image.open(path) as opened:
            canvases.append(opened.convert("RGB"))
    start = time.perf_counter()
    for canvas in canvases:
        encode(canvas, LAYOUT)
    return time.perf_counter() - start


def building(args: argparse.Namespace, device) -> Iterator[Row]:
    """One row: seconds of encoding alone over those of the whole command, its start and sampling included."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not PHOTOS.is_dir():
        raise InputError(f"{PHOTOS}: is missing; it comes with the repository")
    with (
        tempfile.TemporaryDirectory() as root,
        ProcessPoolExecutor(cores, multiprocessing.get_context("spawn")) as pool,
    ):
        source = Path(root) / "source"
        source.mkdir()
        captions = write_source(source)

        def build(number: int) -> list[Called]:
            words = ["--source", source, "--output_dir", Path(root) / f"probe_{number}", "--num_captions", captions]
            command = [sys.executable, DATA / "build_probe.py", *words, "--workers", cores, "--layout", "even"]
            return [called([*map(str, command)])] * captions * 9

        build(-1)
        canvases = sorted((Path(root) / "probe_-1/images").iterdir())
        shares = [canvases[place::cores] for place in range(cores)]

        def limit(number: int) -> list[Called]:
            # It holds all canvases, so that nothing but encoding is timed; that memory says nothing.
            return [Called(max(pool.map(encode_alone, shares)), None, "")] * len(canvases)

        limit(-1)
        ratio, _ = side_by_side(
            limit, build, args.rounds, len, lambda found: found[0].seconds, lambda found: found[0].peak
        )
    what = f"{captions} captions, {len(canvases)} canvases of 840 px, {cores} processes"
    yield Row("build", what, "JPEG encoding alone", "the build", "canvases", ratio, GOAL)
