"""The page of the miniature's experiment, from its saved results: tables, figures, what it cost, how to repeat it.

    python eval/miniature_page.py --results_dir docs/miniature --findings docs/miniature/findings.md \\
        --output docs/miniature.md

Writes the figures beside the page, under its name. Means and ranges over seeds are computed here, all else is in the
results; what they show is told by hand, in the file of the findings.
"""

import argparse
from pathlib import Path

from data.files import write_atomic
from eval import miniature_tables as tables
from eval.miniature_figures import draw_cells, draw_flow, draw_seeds
from eval.miniature_results import ARMS, CONTRAST, PAIRS
from eval.miniature_saved import TRAINED, conditions_of, described, in_condition, over_seeds, read_results
from models.errors import ArgumentParser, InputError, run_script


def page(results: dict[int, dict], findings: str, name: str) -> str:
    """The page's Markdown; its figures are `name`.svg, `name`_flow.svg and those of `cells_figures`."""
    parts = [introduction(results), "## What it shows, and what it cannot", findings.strip()]
    parts += [
        f"![Balanced accuracy, variance over cells less noise and flip rate of each seed, by arm]({name}.svg)",
        FIGURE,
    ]
    parts += ["## Answers", ANSWERS.format(**numbers_of_tables(results), pairs=pairs_legend())]
    for condition in conditions_of(results):
        parts.append(f"### {described(condition)}{', as trained' if condition == TRAINED else ''}")
        parts += [asked(results, condition), tables.arms_table(results, condition)]
        parts += [tables.pairs_table(results, condition), tables.places_table(results, condition)]
        full, alone = cells_figures(name, condition)
        parts.append(f"![Accuracy by cell on full canvases, mean over seeds, one map an arm]({full})")
        parts.append(f"![The same of pictures alone on the canvas, on the same scale]({alone})")
        parts.append(tables.studies_table(results, condition))
        parts += folded(tables.seeds_table(results, condition), tables.studies_seeds(results, condition))
    first = described(conditions_of(results)[0])
    parts += ["## Attention", ATTENTION.format(condition=first)]
    parts.append(f"![Attention to patches, mean over seeds, one map an arm]({name}_flow.svg)")
    parts += ["## Understanding", UNDERSTANDING, tables.similarity_table(results)]
    parts += folded(tables.similarity_seeds(results))
    parts += ["## Cost", COST, tables.costs_table(results)]
    parts.append(COMMANDS.format(seeds=" ".join(map(str, results)), code=code(results)))
    return "\n\n".join(parts) + "\n"


def introduction(results: dict[int, dict]) -> str:
    arms = "\n".join(f"- **{arm}**: {words}" for arm, words in ARMS.items())
    text = INTRODUCTION.format(seeds=len(results), arms=arms)
    for seed, result in results.items():
        models = [cost["last_loss"] for stage, cost in result["costs"].items() if stage.startswith("language model")]
        if len(models) > 1:
            losses = " and ".join(f"{loss:.4f}" for loss in models)
            text += f" In seed {seed} arm d grew from another language model than arm a (losses {losses})."
    return text


def numbers_of_tables(results: dict[int, dict]) -> dict[str, str]:
    """What a reader of the differences must know: how many intervals there are, how much seeds differ."""
    first = over_seeds(results, conditions_of(results)[0], "arms", "a", "numbers", "balanced_accuracy")
    return {"intervals": str(tables.intervals(results)), "seeds_differ": f"{first.max() - first.min():.2f}"}


def pairs_legend() -> str:
    lines = [f"- {second} - {first}: {words}" for (first, second), words in PAIRS.items()]
    return "\n".join([*lines, f"- {CONTRAST}: what LoRA with BaPA does beyond what LoRA does"])


def asked(results: dict[int, dict], condition: str) -> str:
    """How many questions the tables of a condition rest on."""
    found = in_condition(results, condition)[0]
    run, alone, flow = found["arms"]["a"], found["alone"]["a"]["items"], found["flow"]["a"]["items"]
    return (
        f"{run['captions']} captions, {run['items']} questions a seed and arm, {alone} about pictures alone; "
        f"perception of {found['perception']['a']['captions']} captions in all cells, attention in {flow} questions."
    )


def folded(*shown: str) -> list[str]:
    return [f"<details><summary>{EACH_SEED}</summary>", *shown, "</details>"]


def cells_figures(name: str, condition: str) -> tuple[str, str]:
    """File names of full canvases and of pictures alone."""
    return f"{name}_cells_{condition}.svg", f"{name}_alone_{condition}.svg"


