"""Measure speed, as ratios within one run: the paper's loops beside ours, over the same items with the same answers.

    python eval/benchmark.py probe perception --model_path models/miniature --eval_file probe.jsonl --img_path images

probe: replies, batched and prepared by workers, against one `generate` a picture. perception: covered pictures, scored
in batches with the answer given, against one `generate` each. engine: replies by --engine vllm against transformers'
(docs/vllm.md). All allow 128 new tokens, as the paper's scripts do. The ratio is the median over rounds; the two ways
take turns, and their answers are compared. Float32 on the CPU.
"""

import argparse
import os
import platform

import torch

from eval import probe
from eval.generate import choose_device, load, make_greedy
from eval.speed.engine import engine_ratio
from eval.speed.studies import perception_ratio, probe_ratio
from eval.text_table import text_table
from models.errors import ArgumentParser, InputError, run_script, true_or_false

PARTS = {"probe": (probe_ratio, "items"), "perception": (perception_ratio, "covered pictures")}
PARTS["engine"] = (engine_ratio, "items, transformers and then vLLM")  # not against the paper's loops


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("parts", nargs="+", choices=PARTS, help="what to measure")
    add("--model_path", default="models/miniature", help="checkpoint (default: %(default)s)")
    add("--position_balance", type=true_or_false, metavar="true|false", help="(default: as config.json says)")
    probe.add_arguments(parser)
    add("--items", type=int, default=36, help="of the probe in a round (default: %(default)s)")
    add("--mask_size", type=int, default=42, help="side of a square, px; divides the canvas (default: %(default)s)")
    add("--rounds", type=int, default=3, help="(default: %(default)s)")
    add("--device", default="auto", help="auto, cpu, cuda, mps (default: %(default)s)")
    args = parser.parse_args(argv)
    for name in ("items", "mask_size", "rounds"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name}: give 1 or more")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    device = choose_device(args.device, 0, 1)
    model, processor = load(args.model_path, device, args.position_balance, "auto", None)
    make_greedy(model)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(
        f"{args.model_path} on {device}, {str(model.dtype).removeprefix('torch.')}; torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, {cores} cores, Python {platform.python_version()}"
    )
    table = [["", "paper's, a second", "ours, a second", "ratio", "of each round"]]
    for part in args.parts:
        measure, unit = PARTS[part]
        ratio = measure(model, processor, args)
        papers, ours = (f"{ratio.units / seconds:.2f}" for seconds in ratio.seconds)
        rounds = " ".join(f"{one:.2f}" for one in ratio.rounds)
        table.append([f"{part}, {unit}", papers, ours, f"{ratio.median:.2f}", rounds])
    print(text_table(table))


if __name__ == "__main__":
    run_script(main)
