"""Draw the miniature world: the data that a small LVLM is trained and tested on, in the formats of the big data.

    python data/build_miniature.py --output_dir results/miniature/data

Writes, in a few minutes:

    pictures/{train,test}/  pictures with captions.jsonl, an image-caption source; no test caption is in train
    scenes.jsonl            for a language model, before it sees: canvases in words, a line a cell, and a question
    captions.json           pre-training, as blip_laion_cc_sbu_558k.json: a canvas with one picture, and its caption
    instructions.json       tuning, as llava_v1_5_mix665k.json: canvases of up to grid x grid pictures; what is in a
                            cell, where something is, and the probe's own question
    images/                 the canvases of these two
    probe/ similarity/      from the test pictures, by build_probe.py (with negatives) and build_similarity.py

No cell is favoured: in all three every cell is filled, asked for and answered equally often
(data/miniature_conversations.py).
"""

import argparse
import hashlib
import json
import os
import random
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from data import build_probe, build_similarity
from data.canvas import Layout, draw_cells, fit, make_layout
from data.files import write_atomic
from data.instruction_formats import as_array
from data.miniature_conversations import CELL, MATCH, PLACE, converse, describe, plan_canvases
from data.miniature_world import concepts, draw_picture
from models.errors import ArgumentParser, InputError, run_script
from models.writing import new_folder

GAP, BORDER = 1, 1  # px, on a canvas of the model's own size
MIX = {CELL: 0.2, PLACE: 0.4, MATCH: 0.4}  # shares of the questions


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--output_dir", required=True, type=Path, help="an empty or new folder; it comes whole or not at all")
    add("--pictures", type=int, default=120, help="training pictures of every concept (%(default)s)")
    add("--test_pictures", type=int, default=4, help="test pictures of every concept (%(default)s)")
    add("--scenes", type=int, default=100_000, help="lines of scenes.jsonl, about (%(default)s)")
    add("--captions", type=int, default=9_000, help="canvases of captions.json, about (%(default)s)")
    add("--instructions", type=int, default=48_000, help="canvases of instructions.json, about (%(default)s)")
    add("--grid", type=int, default=3, help="cells a side of a canvas (%(default)s)")
    add("--canvas", type=int, default=144, help="side of a training canvas, px: the model's (%(default)s)")
    add(
        "--layout",
        choices=("even", "paper"),
        default="even",
        help="of probe and similarity set: the one that the miniature's results are of, or the paper's (%(default)s)",
    )
    add("--probe_captions", type=int, default=300, help="captions of probe and similarity set (%(default)s)")
    add("--seed", type=int, default=0, help="of everything but the split into train and test (%(default)s)")
    add("--workers", type=int, default=os.cpu_count() or 1, help="drawing processes (%(default)s, the cores)")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    check(args)
    layout = make_layout(args.grid, args.canvas, None, GAP, BORDER)
    with new_folder(args.output_dir) as folder, ProcessPoolExecutor(args.workers) as pool:
        for split, count in (("train", args.pictures), ("test", args.test_pictures)):
            draw_source(folder / "pictures" / split, split, count, args.seed, pool)
        rows = {
            "captions": plan_captions(args, layout),
            "instructions": plan_tuning(args, layout),
        }
        scenes = "".join(json.dumps(scene) + "\n" for scene in plan_scenes(args))
        write_atomic(folder / "scenes.jsonl", scenes)
        for name, samples in rows.items():
            write_canvases(folder, name, samples, layout, pool)
        for build in (build_probe, build_similarity):
            kind = build.__name__.rsplit("_", 1)[1]
            words = ["--source", str(folder / "pictures" / "test"), "--output_dir", str(folder / kind)]
            words += ["--num_captions", str(args.probe_captions), "--grid", str(args.grid), "--seed", str(args.seed)]
            words += ["--workers", str(args.workers), "--layout", args.layout]
            build.main(words + (["--negatives", "1.0"] if build is build_probe else []))
        write_atomic(folder / "manifest.json", json.dumps(manifest(args, folder), indent=2) + "\n")
    print(f"{args.output_dir}: the miniature world; manifest.json counts what is in it")


def check(args: argparse.Namespace) -> None:
    """InputError for numbers that make no world."""
    for flag in ("pictures", "test_pictures", "scenes", "captions", "instructions", "probe_captions", "workers"):
        if getattr(args, flag) < 1:
            raise InputError(f"--{flag} {getattr(args, flag)}: must be 1 or more")
    available = args.test_pictures * len(concepts("test"))
    if args.probe_captions > available:
        raise InputError(f"--probe_captions {args.probe_captions}: there are {available} test pictures; raise them")


