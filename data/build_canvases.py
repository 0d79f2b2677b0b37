"""What build_probe.py and build_similarity.py share: flags, the choice of pictures, drawing, the files."""

import argparse
import hashlib
import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import PIL

from data.canvas import ENLARGING, RESAMPLING, Layout, make_layout, paper_layout
from data.draw_canvases import Task, draw
from data.files import write_atomic
from data.grid import cell_names
from data.output_folder import WORK, finish_work, open_build, read_manifest, start_work
from data.sampling import Picture, Sample, random_order, take_sample
from data.sources import FORMS, Source, find_source
from models.errors import ArgumentParser, InputError


class Plan(NamedTuple):
    """One caption's canvases, as places in the sample; `other` is whose caption is asked as "No", if any."""

    target: int
    distractors: list[int]
    other: int | None


def make_parser(description: str) -> ArgumentParser:
    """The flags of both builds; lengths in pixels, defaults as in the paper."""
    parser = ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument("--source", required=True, type=Path, help=f"image-caption pairs: {FORMS}")
    parser.add_argument("--output_dir", required=True, type=Path, help="folder to write; a killed build goes on there")
    parser.add_argument("--num_captions", type=int, default=10_000, help="captions to sample (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of every choice (%(default)s)")
    parser.add_argument("--min_side", type=int, default=32, help="leave out smaller pictures, px (%(default)s)")
    parser.add_argument("--workers", type=int, default=_cores(), help="drawing processes (%(default)s, the cores)")
    parser.add_argument("--grid", type=int, default=3, help="cells a side, 2 to 6 (%(default)s)")
    parser.add_argument(
        "--layout",
        choices=("paper", "even"),
        default="paper",
        help="paper: its canvas of 840 px, cells of 268.8 px; even: the sizes that follow (%(default)s)",
    )
    parser.add_argument("--canvas", type=int, help="even: side of the canvas, px (840)")
    parser.add_argument(
        "--cell", type=int, help="even: side of a cell, px (the largest that fits: 272 with the others)"
    )
    parser.add_argument("--gap", type=int, help="even: between cells, px (4)")
    parser.add_argument("--border", type=int, help="even: around the cells, px (8)")
    parser.add_argument("--follow_paths", action="store_true", help="read pictures that data names out of its folder")
    parser.add_argument("--overwrite", action="store_true", help="replace the build that --output_dir holds")
    return parser


