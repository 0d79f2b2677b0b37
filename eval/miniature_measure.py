"""Measure one arm of the miniature's experiment: the probe and the three studies, in every grid and image size.

    python eval/miniature_measure.py --model_path checkpoints/miniature/finetune-0-off --position_balance true \\
        --results_dir results/miniature --seed 0 --arm b

The data sets are `probe-<grid>` and `similarity-<grid>` below the results' folder, as scripts/experiment_miniature.sh
builds them; checkpoints at other image sizes come beside the model's. One process for all, since starting takes as long
as some of them. The same command goes on where it was. The processor time of all its starts is kept in
`costs/<seed>/<arm>.json`.
"""

import argparse
import json
import os
from pathlib import Path

from data.files import write_json
from eval import information_flow, perception, probe, similarity
from eval.miniature_results import ARMS, TOWERS, cost_file
from models.errors import ArgumentParser, run_script, true_or_false
from models.resize import resize


def measure(args: argparse.Namespace) -> int:
    """Measure all of one arm; returns the worst exit status of its parts (see eval/harness.py)."""
    status = 0
    cost = cost_file(args.results_dir, args.seed, args.arm)
    spent = json.loads(cost.read_bytes())["core_hours"] if cost.is_file() else 0.0
    start = core_hours()
    cost.parent.mkdir(parents=True, exist_ok=True)
    for size in args.sizes:
        model = args.model_path.with_name(f"{args.model_path.name}-{size}")
        if not (model / "config.json").is_file():
            resize(args.model_path, size, model)
        for grid in args.grids:
            for main, words in parts(args, model, size, grid):
                status = max(status, main(words))
                write_json(cost, {"core_hours": spent + core_hours() - start})
    return status


def core_hours() -> float:
    """Of this process and its child processes that have ended."""
    return sum(os.times()[:4]) / 3600


def parts(args: argparse.Namespace, model: Path, size: int, grid: int):
    """(a script's main, its arguments) for each measure of one grid and image size."""
    run = Path(str(args.seed)) / f"{grid}x{grid}-{size}"

    def asked(kind: str) -> list[str]:
        folder = args.results_dir / f"{kind}-{grid}"
        data = ["--eval_file", folder / f"{kind}.jsonl", "--img_path", folder / "images"]
        return [*map(str, ["--model_path", model, *data]), "--position_balance", str(args.position_balance).lower()]

    def answers(kind: str) -> list[str]:
        return ["--answers_file", str(args.results_dir / kind / run / f"{args.arm}.jsonl")]

    short = ["--max_new_tokens", "3"]
    yield probe.main, [*asked("probe"), *answers("answers"), *short]
    yield information_flow.main, [*asked("probe"), *answers("information_flow"), "--limit", str(args.flow_items)]
    folder = args.results_dir / "perception" / run / args.arm
    masks = ["--mask_size", str(args.mask_size), "--num_captions", str(args.masked_captions)]
    yield perception.main, [*asked("probe"), *short, *masks, "--output_dir", str(folder)]
    if args.arm in TOWERS:  # neither LoRA nor the flag changes what enters the language model
        yield similarity.main, [*asked("similarity"), *answers("similarity"), "--readout", "linear"]


def main(argv: list[str] | None = None) -> int:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--model_path", type=Path, required=True, help="folder of the arm's checkpoint")
    add("--position_balance", type=true_or_false, required=True, metavar="true|false", help="tested with")
    add("--results_dir", type=Path, required=True, help="where data sets are and results go")
    add("--seed", type=int, required=True, help="of the arm")
    add("--arm", choices=ARMS, required=True, help="; ".join(f"{arm}: {words}" for arm, words in ARMS.items()))
    add("--grids", type=int, nargs="+", default=[3, 4], help="cells a side (%(default)s)")
    add("--sizes", type=int, nargs="+", default=[144, 192], help="of the image, px (%(default)s)")
    add("--flow_items", type=int, default=450, help="of the probe, whose attention is measured (%(default)s)")
    add("--masked_captions", type=int, default=3, help="in all their cells, covered by squares (%(default)s)")
    add("--mask_size", type=int, default=140, help="px of the canvas: half a cell (%(default)s)")
    return measure(parser.parse_args(argv))


if __name__ == "__main__":
    run_script(main)
