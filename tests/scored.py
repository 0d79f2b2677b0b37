"""Answers files of made-up models, and eval/score.py run on them in this process."""

import json
from pathlib import Path

from eval.score import BENCHMARKS, main
from eval.scorers.rules import Context, Verdict


def write(path: Path, rows: list[dict]) -> str:
    """Write rows as JSON lines; returns the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(path: str | Path) -> list[dict]:
    """The rows of a JSON-lines file."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def verdict(benchmark: str, scorer: str, row: dict, context: Context | None = None) -> Verdict:
    """What a scorer makes of one row."""
    rules = BENCHMARKS[benchmark]
    assert rules.check(row) is None
    return rules.scorers[scorer](row, context or Context())


def score(tmp_path: Path, benchmark: str, *rows: list[dict], scorer: str = "official", arguments: tuple = ()) -> dict:
    """The command's JSON output on files of these rows, scored as partial and with few resamples."""
    files = [write(tmp_path / f"answers-{number}.jsonl", part) for number, part in enumerate(rows)]
    options = [word for file in files for word in ("--answers_file", file)]
    options += ["--output_json", str(tmp_path / "scores.json"), "--scorer", scorer, "--allow_partial"]
    main([benchmark, *options, "--bootstrap", "50", *arguments])
    return json.loads((tmp_path / "scores.json").read_text())


def numbers(tmp_path: Path, benchmark: str, rows: list[dict], scorer: str = "official", arguments: tuple = ()) -> dict:
    """name -> value of one file's numbers."""
    (run,) = score(tmp_path, benchmark, rows, scorer=scorer, arguments=arguments)["runs"]
    return {name: entry["value"] for name, entry in run["numbers"].items()}
