"""What there is to report below a folder. A file is told by what it and its manifest hold, never by its name.

- Answers of a run: what lies beside a manifest of eval/manifest.py (`<answers>.manifest.json`), which says what was
  asked, of which model, with which flag.
- Scores of a benchmark: JSON as eval/score.py writes it.
- Predictions from positions alone: JSON as eval/rotary_bias.py writes it.

Answers of the spatial probe without a manifest, and runs that are not finished, are told and left out. All other files,
and hidden ones, are nobody's business here.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from data.files import iter_json_lines
from eval.journal import part_paths
from eval.manifest import manifest_path, read_manifest
from eval.plots import STUDIES
from models.errors import InputError
from models.fingerprint import FLAG
from models.outside import read_json_file

PROBE, SIMILARITY, PERCEPTION, FLOW = "probe", "similarity", "perception", "information_flow"
KINDS = (PROBE, SIMILARITY, PERCEPTION, FLOW)
MANIFEST = manifest_path(Path("-")).name.removeprefix("-")  # how the name of every manifest ends
# What the manifest of a run has, and this needs.
NEEDED = {"benchmark": str, "items": int, "items_sha256": str, "model_path": str, "model_files": dict, FLAG: bool}
SCORES = {"benchmark", "scorer", "runs", "comparison"}
ROTARY = {"model_path", "found", "image_tokens", "text_tokens"}
LARGEST = 32_000_000  # bytes of a JSON file that is looked into: instruction data can have gigabytes


@dataclass(frozen=True)
class RunFile:
    """The answers of a finished run and what its manifest says."""

    path: Path
    manifest: dict

    @property
    def kind(self) -> str:
        """One of KINDS, or the name of a benchmark."""
        return self.manifest["benchmark"].partition(" of ")[0]

    @property
    def flag(self) -> bool:
        """position_balance, with which it ran."""
        return self.manifest[FLAG]

    @property
    def asked(self) -> tuple:
        """What two runs must share to be compared: items, questions, and the settings of the study."""
        names = ("benchmark", "items_sha256", "questions_sha256")
        names += STUDIES[self.kind].SAME_SETTINGS if self.kind in STUDIES else ()
        return tuple(json.dumps(self.manifest.get(name)) for name in names)

    @property
    def weights(self) -> tuple:
        """What tells a checkpoint from others, but for config.json, in which users edit the flag."""
        files = self.manifest["model_files"]
        files = {
            **files,
            **{f"tower/{name}": value for name, value in (self.manifest.get("tower_files") or {}).items()},
        }
        kept = tuple(sorted((name, value) for name, value in files.items() if Path(name).name != "config.json"))
        return kept or (self.manifest["model_path"], self.manifest.get("model_revision"))

    @property
    def form(self) -> tuple:
        """Names and sizes of the files of weights: two trainings of one model share them. Empty if not known."""
        files = self.manifest["model_files"]
        sizes = [(name, str(value).partition(",")[0]) for name, value in files.items()]
        return tuple(sorted(size for size in sizes if size[0].endswith((".safetensors", ".bin"))))

    @property
    def shortened(self) -> str:
        """In words, that --limit may have cut the items; empty if not."""
        limit = self.manifest.get("limit")
        return f"cut with --limit {limit}" if limit is not None and limit <= self.manifest["items"] else ""


@dataclass(frozen=True)
class Results:
    """`left_out`: path -> why it is not reported."""

    runs: list[RunFile] = field(default_factory=list)
    scores: list[tuple[Path, dict]] = field(default_factory=list)
    rotary: list[tuple[Path, dict]] = field(default_factory=list)
    left_out: dict[Path, str] = field(default_factory=dict)


def find_results(folder: Path) -> Results:
    """Everything below `folder`, in the order of paths.

    Raises InputError if it is no folder, if there is nothing to report, and for JSON that cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"--results_dir {folder}: no such folder")
    results = Results()
    for path in files_below(folder):
        if path.name.endswith(MANIFEST):
            _look_at_run(path.with_name(path.name.removesuffix(MANIFEST)), results)
        elif path.suffix == ".json" and path.stat().st_size <= LARGEST:
            _look_at_json(path, results)
        elif path.suffix == ".jsonl" and not manifest_path(path).exists():
            _look_at_lines(path, results)
    if not (any(run.kind in KINDS for run in results.runs) or results.scores or results.rotary):
        reasons = [f"; {path}: {reason}" for path, reason in results.left_out.items()]
        raise InputError(
            f"--results_dir {folder}: no finished results there (answers of eval/probe.py, similarity.py, "
            "perception.py or information_flow.py with their manifests; JSON of eval/score.py or rotary_bias.py)"
            f"{''.join(reasons[:3])}"
        )
    return results


def files_below(folder: Path) -> list[Path]:
    """All files but hidden ones, sorted. Raises InputError for a folder that cannot be read."""

    def refuse(error: OSError) -> NoReturn:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror})")

    found = []
    for here, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(here) / name for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.is_file())


def _look_at_run(answers: Path, results: Results) -> None:
    try:
        manifest = read_manifest(answers)
    except InputError as error:
        if answers.exists() or part_paths(answers):
            raise
        results.left_out[manifest_path(answers)] = str(error).removeprefix(f"{manifest_path(answers)}: ")
        return
    if not manifest.keys() >= {"benchmark", "items_sha256"}:
        return
    for name, kind in NEEDED.items():
        if not isinstance(manifest.get(name), kind):
            raise InputError(f"{manifest_path(answers)}: field `{name}` is missing or no {kind.__name__}; run anew")
    parts = part_paths(answers)
    if parts or not answers.exists():
        rows = sum(_count_lines(path) for path in (*parts, answers) if path.exists())
    else:
        rows = _count_lines(answers)
    run = RunFile(answers, manifest)
    if parts or rows != manifest["items"]:
        model, flag = Path(manifest["model_path"]).name, "on" if run.flag else "off"
        done = f"{rows} rows, {manifest['items']} items"
        reason = f"unfinished run of {run.kind}, {model}, BaPA {flag} ({done}); its command again goes on"
        results.left_out[answers] = reason
    else:
        results.runs.append(run)


def _count_lines(path: Path) -> int:
    with open(path, "rb") as file:
        return sum(bool(line.strip()) for line in file)


def _look_at_json(path: Path, results: Results) -> None:
    try:
        content = read_json_file(path, finite=False)
    except InputError as error:  # perhaps not ours
        results.left_out[path] = str(error).removeprefix(f"{path}: ")
        return
    if isinstance(content, dict) and content.keys() >= SCORES:
        results.scores.append((path, content))
    elif isinstance(content, dict) and content.keys() >= ROTARY:
        results.rotary.append((path, content))


def _look_at_lines(path: Path, results: Results) -> None:
    """Note answers of the probe whose model and flag nobody knows."""
    try:
        _, first = next(iter_json_lines(path))
    except InputError:  # not ours
        return
    if part_paths(path) or (first.keys() >= {"prediction", "position", "answer"} and "parsed" not in first):
        results.left_out[path] = "no manifest beside it, so its model and flag are not known; see eval/metrics.py"
