"""docs/performance.md from saved results of eval/benchmark.py: a table a part, each machine by itself.

    python eval/performance_page.py --results_file docs/performance_cpu.json --findings docs/performance_findings.md \\
        --output docs/performance.md
"""

import argparse
from itertools import groupby
from pathlib import Path

from data.files import write_atomic
from eval.markdown import table
from eval.speed.rows import cells, columns
from models.errors import ArgumentParser, InputError, run_script
from models.outside import parse_json, read_bytes, text_of

INTRODUCTION = """# Speed

Ratios of two ways to do the same work, measured in turns (`eval/benchmark.py`; its `--help` says what the parts are).
The ratio is the time of the first way over that of the second, the median over rounds; `a second` and `peak` give both.
Replies, maps and losses of both ways are compared in the run: where they must be equal and are not, there is no
number. What misses its goal stays in the table; [what limits it](#what-limits-the-rest) stands below.
`python data/build_miniature.py --output_dir results/miniature/data` draws the probe that a command below may name."""


def machine(results: dict) -> list[str]:
    """The section of one file of results."""
    described = ", ".join(f"{name} {version}" for name, version in results["versions"].items() if version)
    commit = f"{results['commit']}{', with changes' if results['changed_since'] else ''}"
    took = ", ".join(f"{part} {seconds:.0f}" for part, seconds in results["seconds"].items())
    parts = [
        f"## {results['hardware']}",
        f"Commit {commit}; {described}.\n\n```sh\n{results['command']}\n```",
        f"{sum(results['seconds'].values()) / 60:.1f} minutes; in seconds: {took}.",
    ]
    for part, rows in groupby(results["rows"], key=lambda row: row["part"]):
        rows = list(rows)
        parts.append(f"### {part}")
        for heads, alike in groupby(rows, key=columns):
            parts.append(table([list(heads[1:]), *(cells(row)[1:] for row in alike)]))
    return parts


def page(files: list[dict], findings: str) -> str:
    sections = [section for results in files for section in machine(results)]
    return "\n\n".join([INTRODUCTION, *sections, findings.strip()]) + "\n"


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--results_file", type=Path, nargs="+", required=True, help="of eval/benchmark.py --output_json")
    add("--findings", type=Path, required=True, help="Markdown: what limits what")
    add("--output", type=Path, required=True, help="the page to write")
    arguments = parser.parse_args(argv)
    files = []
    for path in (*arguments.results_file, arguments.findings):
        content = read_bytes(path)
        files.append((text_of if path == arguments.findings else parse_json)(content, str(path)))
        if path != arguments.findings and not (isinstance(files[-1], dict) and {"seconds", "rows"} <= files[-1].keys()):
            raise InputError(f"{path}: holds no results of eval/benchmark.py; give what its --output_json wrote")
    write_atomic(arguments.output, page(files[:-1], files[-1]))
    print(f"written: {arguments.output}")


if __name__ == "__main__":
    run_script(main)
