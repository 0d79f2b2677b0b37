"""Put all results below a folder on one page: verdict, heat maps, studies, benchmarks, replies that changed, manifests.

    python eval/report.py --results_dir results --output results/report.html

The page is one HTML file that needs no network and runs no script. It is made of saved results alone:

- answers of eval/probe.py, similarity.py, perception.py and information_flow.py, with their manifests;
- JSON of eval/score.py and eval/rotary_bias.py (--output_json).

A file is told by what it holds, not by its name. A run with the flag off and one with it on are compared if they were
asked the same questions with the same settings and are the only two so of one checkpoint (the same weights); else, of
two checkpoints whose weights have one form (two trainings of a model), if they are the only two in their folder, or at
all. Each model has a part of its own, and no figure mixes two data sets. What is unfinished is named and left out.

The numbers are those of eval/metrics.py and eval/plots.py. Canvases of replies that changed are looked for below
--results_dir and --img_path by name and hash; --examples 0 keeps all pictures out of the page.
"""

import argparse
from pathlib import Path

from tqdm import tqdm

from data.files import write_atomic
from eval.metrics import SCORERS
from eval.reporting.examples import Canvases
from eval.reporting.page import Model, render
from eval.reporting.pairs import Comparison, by_model, compared, model_names
from eval.reporting.parts import Section
from eval.reporting.probe_section import probe_section
from eval.reporting.results import KINDS, PROBE, Results, find_results
from eval.reporting.study_sections import rotary_section, score_section, study_sections
from eval.reporting.verdict import Verdict
from models.errors import ArgumentParser, InputError, printable, run_script


def model_part(name: str, comparisons: list[Comparison], settings: argparse.Namespace, canvases: Canvases) -> Model:
    """Everything on one model, in the order of KINDS."""
    sections: list[Section] = []
    verdicts: list[Verdict] = []
    for one in sorted(comparisons, key=lambda one: KINDS.index(one.kind)):
        if one.kind == PROBE:
            section, verdict = probe_section(name, one, settings, canvases)
            verdicts.append(verdict)
            sections.append(section)
        else:
            sections += study_sections(one, settings)
    kinds = {one.kind for one in comparisons}
    apart = [kind for kind in KINDS if kind in kinds and _both_flags_alone(comparisons, kind)]
    warnings = [
        f"{kind.replace('_', ' ')}: runs with BaPA off and on are shown apart, not compared: they were asked different "
        "questions, or with different settings, or it is not clear which two belong together."
        for kind in apart
    ]
    return Model(name, sections, verdicts, warnings, [run for one in comparisons for run in one.runs])


def _both_flags_alone(comparisons: list[Comparison], kind: str) -> bool:
    return len({one.runs[0].flag for one in comparisons if one.kind == kind and len(one.runs) == 1}) == 2


def add_rotary(models: list[Model], results: Results) -> list[Section]:
    """Put predictions from positions to the model whose path they name; returns those that no model has."""
    alone = []
    for path, content in results.rotary:
        named = {str(content["model_path"]), str(Path(str(content["model_path"])).resolve())}
        owners = [model for model in models if named & {run.manifest["model_path"] for run in model.runs}]
        section = rotary_section(path, content)
        for model in owners:
            model.sections.append(section)
        alone += [] if owners else [section]
    return alone


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--results_dir", type=Path, required=True, metavar="DIR", help="folder with results, at any depth")
    add("--output", type=Path, required=True, metavar="FILE", help="the page to write, .html")
    add(
        "--img_path",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="folder with canvases that are not below --results_dir; may be given several times",
    )
    add("--examples", type=int, default=6, metavar="N", help="replies that changed, per model (default: %(default)s)")
    add("--scorer", choices=SCORERS, default="default", help="as of eval/metrics.py (default: %(default)s)")
    add("--bootstrap", type=int, default=2000, metavar="N", help="resamples, 0: no intervals (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the resamples (default: %(default)s)")
    arguments = parser.parse_args(argv)
    # No result has this suffix, so none can be overwritten.
    if arguments.output.suffix.lower() != ".html" or arguments.output.is_dir():
        raise InputError(f"--output {arguments.output}: the page's name must end in .html, and be no folder")
    for folder in arguments.img_path:
        if not folder.is_dir():
            raise InputError(f"--img_path {folder}: no such folder")
    return arguments


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    results = find_results(arguments.results_dir)
    groups = by_model(compared([run for run in results.runs if run.kind in KINDS]))
    canvases = Canvases([arguments.results_dir, *arguments.img_path])
    named = tqdm(list(zip(model_names(groups), groups, strict=True)), "report", unit="model", leave=False)
    models = [model_part(name, group, arguments, canvases) for name, group in named]
    positions = add_rotary(models, results)
    benchmarks = [score_section(path, content) for path, content in results.scores]
    page = render(arguments, models, positions, benchmarks, results)
    write_atomic(arguments.output, page.encode(errors="replace"))  # names of files need not be UTF-8
    for model in models:
        for verdict in model.verdicts:
            print(f"{verdict.short}: {verdict.sentence}")
    for path, reason in results.left_out.items():
        print(printable(f"left out: {path}: {reason}"))
    print(f"written: {arguments.output}")


if __name__ == "__main__":
    run_script(main)
