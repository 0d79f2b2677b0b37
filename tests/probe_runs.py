"""A small drawn probe, and eval/probe.py run on it: in this process, or as real ones."""

import json
import os
import random
import string
import subprocess
import sys
from pathlib import Path

from data.grid import cell_names
from eval.probe import main
from tests.pictures import picture

SCRIPT = Path(__file__).parent.parent / "eval" / "probe.py"


def write_probe(folder: Path, captions: int = 2) -> Path:
    """`folder`/probe.jsonl and `folder`/images: nine noise pictures a caption, of various sizes."""
    rng = random.Random(0)
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(captions):
        for cell, position in enumerate(cell_names(3)):
            name = f"{number:06d}_{cell}"
            size = rng.choice([(56, 56), (90, 60), (60, 120)])
            picture(*size, seed=len(rows)).save(folder / "images" / f"{name}.jpg")
            caption = "".join(rng.choices(string.ascii_lowercase + " ", k=rng.randint(1, 60)))
            rows.append(
                {
                    "id": name,
                    "image": f"{name}.jpg",
                    "caption": caption,
                    "position": position,
                    "answer": "Yes",
                }
            )
    write_rows(folder / "probe.jsonl", rows)
    return folder


def arguments(model: Path, probe: Path, answers: Path, *more) -> list[str]:
    """The command line; `more` comes last and so wins."""
    paths = ("--model_path", model, "--eval_file", probe / "probe.jsonl", "--img_path", probe / "images")
    return [str(part) for part in (*paths, "--answers_file", answers, "--max_new_tokens", 16, *more)]


def run_here(model: Path, probe: Path, answers: Path, *more) -> int:
    """Run in this process, without loader processes unless `more` asks for them; returns the exit status."""
    return main(arguments(model, probe, answers, "--num_workers", 0, *more))


def start(command: list[str]) -> subprocess.Popen:
    """Start a real process with one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run_process(*parts) -> tuple[int, str, str]:
    """Run eval/probe.py as users do; returns exit status, standard output, standard error."""
    process = start([sys.executable, str(SCRIPT), *map(str, parts)])
    output, errors = process.communicate()
    return process.returncode, output, errors


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_rows(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def manifest_of(answers: Path) -> Path:
    return answers.with_name(f"{answers.name}.manifest.json")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
