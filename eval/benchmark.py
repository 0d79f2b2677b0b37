"""Measure speed, as ratios within one run: two ways to do the same work, in turns, with the same results.

    python eval/benchmark.py --eval_file probe.jsonl --img_path images --output_json docs/performance_cpu.json

overhead: steps with the flag on beside the flag off, on released geometries made narrow. positions: the method beside
upstream's positions. probe, perception: replies and covered pictures, batched, against one `generate` each, as the
paper's scripts do it, with up to 128 new tokens. build: canvases against the encoding of their JPEGs alone. train: an
update of LoRA against batch 1. shard: one process and two, and what a run costs beside the model, going on with a long
file. growth: what a token and a picture of a prompt cost as there are more of them. engine, only where it is asked for:
replies by --engine vllm beside transformers' (docs/vllm.md).

The ratio is that of the times, first way over second, the median over rounds. Peaks of memory are this process's in the
first round (on a GPU, of its memory), without workers; in build and shard, that of the script's largest process.
`python eval/performance_page.py` makes a page of saved results.
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

import torch
from tqdm import tqdm

from data.files import write_json
from eval.arguments import device_name
from eval.generate import choose_device
from eval.speed.building import building
from eval.speed.engine import engine_row
from eval.speed.growth import growth
from eval.speed.overhead import overhead
from eval.speed.positions import positions
from eval.speed.rows import Row, Size, cells, columns
from eval.speed.sharding import sharding
from eval.speed.studies import check_items, perception_row, probe_row
from eval.speed.training import training
from eval.text_table import text_table
from models.errors import ArgumentParser, InputError, run_script, true_or_false
from models.provenance import provenance, versions
from train.random_weights import check_geometry

PARTS: dict[str, Callable[[argparse.Namespace, torch.device], Iterator[Row | Size]]] = {
    "overhead": overhead,
    "positions": positions,
    "probe": probe_row,
    "perception": perception_row,
    "build": building,
    "train": training,
    "shard": sharding,
    "growth": growth,
    "engine": engine_row,
}
EXTRA = ("engine",)  # needs another environment
OF_A_PROBE = ("probe", "perception", "shard", "engine")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("parts", nargs="*", metavar="part", help=f"what to measure: {', '.join(PARTS)} (default: all but engine)")
    add("--model_path", default="models/miniature", help="checkpoint (default: %(default)s)")
    add(
        "--geometry", help="probe, perception, train: qwen2_5_vl_7b or _32b in full size, random weights (a GPU's work)"
    )
    add("--position_balance", type=true_or_false, metavar="true|false", help="(default: as config.json says)")
    add("--eval_file", type=Path, help="probe, perception, shard: the probe's items, JSON lines")
    add("--img_path", type=Path, help="folder of its canvases")
    add("--items", type=int, default=36, help="of the probe in a round (default: %(default)s)")
    add("--mask_size", type=int, default=84, help="side of a square, px; divides the canvas (default: %(default)s)")
    add("--rounds", type=int, default=3, help="(default: %(default)s)")
    add("--device", type=device_name, default="auto", help="auto, cpu, cuda, cuda:N, mps (default: %(default)s)")
    add("--output_json", type=Path, help="file for the results, written after each part")
    args = parser.parse_args(argv)
    args.parts = args.parts or [name for name in PARTS if name not in EXTRA]
    for name in args.parts:
        if name not in PARTS:
            raise InputError(f"{name}: no part; choose among {', '.join(PARTS)}")
    for name in ("items", "mask_size", "rounds"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name}: give 1 or more")
    if args.geometry:
        check_geometry(args.geometry)
        if "engine" in args.parts:
            raise InputError("--geometry: vLLM needs a checkpoint; leave it out, or the part engine")
    asked = [name for name in args.parts if name in OF_A_PROBE]
    if asked and not (args.eval_file and args.img_path):
        raise InputError(f"{', '.join(asked)}: give --eval_file and --img_path, a probe of data/build_probe.py")
    if asked:
        check_items(args, asked)
    return args


def hardware(device: torch.device) -> str:
    """What it runs on, in words."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    info, name = Path("/proc/cpuinfo"), platform.processor() or platform.machine()
    if info.exists():
        named = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        name = named[0] if named else name
    gpu = f"{torch.cuda.get_device_name(device)}; " if device.type == "cuda" else ""
    return f"{gpu}{name}, {cores} cores, {torch.get_num_threads()} threads"


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    device = choose_device(args.device, 0, 1)
    print(f"{hardware(device)}; torch {torch.__version__}, Python {platform.python_version()}")
    words = sys.argv[1:] if argv is None else argv
    code = provenance()
    results = {
        "command": " ".join(["python eval/benchmark.py", *map(str, words)]),
        "hardware": hardware(device),
        "versions": versions(),
        "commit": code["git_commit"],
        "changed_since": code["git_dirty"],
        "seconds": {},
        "rows": (found := []),
    }
    for part in tqdm(args.parts, "parts"):
        start = time.perf_counter()
        for row in PARTS[part](args, device):
            found.append(row.as_dict())
            tqdm.write(" | ".join(cells(found[-1])), file=sys.stderr)
        results["seconds"][part] = round(time.perf_counter() - start, 1)
        if args.output_json:
            write_json(args.output_json, results)
    for heads, rows in groupby(found, key=columns):
        print(text_table([list(heads), *map(cells, rows)]))


if __name__ == "__main__":
    run_script(main)