def draw_source(folder: Path, split: str, count: int, seed: int, pool: ProcessPoolExecutor) -> None:
    """`count` pictures of every concept of `split`, and captions.jsonl."""
    folder.mkdir(parents=True)
    ours = concepts(split)
    tasks = [(folder, number, count, f"{seed} {split} {number}") for number in range(len(ours))]
    work = partial(_draw_concept, split)
    lines = [
        line for lines in tqdm(pool.map(work, tasks), f"drawing {split}", len(ours), unit=" concepts") for line in lines
    ]
    write_atomic(folder / "captions.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


def _draw_concept(split: str, task: tuple[Path, int, int, str]) -> list[dict]:
    folder, number, count, seed = task
    rng, concept = random.Random(seed), concepts(split)[number]
    lines = []
    for variant in range(count):
        name = picture_name(number, variant)
        draw_picture(concept, rng).save(folder / name)
        lines.append({"image": name, "caption": concept.caption})
    return lines


def picture_name(concept: int, variant: int) -> str:
    return f"{concept:03d}_{variant:03d}.png"


def plan_captions(args: argparse.Namespace, layout: Layout) -> Iterator[tuple[dict, dict[int, str]]]:
    """(sample in LLaVA's form, picture of each filled cell) for canvases of one picture, with its caption."""
    rng = random.Random(f"{args.seed} captions")
    ours = concepts("train")
    captions = [concept.caption for concept in ours]
    plans = plan_canvases(_groups(args.captions, layout.grid), len(ours), layout.grid, [1], {CELL: 1}, rng)
    for number, canvas in enumerate(plans):
        (concept,) = canvas.concepts.values()
        yield _sample(f"captions_{number:06d}", [("<image>", captions[concept])]), _choose(canvas.concepts, args, rng)


def full(grid: int) -> list[int]:
    """Numbers of pictures, one of which is drawn for a canvas: half of the canvases are full."""
    cells = grid**2
    return [2, cells // 2, cells, cells]


def plan_tuning(args: argparse.Namespace, layout: Layout) -> Iterator[tuple[dict, dict[int, str]]]:
    """The same for canvases of several pictures, with questions."""
    rng = random.Random(f"{args.seed} instructions")
    ours = concepts("train")
    captions = [concept.caption for concept in ours]
    plans = plan_canvases(_groups(args.instructions, layout.grid), len(ours), layout.grid, full(layout.grid), MIX, rng)
    for number, canvas in enumerate(plans):
        turns = converse(canvas, captions, layout.grid)
        turns[0] = (f"<image>\n{turns[0][0]}", turns[0][1])
        yield _sample(f"instructions_{number:06d}", turns), _choose(canvas.concepts, args, rng)


def plan_scenes(args: argparse.Namespace) -> Iterator[dict]:
    """Canvases in words, each with one question; of half of those with one picture its caption is told unasked."""
    rng = random.Random(f"{args.seed} scenes")
    captions = [concept.caption for concept in concepts("train")]
    groups, filled = _groups(args.scenes, args.grid), [1, *full(args.grid)]
    for number, canvas in enumerate(plan_canvases(groups, len(captions), args.grid, filled, MIX, rng)):
        question, answer = converse(canvas, captions, args.grid)[0]
        # By groups, as all else: each cell's picture is told as often.
        if len(canvas.concepts) == 1 and number // args.grid**2 % 2:
            question, answer = "", captions[next(iter(canvas.concepts.values()))]
        scene = describe(canvas, captions, args.grid)
        yield {"scene": rng.sample(scene, len(scene)), "question": question, "answer": answer}


def _groups(canvases: int, grid: int) -> int:
    return max(1, round(canvases / grid**2))


def _choose(placed: dict[int, int], args: argparse.Namespace, rng: random.Random) -> dict[int, str]:
    return {cell: picture_name(concept, rng.randrange(args.pictures)) for cell, concept in placed.items()}


def _sample(name: str, turns: list[tuple[str, str]]) -> dict:
    conversation = []
    for question, answer in turns:
        conversation += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": name, "image": f"{name}.png", "conversations": conversation}


def write_canvases(
    folder: Path, name: str, samples: Iterable[tuple[dict, dict[int, str]]], layout: Layout, pool: ProcessPoolExecutor
) -> None:
    """`<name>.json` with the samples, and their canvases."""
    (folder / "images").mkdir(exist_ok=True)
    samples = list(samples)
    work = partial(_draw_canvas, folder, layout)
    tasks = [(sample["image"], pictures) for sample, pictures in samples]
    for _ in tqdm(pool.map(work, tasks, chunksize=64), f"drawing {name}", len(tasks), unit=" canvases"):
        pass
    write_atomic(folder / f"{name}.json", as_array(sample for sample, _ in samples))


def _draw_canvas(folder: Path, layout: Layout, task: tuple[str, dict[int, str]]) -> None:
    name, pictures = task
    cells = {}
    for cell, file in pictures.items():
        with Image.open(folder / "pictures" / "train" / file) as picture:
            cells[cell] = fit(picture, layout.cell)
    draw_cells(layout, cells).save(folder / "images" / name)


def manifest(args: argparse.Namespace, folder: Path) -> dict:
    """What was asked for, how much there is, and hashes of the texts."""
    values = {name: value for name, value in vars(args).items() if name not in ("output_dir", "workers")}
    files = ["scenes.jsonl", "captions.json", "instructions.json", "probe/probe.jsonl", "similarity/similarity.jsonl"]
    return {
        "build": "miniature",
        "arguments": values,
        "concepts": {split: len(concepts(split)) for split in ("train", "test")},
        "canvases": len(os.listdir(folder / "images")),
        "sha256": {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files},
    }


if __name__ == "__main__":
    run_script(main)
