"""One seed of the miniature's experiment, from saved answers to a JSON file; eval/miniature_page.py makes the page.

    python eval/miniature_results.py --results_dir results/miniature --checkpoints checkpoints/miniature --seed 0 \\
        --output docs/miniature/seed_0.json

scripts/experiment_miniature.sh writes the answers: `answers/<seed>/<grid>x<grid>-<image size>/<arm>.jsonl`, those about
pictures alone on the canvas likewise below `alone`, and beside them the studies. The numbers are those of
eval/metrics.py and eval/plots.py, with their intervals for each seed; the page shows how seeds differ. The costs of
training come from the kept arms (train/miniature_arms.py), LoRA's from its log, those of measuring from what
eval/miniature_measure.py keeps.
"""

import argparse
from pathlib import Path

import numpy as np

from data.files import write_json
from eval import flow_report, perception_report, similarity_report
from eval.answers import read_yes_no
from eval.cell_means import cell_means
from eval.entries import entry
from eval.manifest import check_finished, read_manifest
from eval.measured import read_measured
from eval.metrics import Run, compare, measure
from eval.probe_answers import Answers, pair, read_answers
from eval.probe_statistics import NO_INTERVAL, interval
from models.errors import ArgumentParser, InputError, run_script
from models.fingerprint import FLAG
from models.outside import read_json_object
from models.provenance import provenance, versions
from train.bundle_miniature import LANGUAGE_MODEL, summary
from train.miniature_arms import STORE, describe

# Arm -> what it is: trained with, then adapted with, tested with.
ARMS = {
    "a": "ordinary positions throughout",
    "b": "a, BaPA switched on without training",
    "c0": "a, LoRA with ordinary positions",
    "c": "a, LoRA with BaPA, tested with BaPA",
    "d": "trained and tested with BaPA",
}
# second - first -> what the difference is of.
PAIRS = {
    ("a", "b"): "switching BaPA on",
    ("b", "c"): "then LoRA with it",
    ("a", "c0"): "LoRA without it, the control",
    ("c0", "c"): "BaPA, where both had LoRA",
    ("a", "d"): "training with BaPA",
}
BALANCED = ("b", "c", "d")  # arms tested with BaPA
CONTRAST = "(c - b) - (c0 - a)"  # what LoRA with BaPA does beyond what LoRA does
# Arms whose vision tower and projector are their own: neither LoRA nor the flag changes them.
TOWERS = ("a", "d")


def collect(results_dir: Path, seed: int, resamples: int) -> dict:
    """Condition -> what `measure_arms` and `measure_studies` find in it.

    Raises InputError for a missing file, for rows that are errors and for answers with the other flag.
    """
    answers = results_dir / "answers" / str(seed)
    conditions = sorted(path.name for path in answers.glob("*"))
    if not conditions:
        raise InputError(f"--results_dir {results_dir}: no answers/{seed}; scripts/experiment_miniature.sh writes them")
    return {
        condition: measure_arms(results_dir, f"{seed}/{condition}", resamples)
        | measure_studies(results_dir, f"{seed}/{condition}", resamples)
        for condition in conditions
    }


def measure_studies(results_dir: Path, run: str, resamples: int) -> dict:
    """Perception and information flow of every arm of `run`, "<seed>/<condition>", and similarity of every tower."""
    return {
        "perception": {arm: perception(results_dir / "perception" / run, arm, resamples) for arm in ARMS},
        "flow": {arm: flow(results_dir / "information_flow" / run, arm, resamples) for arm in ARMS},
        "similarity": {arm: similarity(results_dir / "similarity" / run / f"{arm}.jsonl", resamples) for arm in TOWERS},
    }


def perception(folder: Path, arm: str, resamples: int) -> dict:
    """Percent of a map's mass in the target's cell, by cell."""
    path = folder / arm / perception_report.FILE
    measured = read_measured(str(path), {"map": list})
    check_flag(path, arm)
    shares = perception_report.target_shares(measured, perception_report.read_maps(measured))
    return cell_means(shares, resamples, seed=0).as_dict() | {"captions": len(shares)}


def flow(folder: Path, arm: str, resamples: int) -> dict:
    """The numbers of eval/flow_report.py and the mean map."""
    path = folder / f"{arm}.jsonl"
    run = flow_report.read_flow(str(path), "")
    check_flag(path, arm)
    maps = run.maps.mean(1)
    numbers = flow_report.describe(maps, run.rows, resamples, seed=0) | {"items": len(run.rows)}
    return numbers | {"map": [[round(float(value), 5) for value in line] for line in maps.mean(0)]}


def similarity(path: Path, resamples: int) -> dict:
    """Cosines in hundredths and the linear readout, by cell."""
    measured = read_measured(str(path), {"similarity": float, "similarity_other": float})
    return {
        name: cell_means(values, resamples, seed=0).as_dict()
        for name, values in similarity_report.studied(measured).items()
    }


