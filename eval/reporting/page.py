"""From sections to one HTML file: eval/reporting/page.html (Jinja2, which escapes all text) and page.css."""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import jinja2

from eval.reporting.pairs import flag_words
from eval.reporting.parts import Section
from eval.reporting.results import KINDS, Results, RunFile
from eval.reporting.verdict import Verdict
from models.provenance import provenance

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Model:
    """A part of the page: one checkpoint, or those that are compared with one another."""

    name: str
    sections: list[Section]
    verdicts: list[Verdict]
    warnings: list[str]
    runs: list[RunFile]


def render(
    settings: argparse.Namespace,
    models: list[Model],
    positions: list[Section],
    benchmarks: list[Section],
    results: Results,
) -> str:
    """The page. The same results give the same page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    unscored = _unscored(results)
    return environment.get_template("page.html").render(
        css=(FOLDER / "page.css").read_text(encoding="utf-8"),
        folder=str(settings.results_dir),
        models=models,
        positions=positions,
        benchmarks=benchmarks,
        left_out={str(path): reason for path, reason in results.left_out.items()} | unscored,
        manifests=[(str(run.path), _of_run(run), _as_json(run.manifest)) for run in results.runs],
        commit=provenance()["git_commit"],
    )


def _unscored(results: Results) -> dict[str, str]:
    """Answers to benchmarks that no score names."""
    scored = {Path(str(run.get("answers_file"))).resolve() for _, scores in results.scores for run in scores["runs"]}
    return {
        str(run.path): f"answers to {run.kind} without a score; eval/score.py {run.kind} --output_json makes one"
        for run in results.runs
        if run.kind not in KINDS and run.path.resolve() not in scored
    }


def _of_run(run: RunFile) -> str:
    return f"{run.manifest['benchmark']}, {Path(run.manifest['model_path']).name}, {flag_words(run.flag)}"


def _as_json(manifest: dict) -> str:
    manifest = {name: value for name, value in manifest.items() if name != "keys"}  # thousands
    return json.dumps(manifest, indent=2, ensure_ascii=False, sort_keys=True)
