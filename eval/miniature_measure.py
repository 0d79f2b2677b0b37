"""Measure one arm of the miniature's experiment: the probe and the three studies, in every grid and image size.

    python eval/miniature_measure.py --model_path checkpoints/miniature/finetune-0-off --position_balance true \\
        --results_dir results/miniature --seed 0 --arm b

The data sets are `probe-<grid>` and `similarity-<grid>` below the results' folder, as scripts/experiment_miniature.sh
builds them; checkpoints at other image sizes come beside the model's. One process for all, since starting takes as long
as some of them. The same command goes on where it was. Processor time is kept in `costs/<seed>/<arm>.json`, part by
part, without those that a kill interrupted.
"""

import argparse
import os
from pathlib import Path

from data.files import write_json
from eval import information_flow, perception, perception_report, probe, similarity
from eval.miniature_results import ARMS, TOWERS, cost_file, read_costs
from models.errors import ArgumentParser, InputError, run_script, true_or_false
from models.outside import read_json_object
from models.resize import resize


def measure(args: argparse.Namespace) -> int:
    """Measure all of one arm; returns the worst exit status of its parts (see eval/harness.py)."""
    status = 0
    cost = cost_file(args.results_dir, args.seed, args.arm)
    spent = read_costs(cost) if cost.is_file() else {}
    cost.parent.mkdir(parents=True, exist_ok=True)
    for size in args.sizes:
        model = args.model_path.with_name(f"{args.model_path.name}-{size}")
        if not (model / "config.json").is_file():
            resize(args.model_path, size, model)
        for grid in args.grids:
            for main, words, answers in parts(args, model, size, grid):
                there, start = answers.is_file(), core_hours()
                status = max(status, main([str(word) for word in words]))
                if not there:
                    spent[str(answers.relative_to(args.results_dir))] = core_hours() - start
                    write_json(cost, spent)
    return status


def core_hours() -> float:
    """Hours of processor time of this process and its child processes that have ended."""
    return sum(os.times()[:4]) / 3600


def parts(args: argparse.Namespace, model: Path, size: int, grid: int):
    """(a script's main, its arguments, the answers it writes) for each measure of one grid and image size.

    `alone` is the probe's question about pictures that are alone on the canvas, those of the similarity set: it tells
    an effect of places from one of neighbours.
    """
    run = Path(str(args.seed)) / f"{grid}x{grid}-{size}"
    flag = str(args.position_balance).lower()

    def asked(kind: str) -> list:
        folder = args.results_dir / f"{kind}-{grid}"
        data = ["--eval_file", folder / f"{kind}.jsonl", "--img_path", folder / "images"]
        return ["--model_path", model, *data, "--position_balance", flag]

    def answers(kind: str) -> Path:
        return args.results_dir / kind / run / f"{args.arm}.jsonl"

    short = ["--max_new_tokens", 3]
    yield probe.main, [*asked("probe"), "--answers_file", answers("answers"), *short], answers("answers")
    yield probe.main, [*asked("similarity"), "--answers_file", answers("alone"), *short], answers("alone")
    flow = ["--answers_file", answers("information_flow"), "--limit", args.flow_captions * 2 * grid**2]
    yield information_flow.main, [*asked("probe"), *flow], answers("information_flow")
    folder = args.results_dir / "perception" / run / args.arm
    masks = ["--mask_size", canvas_of(args.results_dir / f"probe-{grid}") // (2 * grid)]  # half a cell
    masks += ["--num_captions", args.masked_captions, "--output_dir", folder]
    yield perception.main, [*asked("probe"), *short, *masks], folder / perception_report.FILE
    if args.arm in TOWERS:  # neither LoRA nor the flag changes what enters the language model
        similar = ["--answers_file", answers("similarity"), "--readout", "linear"]
        yield similarity.main, [*asked("similarity"), *similar], answers("similarity")


def canvas_of(folder: Path) -> int:
    """Side of a probe's canvases, px."""
    path = folder / "manifest.json"
    try:
        return read_json_object(path)["identity"]["canvas"]
    except (InputError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); build the probe by data/build_probe.py") from None


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
    add("--flow_captions", type=int, default=20, help="asked for and in vain in all cells, for attention (%(default)s)")
    add("--masked_captions", type=int, default=3, help="in all their cells, covered by squares (%(default)s)")
    return measure(parser.parse_args(argv))


if __name__ == "__main__":
    run_script(main)