def layout_of(args: argparse.Namespace) -> Layout:
    """The layout that the flags ask for. Raises InputError for sizes that do not go together."""
    sizes = {"canvas": 840, "cell": None, "gap": 4, "border": 8}
    given = {name: getattr(args, name) for name in sizes if getattr(args, name) is not None}
    if args.layout == "paper":
        for name, value in given.items():
            raise InputError(
                f"--{name} {value}: the paper's layout has sizes of its own; give --layout even for others"
            )
        return paper_layout(args.grid)
    return make_layout(args.grid, **sizes | given)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def build(kind: str, args: argparse.Namespace, distractors: int, negatives: float = 0.0) -> None:
    """Write `<kind>.jsonl`, images/ and manifest.json into `args.output_dir`, or go on with what a kill left.

    Every caption has grid * grid canvases with the target in each cell in turn and the same `distractors`
    pictures, in the same order, in the others; a share `negatives` of the captions is also asked with a
    caption that is on none of its pictures. The files are the same bytes for the same source, arguments and
    version of Pillow, wherever the source lies, whatever the number of workers and however often the build was
    killed. Raises InputError for bad arguments or a bad source.
    """
    for flag in ("num_captions", "min_side", "workers"):
        if getattr(args, flag) < 1:
            raise InputError(f"--{flag} {getattr(args, flag)}: must be 1 or more")
    layout = layout_of(args)
    source, folder = find_source(args.source, args.follow_paths), args.output_dir
    if folder.resolve().is_relative_to(args.source.resolve()):
        raise InputError(f"--output_dir {folder}: is inside --source {args.source}; choose a folder outside it")
    identity = _identity(kind, args, negatives, layout, source)
    with open_build(folder, identity, args.overwrite):
        if _is_complete(kind, folder):
            finish_work(folder)
            print(f"{folder}: this build is there already and complete; nothing to do")
            return
        work = start_work(folder, identity)
        sample = take_sample(source, args.num_captions, args.seed, args.min_side, work)
        try:
            _check_size(sample, args)
            plans = _plan(sample.pictures, args.seed, distractors, negatives)
        except InputError:
            finish_work(folder)
            raise
        draw(layout, _tasks(folder, layout, sample.pictures, plans), folder / WORK / "fitted", args.workers)
        rows = list(_rows(sample.pictures, plans, cell_names(layout.grid)))
        write_atomic(folder / f"{kind}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        manifest = _manifest(identity, source, sample, rows)
        write_atomic(folder / "manifest.json", json.dumps(manifest, indent=2) + "\n")
        finish_work(folder)
    _print_summary(folder / f"{kind}.jsonl", manifest)


def _identity(kind: str, args: argparse.Namespace, negatives: float, layout: Layout, source: Source) -> dict:
    """Everything that decides the bytes of a build."""
    sizes = {name: getattr(layout, name) for name in ("grid", "canvas", "cell", "gap", "border")}
    if layout.enlarged is not None:  # `canvas` is the side of the file; the other sizes are those of the drawing
        sizes |= {"canvas": layout.enlarged, "drawn_on": layout.canvas, "enlarged_with": ENLARGING.name.lower()}
        sizes = {"layout": args.layout, **sizes}
    return {
        "build": kind,
        "num_captions": args.num_captions,
        "seed": args.seed,
        "negatives": negatives,
        "min_side": args.min_side,
        **sizes,
        "source_form": source.form,
        "source_fingerprint": source.fingerprint,
        "jpeg_quality": layout.quality,
        "resampling": RESAMPLING.name.lower(),
        "pillow": PIL.__version__,
    }


def _is_complete(kind: str, folder: Path) -> bool:
    manifest = read_manifest(folder)
    if manifest is None or not (folder / f"{kind}.jsonl").exists() or not (folder / "images").exists():
        return False
    return len(os.listdir(folder / "images")) == manifest["images"]


def _check_size(sample: Sample, args: argparse.Namespace) -> None:
    usable = len(sample.pictures)
    if usable < args.num_captions:
        raise InputError(
            f"--source {args.source}: {usable} usable of {sample.items} items ({_counts(sample.skipped)}), "
            f"fewer than --num_captions {args.num_captions}; lower it or give a larger source"
        )


def _plan(pictures: list[Picture], seed: int, distractors: int, negatives: float) -> list[Plan]:
    """The pictures of every caption's canvases: no picture and no caption is twice on a canvas.

    A share `negatives` of the captions, spread evenly, gets the caption of a picture that is not on the
    canvas.
    """
    plans = []
    for target in range(len(pictures)):
        with_negative = round((target + 1) * negatives) > round(target * negatives)
        needed = distractors + with_negative
        chosen = list(islice(_unlike(pictures, target, f"{seed}\n{target}"), needed))
        if len(chosen) < needed:
            negative = " and a caption for --negatives" if with_negative else ""
            raise InputError(
                f"--num_captions {len(pictures)}: a caption needs {distractors} distractors{negative}, "
                f"with pictures and captions all different, and the sample has {len(chosen)}; "
                "raise it or give a larger source"
            )
        plans.append(Plan(target, chosen[:distractors], chosen[distractors] if with_negative else None))
    return plans


def _unlike(pictures: list[Picture], target: int, seed: str) -> Iterator[int]:
    """Places of pictures in random order, each unlike the target and unlike those before it."""
    seen = {pictures[target].caption, pictures[target].sha256}
    for place in random_order(seed, len(pictures)):
        caption, sha256, _ = pictures[place]
        if caption not in seen and sha256 not in seen:
            seen |= {caption, sha256}
            yield place


def _tasks(folder: Path, layout: Layout, pictures: list[Picture], plans: list[Plan]) -> list[Task]:
    """What is to be drawn into images/, one task a caption."""
    images, pool = folder / "images", folder / WORK / "pool"
    images.mkdir(exist_ok=True)
    return [
        Task(
            [pool / pictures[place].file for place in (plan.target, *plan.distractors)],
            {k: images / f"{plan.target:06d}_{k}.jpg" for k in range(layout.grid**2)},
        )
        for plan in plans
    ]


def _rows(pictures: list[Picture], plans: list[Plan], positions: tuple[str, ...]) -> Iterator[dict]:
    for plan in plans:
        for suffix, place, answer in (("", plan.target, "Yes"), ("_no", plan.other, "No")):
            if place is None:
                continue
            for k, position in enumerate(positions):
                name = f"{plan.target:06d}_{k}"
                caption = pictures[place].caption
                row = {"id": name + suffix, "image": f"{name}.jpg", "caption": caption}
                yield {**row, "position": position, "answer": answer}


def _manifest(identity: dict, source: Source, sample: Sample, rows: list[dict]) -> dict:
    pairs = "".join(f"{picture.sha256} {picture.caption}\n" for picture in sample.pictures)
    return {
        "identity": identity,
        "source": {"form": source.form, "items": sample.items},
        "candidates": sample.candidates,
        "skipped_candidates": sample.skipped,
        "sample_sha256": hashlib.sha256(pairs.encode()).hexdigest(),
        "captions": len(sample.pictures),
        "images": len({row["image"] for row in rows}),
        "items": len(rows),
        "negatives": sum(row["answer"] == "No" for row in rows),
    }


def _print_summary(path: Path, manifest: dict) -> None:
    negatives = f", {manifest['negatives']} of them negative" if manifest["negatives"] else ""
    print(f"{path}: {manifest['captions']} captions, {manifest['items']} items{negatives}")
    print(
        f"read {manifest['candidates']} candidates of {manifest['source']['items']} items in the source; "
        f"{_counts(manifest['skipped_candidates'])}"
    )


def _counts(skipped: dict[str, int]) -> str:
    reasons = ", ".join(f"{reason} {count}" for reason, count in skipped.items())
    return f"skipped: {reasons}" if reasons else "none skipped"
