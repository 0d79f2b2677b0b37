"""The page of the miniature's experiment, from its saved results: tables, a figure, what it cost, how to repeat it.

    python eval/miniature_page.py --results_dir docs/miniature --findings docs/miniature/findings.md \\
        --output docs/miniature.md

Writes the figures beside the page, under its name: each seed's numbers, heat maps of each condition, attention. Nothing
is computed but means over seeds and differences of them; what they show is told by hand, in the file of the findings.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from data.files import write_atomic
from eval.heatmaps import Panel, probe_heatmaps, save
from eval.map_figure import map_figure
from eval.markdown import table
from eval.miniature_results import ARMS, PAIRS, TOWERS
from models.errors import ArgumentParser, InputError, run_script

TRAINED = "3x3-144"  # the condition of the training data
COLUMNS = {
    "balanced_accuracy": "balanced accuracy, %",
    "mean": "mean over cells, %",
    "variance_corrected": "variance over cells less noise, %²",
    "gap": "gap, points",
    "worst": "worst cell, %",
    "flip": "flip rate, %",
    "d_prime": "d'",
}
FLOW = {
    "entropy": "attention: normalised entropy",
    "raster": "raster correlation",
    "image_share": "image share, %",
}
SIMILARITY = {
    "own caption": "own caption",
    "another caption": "another caption",
    "own less another": "difference",
    "linear readout": "linear readout, %",
}
ARMS_TRAINED = {"a": "with ordinary positions", "d": "with BaPA"}
DRAWN = ("balanced_accuracy", "variance_corrected", "flip")
# Arm -> its name in a figure, short enough for one size of letters.
NAMES = {"a": "ordinary", "b": "switched on", "c0": "LoRA, ordinary", "c": "LoRA with BaPA", "d": "trained with BaPA"}
# Okabe and Ito's colours, which stay apart in every common form of colour blindness.
COLOURS = dict(zip(ARMS, ("#0072B2", "#D55E00", "#56B4E9", "#E69F00", "#009E73"), strict=True))


def values(results: dict, condition: str, arm: str, name: str) -> np.ndarray:
    """(seeds,), in the order of the seeds."""
    runs = [seed[condition]["arms"][arm] for seed in results["seeds"].values()]
    return np.array([run["numbers"][name]["value"] for run in runs], float)


def spread(numbers: np.ndarray, signed: bool = False, digits: int = 2) -> str:
    """Mean and range over seeds."""
    form = f"{{:{'+' if signed else ''}.{digits}f}}"
    low, mean, high = (form.format(value) for value in (numbers.min(), numbers.mean(), numbers.max()))
    return f"{mean} ({low} to {high})"


def arms_table(results: dict, condition: str) -> str:
    rows = [["arm", *COLUMNS.values()]]
    for arm in ARMS:
        rows.append([f"**{arm}**", *(spread(values(results, condition, arm, name)) for name in COLUMNS)])
    return table(rows)


def seeds_table(results: dict, condition: str) -> str:
    """Every seed's own numbers, with their intervals where eval/metrics.py gives one, and the null of the variance."""
    rows = [["arm", "seed", *COLUMNS.values(), "p of the variance"]]
    for arm in ARMS:
        for seed, conditions in results["seeds"].items():
            run = conditions[condition]["arms"][arm]
            numbers = [with_interval(run["numbers"][name]) for name in COLUMNS]
            null = run["null"]["variance"]
            rows.append([f"**{arm}**", seed, *numbers, f"{null['p']:.4f}" if null else "-"])
    return table(rows)


def with_interval(number: dict) -> str:
    if number["low"] is None:
        return f"{number['value']:.2f}"
    return f"{number['value']:.2f} ({number['low']:.2f} to {number['high']:.2f})"


def pairs_table(results: dict, condition: str) -> str:
    """Differences: mean and range over seeds, and in how many seeds the 95% interval over captions leaves out zero."""
    names = ("balanced_accuracy", "mean", "variance_corrected", "flip")
    rows = [["difference", *(COLUMNS[name] for name in names)]]
    for first, second in PAIRS:
        label, cells = f"{second} - {first}", []
        entries = [seed[condition]["pairs"][label]["numbers"] for seed in results["seeds"].values()]
        for name in names:
            found = [entry[name] for entry in entries]
            clear = sum(one["low"] is not None and not one["low"] <= 0 <= one["high"] for one in found)
            differences = np.array([one["value"] for one in found], float)
            cells.append(f"{spread(differences, signed=True)}, clear in {clear} of {len(found)}")
        rows.append([label, *cells])
    return table(rows)


def studies_table(results: dict, condition: str) -> str:
    """Perception and information flow by arm."""
    rows = [["arm", "perception: share in the target's cell, %", *FLOW.values()]]
    for arm in ARMS:
        seeds = [seed[condition] for seed in results["seeds"].values()]
        found = [np.array([seed["perception"][arm]["value"] for seed in seeds], float)]
        found += [np.array([seed["flow"][arm][name]["value"] for seed in seeds], float) for name in FLOW]
        rows.append(
            [f"**{arm}**", *(spread(numbers, digits=1 if place == 0 else 3) for place, numbers in enumerate(found))]
        )
    return table(rows)


