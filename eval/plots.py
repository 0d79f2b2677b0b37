"""Draw and count what a study has measured: one table, one picture with shared scales, intervals by caption.

    python eval/plots.py similarity --results_file results/similarity.jsonl --output_path results/similarity.png

Give --results_file twice or more to see runs beside each other, such as two models.
"""

import argparse
from pathlib import Path

from data.files import iter_json_lines, write_json
from eval import flow_report, perception_report, similarity_report
from eval.heatmaps import check_suffix
from eval.manifest import read_manifest
from models.errors import ArgumentParser, InputError, run_script
from models.names import check_apart

# name -> module with FILE (the usual name of its answers), UNIT (what the bootstrap draws), SAME_SETTINGS (names in the
# manifests that runs of one figure share) and report(arguments), which draws and returns (text, JSON-ready dict)
STUDIES = {"similarity": similarity_report, "perception": perception_report, "information_flow": flow_report}


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    studies = parser.add_subparsers(dest="study", required=True, metavar="|".join(STUDIES))
    for name, module in STUDIES.items():
        study = studies.add_parser(name, description=module.__doc__, help=module.__doc__.split("\n")[0])
        add = study.add_argument
        add(
            "--results_file",
            "--prob_results_dir",
            action="append",
            required=True,
            metavar="FILE",
            help=f"answers of eval/{name}.py, or the folder that holds them",
        )
        add("--output_path", required=True, metavar="FILE", help="picture to write: .png, .pdf or .svg")
        add("--output_json", metavar="FILE", help="all numbers, as JSON (default: none)")
        add("--labels", nargs="+", metavar="LABEL", help="a name per results file (default: file names)")
        add("--bootstrap", type=int, default=2000, metavar="N", help="resamples, 0: no intervals (%(default)s)")
        add("--seed", type=int, default=0, help="of the resamples (%(default)s)")
    return parser


def check(arguments: argparse.Namespace) -> None:
    """Raise InputError for arguments that do not fit together; fills in the labels."""
    module = STUDIES[arguments.study]
    files = arguments.results_file
    names = [Path(file).stem for file in files]  # of a folder, its name
    arguments.results_file = files = [str(Path(file) / module.FILE) if Path(file).is_dir() else file for file in files]
    arguments.labels = arguments.labels or (names if len(set(names)) == len(names) else list(files))
    if len(arguments.labels) != len(files):
        raise InputError(f"--labels: {len(arguments.labels)} labels for {len(files)} results files; give one each")
    if len(set(arguments.labels)) != len(files):
        raise InputError(f"--labels: {arguments.labels[0]!r} twice, or one file twice; tell the runs apart")
    check_suffix(arguments.output_path)
    outputs = {name: filter(None, [getattr(arguments, name)]) for name in ("output_path", "output_json")}
    check_apart({"results_file": files}, outputs)  # again: a folder was given for the file in it


def check_same_study(paths: list[str], settings: tuple[str, ...]) -> None:
    """Raise InputError if the runs are of other items or pictures, or their manifests say: measured otherwise."""
    if len(paths) < 2:
        return
    manifests = [read_manifest(Path(path)) or {} for path in paths]
    pictures = [sorted(_picture(row) for _, row in iter_json_lines(path)) for path in paths]
    for path, manifest, shown in zip(paths[1:], manifests[1:], pictures[1:], strict=True):
        names = [name for name in ("benchmark", *settings) if manifest and manifests[0]]
        differing = [name for name in names if manifest.get(name) != manifests[0].get(name)]
        differing += ["items"] * (shown != pictures[0])
        if differing:
            raise InputError(f"{paths[0]} and {path}: of different {', '.join(differing)}; draw them apart")


def _picture(row: dict) -> tuple[str, ...]:
    """What tells an item and its picture from others. (A row of an error has no hash: its run is another, too.)"""
    return tuple(str(row.get(field)) for field in ("id", "position", "answer", "image", "image_sha256"))


def intervals_in_words(numbers: dict, unit: str) -> str:
    """What the intervals of a study's numbers are; empty if they have none, as those of one caption have not."""
    if not _has_interval(numbers["runs"]):
        return ""
    return f"95% bootstrap intervals, {numbers['bootstrap']} resamples of {unit}, seed {numbers['seed']}"


def _has_interval(part) -> bool:
    if isinstance(part, list):
        return any(map(_has_interval, part))
    return isinstance(part, dict) and (part.get("low") is not None or any(map(_has_interval, part.values())))


def main(argv: list[str] | None = None) -> None:
    arguments = make_parser().parse_args(argv)
    check(arguments)
    module = STUDIES[arguments.study]
    check_same_study(arguments.results_file, module.SAME_SETTINGS)
    text, numbers = module.report(arguments)
    if arguments.output_json:
        write_json(arguments.output_json, numbers)
    print(text)
    if intervals := intervals_in_words(numbers, module.UNIT):
        print(f"[]: {intervals}")
    for output in filter(None, (arguments.output_json, arguments.output_path)):
        print(f"written: {output}")


if __name__ == "__main__":
    run_script(main)