def measure_arms(results_dir: Path, run: str, resamples: int) -> dict:
    """Of `run`, "<seed>/<condition>": "arms" and "alone" (arm -> summary), "pairs" ("b - a" -> comparison), "code"
    (commits), "ran" (types on devices).
    """
    answers = {arm: answers_of(results_dir / "answers" / run, arm) for arm in ARMS}
    alone = {arm: answers_of(results_dir / "alone" / run, arm) for arm in ARMS}
    runs = {arm: measure(one, arm, resamples=resamples) for arm, (one, _) in answers.items()}
    pairs = {}
    for first, second in PAIRS:
        for found in (answers, alone):
            pair(found[first][0], found[second][0])  # the same items, or an InputError
        pairs[f"{second} - {first}"] = {"numbers": compare(runs[first], runs[second])["numbers"]}
    pairs[CONTRAST] = {"numbers": contrast(runs)}
    manifests = [manifest for found in (answers, alone) for _, manifest in found.values()]
    return {
        "arms": {arm: brief(one.summary) for arm, one in runs.items()},
        "alone": {arm: brief(measure(one, arm, resamples=resamples).summary) for arm, (one, _) in alone.items()},
        "pairs": pairs,
        "code": sorted({commit for manifest in manifests for commit in code_of(manifest)}),
        "ran": sorted({f"{manifest['dtype']} on {manifest['device']}" for manifest in manifests}),
    }


def answers_of(folder: Path, arm: str) -> tuple[Answers, dict]:
    """Finished answers of an arm without errors, and their manifest. Raises InputError for any other."""
    path = folder / f"{arm}.jsonl"
    if not path.is_file():
        raise InputError(f"{path}: is missing; scripts/experiment_miniature.sh goes on where it was")
    answers = read_answers(str(path), read_yes_no)
    check_finished(path, len(answers.replies) + len(answers.errors))
    if answers.errors:
        raise InputError(f"{path}: {len(answers.errors)} rows are errors; mend the pictures and ask again")
    return answers, check_flag(path, arm)


def contrast(runs: dict[str, Run]) -> dict[str, dict]:
    """CONTRAST, number -> value with its paired interval."""
    found = {}
    for name in runs["a"].summary["numbers"]:
        bounds = (np.nan, np.nan)
        if name not in NO_INTERVAL:
            bounds = interval(combined({arm: run.samples[name] for arm, run in runs.items()}))
        found[name] = entry(combined({arm: run.point[name] for arm, run in runs.items()}), *bounds)
    return found


def combined(of: dict):
    return of["c"] - of["b"] - (of["c0"] - of["a"])


def check_flag(answers: Path, arm: str) -> dict:
    """The manifest of an arm's answers. Raises InputError if they were given with the other flag, or it is missing."""
    manifest = read_manifest(answers)
    if manifest is None:
        raise InputError(f"{answers}: has no manifest; remove it, and scripts/experiment_miniature.sh asks again")
    if manifest[FLAG] != (arm in BALANCED):
        raise InputError(
            f"{answers}: was asked with {FLAG} {str(manifest[FLAG]).lower()}, which is not arm {arm}; remove it, and "
            "scripts/experiment_miniature.sh asks again"
        )
    return manifest


def code_of(manifest: dict) -> list[str]:
    """Commits that wrote the answers; with `, changed` if files differed from it."""
    return [f"{one['git_commit']}{', changed' if one['git_dirty'] else ''}" for one in manifest["provenance"]]


def brief(summary: dict) -> dict:
    """What the page shows of a summary; "positives" are accuracies by cell, percent."""
    kept = {name: summary[name] for name in ("items", "captions", "unreadable", "null", "numbers")}
    return kept | {"positives": [cell["accuracy"]["value"] for cell in summary["cells"]]}


def cost_file(results_dir: Path, seed: int, arm: str) -> Path:
    """Where eval/miniature_measure.py keeps the processor time of an arm, part -> hours."""
    return results_dir / "costs" / str(seed) / f"{arm}.json"


def read_costs(path: Path) -> dict[str, float]:
    """Part -> hours of processor time. Raises InputError if they cannot be read."""
    try:
        return {part: float(hours) for part, hours in read_json_object(path).items()}
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); remove it and the arm's answers, and measure the arm again"
        ) from None


def measuring(results_dir: Path, seed: int) -> float:
    """Hours of processor time that measuring all arms of a seed took."""
    return round(sum(sum(read_costs(cost_file(results_dir, seed, arm)).values()) for arm in ARMS), 2)


def costs(checkpoints: Path, store: Path, seed: int) -> dict[str, dict]:
    """Stage, with the arm where arms have their own -> updates, hours and last loss."""
    found = {}
    for arm in ("off", "on"):
        for stage, cost in describe(store, seed, arm)["stages"].items():
            shared = stage == LANGUAGE_MODEL and found.get(stage, cost) == cost
            found[stage if shared else f"{stage}, {arm}"] = cost
        found[f"LoRA, {arm}"] = summary(checkpoints / f"lora-{seed}-{arm}")
    return found


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--results_dir", type=Path, required=True, help="what scripts/experiment_miniature.sh wrote")
    add("--checkpoints", type=Path, required=True, help="the runs' folders, for the cost of LoRA")
    add("--store", type=Path, default=STORE, help="the kept arms, for the cost of training (%(default)s)")
    add("--seed", type=int, required=True, help="whose answers")
    add("--output", type=Path, required=True, help="the JSON file to write")
    add("--bootstrap", type=int, default=2000, help="resamples for intervals and nulls (%(default)s)")
    arguments = parser.parse_args(argv)
    content = {
        "seed": arguments.seed,
        "versions": versions(),
        "commit": provenance()["git_commit"],
        "costs": costs(arguments.checkpoints, arguments.store, arguments.seed),
        "measuring_hours": measuring(arguments.results_dir, arguments.seed),
        "conditions": collect(arguments.results_dir, arguments.seed, arguments.bootstrap),
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.output, content)
    print(f"written: {arguments.output}")


if __name__ == "__main__":
    run_script(main)