def similarity_table(results: dict) -> str:
    """Of each condition and tower: cosines in hundredths, and captions that a linear readout reads, by cell."""
    rows = [["condition", "trained", *SIMILARITY.values(), "readout: spread over cells"]]
    for condition in conditions_of(results):
        for arm in TOWERS:
            found = [seed[condition]["similarity"][arm] for seed in results["seeds"].values()]
            numbers = [np.array([one[name]["value"] for one in found], float) for name in SIMILARITY]
            numbers.append(np.array([one["linear readout"]["spread"] for one in found], float))
            rows.append([described(condition), ARMS_TRAINED[arm], *map(spread, numbers)])
    return table(rows)


def draw_flow(results: dict, path: Path) -> None:
    """The attention of every patch, mean over seeds, one map an arm, in the condition of the training."""
    maps = []
    for arm in ARMS:
        found = [seed[TRAINED]["flow"][arm]["map"] for seed in results["seeds"].values()]
        maps.append((f"{arm}: {NAMES[arm]}", np.mean(found, axis=0)))
    save(map_figure(maps, "attention of a patch, % of all"), path)


def costs_table(results: dict) -> str:
    """Hours of each stage, over seeds and arms; a language model is a seed's (or an arm's), all else an arm's."""
    kinds: dict[str, list[dict]] = {}
    for costs in results["costs"].values():
        for name, cost in costs.items():
            kinds.setdefault(name.removesuffix(", off").removesuffix(", on"), []).append(cost)
    rows = [["stage", "how many", "updates each", "hours each", "hours"]]
    for kind, found in kinds.items():
        hours = np.array([cost["hours"] for cost in found])
        updates = sorted({cost["updates"] for cost in found})
        rows.append([kind, str(len(found)), ", ".join(map(str, updates)), f"{hours.mean():.2f}", f"{hours.sum():.2f}"])
    measuring = np.array(list(results["measuring"].values()))
    arms = len(ARMS) * len(measuring)
    rows.append(["measuring", str(arms), "", f"{measuring.sum() / arms:.2f}", f"{measuring.sum():.2f}"])
    total = sum(cost["hours"] for found in kinds.values() for cost in found) + measuring.sum()
    rows.append(["all", "", "", "", f"{total:.2f}"])
    return table(rows)


