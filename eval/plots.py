"""Draw and count what a study has measured: one table, one picture with one scale, intervals by caption.

    python eval/plots.py similarity --results_file results/similarity.jsonl --output_path results/similarity.png

Give --results_file twice or more to see runs beside each other, such as two models.
"""

import argparse
from pathlib import Path

from data.files import write_json
from eval import similarity_report
from eval.heatmaps import check_suffix
from models.errors import ArgumentParser, InputError, run_script

# name -> module with FIELDS, add_arguments(parser) and report(runs, arguments) -> (text, JSON-ready dict), which draws
STUDIES = {"similarity": similarity_report}


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    studies = parser.add_subparsers(dest="study", required=True, metavar="|".join(STUDIES))
    for name, module in STUDIES.items():
        study = studies.add_parser(name, description=module.__doc__, help=module.__doc__.split("\n")[0])
        add = study.add_argument
        add("--results_file", action="append", required=True, metavar="FILE", help=f"answers of eval/{name}.py")
        add("--output_path", required=True, metavar="FILE", help="picture to write: .png, .pdf or .svg")
        add("--output_json", metavar="FILE", help="all numbers, as JSON (default: none)")
        add("--labels", nargs="+", metavar="LABEL", help="a name per results file (default: file names)")
        add("--bootstrap", type=int, default=2000, metavar="N", help="resamples, 0: no intervals (%(default)s)")
        add("--seed", type=int, default=0, help="of the resamples (%(default)s)")
        module.add_arguments(study)
    return parser


def check(arguments: argparse.Namespace) -> None:
    """Raise InputError for arguments that do not fit together; fills in the labels."""
    files = arguments.results_file
    arguments.labels = arguments.labels or [Path(file).stem for file in files]
    if len(arguments.labels) != len(files):
        raise InputError(f"--labels: {len(arguments.labels)} labels for {len(files)} results files; give one each")
    if arguments.bootstrap < 0 or arguments.seed < 0:
        raise InputError("--bootstrap, --seed: give 0 or more")
    check_suffix(arguments.output_path)
    inputs = {Path(file).resolve() for file in files}
    for option in ("output_path", "output_json"):
        output = getattr(arguments, option)
        if output and Path(output).resolve() in inputs:
            raise InputError(f"--{option}: {output} is also --results_file; it would be overwritten")


def main(argv: list[str] | None = None) -> None:
    arguments = make_parser().parse_args(argv)
    check(arguments)
    text, numbers = STUDIES[arguments.study].report(arguments)
    if arguments.output_json:
        write_json(arguments.output_json, numbers)
    print(text)
    if arguments.bootstrap:
        print(f"[]: 95% bootstrap intervals, {arguments.bootstrap} resamples of captions, seed {arguments.seed}")
    for output in filter(None, (arguments.output_json, arguments.output_path)):
        print(f"written: {output}")


if __name__ == "__main__":
    run_script(main)