def code(results: dict[int, dict]) -> str:
    """Which code measured and collected, with which libraries, and where answers were computed."""
    conditions = [found for result in results.values() for found in result["conditions"].values()]
    measured, ran = ({one for found in conditions for one in found[name]} for name in ("code", "ran"))
    collected = {result["commit"] for result in results.values()}
    libraries = {tuple(sorted((name, one) for name, one in r["versions"].items() if one)) for r in results.values()}
    versions = "; ".join(", ".join(" ".join(one) for one in found) for found in sorted(libraries))
    commits = [", ".join(sorted(map(str, found))) for found in (measured, collected)]
    return f"Measured at commit {commits[0]} in {', '.join(sorted(ran))}, collected at {commits[1]}; {versions}."


INTRODUCTION = """# The miniature: BaPA switched on, tuned in, trained in

A small LLaVA (CLIP tower, two-layer projector, Llama) that this repository trains from nothing on drawn pictures
([its card](../models/miniature/README.md)), in five arms and {seeds} seeds each:

{arms}

The vision tower saw canvases of 3x3 and 4x4 cells at 144 and 192 px, projector and language model only those of 3x3
cells at 144 px. At 192 px cells of 3x3 are larger than they know them, those of 4x4 are as large; at 144 px those of
4x4 are smaller.

World and vision tower are the same for all seeds; a seed draws the language model, the projector and the order of the
data. Of the kept arms, a of seed 0 is the bundled model, whose card has it on 300 captions."""

FIGURE = """Each panel has a scale of its own. Dots are seeds, a line joins the arms of one, bars are means; intervals
are in the tables."""

ANSWERS = """The probe asks about captions that no training data had, in every cell, and as often about captions that
are not on the canvas. Balanced accuracy and d' are of both; mean, variance, gap, worst cell, flip rate and heat maps of
those that are there. In round brackets the smallest and the largest of the seeds, in square ones a 95% interval of one
seed (bootstrap over captions). Gap, worst cell and the plain variance have none: a finite file makes them worse by
itself. "Alone" are the same captions and pictures in the same cells, on canvases that hold nothing else; there all
captions are on the canvas, and whoever says Yes more often looks better. Points, and the variance that is made of them,
shrink near 100% and near 0%, of a better model by themselves; log odds do not, and say whether places differ less or
the model is only better.

The differences:

{pairs}

`up` and `down` count the seeds whose own interval lies above or below zero. There are {intervals} such intervals, of
which one in twenty would leave out zero by chance, more where few captions differ, as near 100%. They hold the noise of
captions and not of training: arm a's balanced accuracy differs by {seeds_differ} points between the seeds."""

EACH_SEED = "Each seed, with 95% intervals over captions"

ATTENTION = """How much the text behind the image looks at each patch, mean over layers, questions and seeds, with
{condition} (eval/information_flow.py)."""

UNDERSTANDING = """Cosine (hundredths) of a caption and its picture, alone at each place of the canvas
(eval/similarity.py), that with another caption, and the captions that a linear readout finds in a cell that it was not
fitted on; its spread over cells holds noise. Arms that share tower and projector share these numbers."""

COST = """Training and LoRA: hours on the clock, one process on one core; some ran beside other work and took up to
three and a half times as long as alone. Measuring: hours of processor time, without parts that a kill interrupted.
Drawing the world and collecting the numbers, minutes, are not in it, nor the vision tower, which is the bundled
model's ([its card](../models/miniature/README.md) has its cost)."""

COMMANDS = """## Commands

```sh
sh scripts/experiment_miniature.sh
```

takes the trained arms from `models/miniature/arms`, adapts and measures them, and writes this page; it goes on where
it was killed. This trains the arms anew as well:

```sh
STORE=results/anew/arms CHECKPOINTS=checkpoints/anew RESULTS=results/anew DOCS=results/anew/docs \\
    sh scripts/experiment_miniature.sh
```

The last commands of the script make the page from the saved answers:

```sh
for seed in {seeds}; do
    python eval/miniature_results.py --results_dir results/miniature --checkpoints checkpoints/miniature --seed $seed \\
        --output docs/miniature/seed_$seed.json
done
python eval/miniature_page.py --results_dir docs/miniature --findings docs/miniature/findings.md \\
    --output docs/miniature.md
```

{code}"""


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
    name, output = arguments.output.stem, arguments.output
    conditions = conditions_of(results)
    draw_seeds(results, output.with_name(f"{name}.svg"))
    draw_flow(results, conditions[0], output.with_name(f"{name}_flow.svg"))
    for condition in conditions:
        draw_cells(results, condition, *map(output.with_name, cells_figures(name, condition)))
    write_atomic(output, page(results, findings, name))
    print(f"written: {output}")


if __name__ == "__main__":
    run_script(main)