def draw_seeds(results: dict, path: Path) -> None:
    """A dot for each seed and arm, a line through a seed's and a bar for their mean; a row for each condition."""
    conditions = conditions_of(results)
    figure = Figure(figsize=(2.9 * len(DRAWN), 1.75 * len(conditions)), facecolor="white", layout="constrained")
    grid = figure.subplots(len(conditions), len(DRAWN), squeeze=False, sharex=True)
    for row, condition in zip(grid, conditions, strict=True):
        for axes, name in zip(row, DRAWN, strict=True):
            numbers = np.array([values(results, condition, arm, name) for arm in ARMS])
            axes.plot(range(len(ARMS)), numbers, color="#bbbbbb", linewidth=0.9, zorder=1)
            for place, arm in enumerate(ARMS):
                axes.plot([place] * numbers.shape[1], numbers[place], "o", color=COLOURS[arm], markersize=4.5)
                axes.hlines(numbers[place].mean(), place - 0.3, place + 0.3, color=COLOURS[arm], linewidth=2)
            axes.set_xticks(range(len(ARMS)), list(ARMS))
            axes.set_xlim(-0.6, len(ARMS) - 0.4)
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.tick_params(labelsize=8)
            axes.grid(axis="y", alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
            if condition == conditions[0]:
                axes.set_title(COLUMNS[name], fontsize=8.5)
        row[0].set_ylabel(described(condition).replace(", ", ",\n"), fontsize=8)
    figure.supxlabel("  ·  ".join(f"{arm}: {name}" for arm, name in NAMES.items()), fontsize=8)
    save(figure, path)


def draw_cells(results: dict, condition: str, path: Path) -> None:
    """Accuracy of the positives by cell, mean over seeds, one heat map an arm."""
    panels = []
    for arm, name in NAMES.items():
        runs = [seed[condition]["arms"][arm] for seed in results["seeds"].values()]
        cells = np.mean([run["positives"] for run in runs], axis=0)
        cells = cells.reshape(2 * (math.isqrt(cells.size),))
        panels.append(Panel(f"{arm}: {name}", f"mean {cells.mean():.2f} %, {len(runs)} seeds", cells))
    probe_heatmaps(panels, path)


def cells_figure(name: str, condition: str) -> str:
    return f"{name}_cells_{condition}.svg"


def conditions_of(results: dict) -> list[str]:
    """The condition of the training first."""
    (first, *_) = results["seeds"].values()
    return sorted(first, key=lambda name: (name != TRAINED, name))


def described(condition: str) -> str:
    grid, size = condition.split("-")
    return f"{grid} cells, image of {size} px"


def page(results: dict, findings: str, name: str) -> str:
    arms = "\n".join(f"- **{arm}**: {words}" for arm, words in ARMS.items())
    parts = [INTRODUCTION.format(seeds=len(results["seeds"]), arms=arms)]
    parts += ["## What it shows, and what it cannot", findings.strip()]
    parts += [f"![Balanced accuracy, variance over cells and flip rate of each seed, by arm]({name}.svg)", "## Answers"]
    for condition in conditions_of(results):
        trained = ", as trained" if condition == TRAINED else ""
        parts.append(f"### {described(condition)}{trained}")
        parts += [arms_table(results, condition), pairs_table(results, condition), studies_table(results, condition)]
        parts.append(f"![Accuracy by cell, mean over seeds, one map an arm]({cells_figure(name, condition)})")
        parts += [f"<details><summary>{EACH_SEED}</summary>", seeds_table(results, condition), "</details>"]
    parts += ["## Attention", ATTENTION, f"![Attention to patches, mean over seeds, one map an arm]({name}_flow.svg)"]
    parts += ["## Understanding", UNDERSTANDING, similarity_table(results)]
    parts += ["## Cost", COST, costs_table(results), COMMANDS.format(commits=", ".join(results["commits"]))]
    return "\n\n".join(parts) + "\n"


INTRODUCTION = """# The miniature: BaPA switched on, tuned in, trained in

A small LLaVA (CLIP tower, two-layer projector, Llama) that this repository trains from nothing on drawn pictures
([its card](../models/miniature/README.md)), in five arms and {seeds} seeds each:

{arms}

A seed draws the language model, the projector and the order of the data; world and vision tower are the same for all.
The probe asks about captions that no training data had, in every cell, and as often about captions that are not on the
canvas. Numbers are means over seeds with the smallest and the largest in brackets. Below, `clear` counts the seeds
whose own 95% interval (bootstrap over captions) leaves out zero."""

EACH_SEED = "Each seed, with 95% intervals over captions, and how often shuffled cells vary as much (p)"

ATTENTION = """How much the text behind the image looks at each patch, mean over layers, questions and seeds, as trained
(eval/information_flow.py)."""

UNDERSTANDING = """Cosine (hundredths) of a caption and its picture, alone at each place of the canvas
(eval/similarity.py), that with another caption, and the captions that a linear readout finds in a cell that it was not
fitted on. Arms that share tower and projector share these numbers."""

COST = """On one core of a CPU, without a GPU: training from the runs' logs, measuring by processor time. Drawing the
world and collecting the numbers, minutes, are not in it, nor the vision tower, which is the bundled model's
([its card](../models/miniature/README.md) has its cost)."""

COMMANDS = """## Commands

```sh
sh scripts/experiment_miniature.sh
```

takes the trained arms from `models/miniature/arms`, adapts and measures them, and writes this page; it goes on where
it was killed. `STORE=results/arms sh scripts/experiment_miniature.sh` trains the arms anew. Its last commands make the
page from the saved answers:

```sh
for seed in 0 1 2; do
    python eval/miniature_results.py --results_dir results/miniature --checkpoints checkpoints/miniature --seed $seed \\
        --output docs/miniature/seed_$seed.json
done
python eval/miniature_page.py --results_dir docs/miniature --findings docs/miniature/findings.md \\
    --output docs/miniature.md
```

The results of this page were collected at commit {commits}."""


def read_results(folder: Path) -> dict:
    """ "seeds", "costs" and "measuring" by seed, and "commits", from eval/miniature_results.py's files in `folder`."""
    paths = sorted(folder.glob("seed_*.json"))
    if not paths:
        raise InputError(f"--results_dir {folder}: no seed_<n>.json; eval/miniature_results.py writes them")
    try:
        found = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        return {
            "seeds": {str(one["seed"]): one["conditions"] for one in found},
            "costs": {str(one["seed"]): one["costs"] for one in found},
            "measuring": {str(one["seed"]): one["measuring_hours"] for one in found},
            "commits": sorted({one["commit"] for one in found}),
        }
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"--results_dir {folder}: cannot be read ({error}); collect the seeds again") from None


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--results_dir", type=Path, required=True, help="seed_<n>.json of eval/miniature_results.py")
    parser.add_argument("--findings", type=Path, required=True, help="Markdown: what the results show")
    parser.add_argument("--output", type=Path, required=True, help="the page to write; figures come beside it")
    arguments = parser.parse_args(argv)
    results = read_results(arguments.results_dir)
    try:
        findings = arguments.findings.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"--findings {arguments.findings}: cannot be read ({error})") from None
    name = arguments.output.stem
    draw_seeds(results, arguments.output.with_name(f"{name}.svg"))
    for condition in conditions_of(results):
        draw_cells(results, condition, arguments.output.with_name(cells_figure(name, condition)))
    draw_flow(results, arguments.output.with_name(f"{name}_flow.svg"))
    write_atomic(arguments.output, page(results, findings, name))
    print(f"written: {arguments.output}")


if __name__ == "__main__":
    run_script(main)
