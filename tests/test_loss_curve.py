"""train/loss_curve.py: the picture of a run's log."""

import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from models.errors import InputError
from train.loss_curve import draw_loss_curve, main
from train.run_folder import LOG, append_log

SCRIPT = Path(__file__).resolve().parent.parent / "train/loss_curve.py"


def log(folder: Path, losses) -> Path:
    folder.mkdir(exist_ok=True)
    for step, loss in enumerate(losses, start=1):
        append_log(folder, {"step": step, "loss": float(loss), "learning_rate": 1e-4 * (1 - step / 1000)})
    append_log(folder, {"step": len(losses), "train_runtime": 3.0})  # the last line of a run has no loss
    return folder


def drawn(folder: Path) -> np.ndarray:
    draw_loss_curve(folder, folder / "loss.png")
    return matplotlib.image.imread(folder / "loss.png")[..., :3]


def heights_of_the_curve(image: np.ndarray) -> list[float]:
    """Height of the dark blue line, from below, in the left and in the right half of the picture."""
    rows, columns = np.nonzero(np.abs(image - np.array([8, 81, 156]) / 255).max(-1) < 0.05)
    halves = columns < image.shape[1] / 2
    return [image.shape[0] - rows[halves].mean(), image.shape[0] - rows[~halves].mean()]


@pytest.mark.parametrize("steps", [8, 200])
def test_the_curve_follows_the_losses(tmp_path, steps):
    falling = heights_of_the_curve(drawn(log(tmp_path / "falling", np.linspace(3, 0.1, steps))))
    rising = heights_of_the_curve(drawn(log(tmp_path / "rising", np.linspace(0.1, 3, steps))))
    assert falling[0] > falling[1] + 50
    assert rising[1] > rising[0] + 50


@pytest.mark.parametrize("steps", [1, 2, 30])
def test_short_runs(tmp_path, steps):
    assert drawn(log(tmp_path / "run", np.ones(steps))).std() > 0


def test_a_line_that_is_being_written(tmp_path):
    folder = log(tmp_path / "run", [2.0, 1.0])
    with open(folder / LOG, "a") as file:
        file.write('{"step": 3, "lo')
    drawn(folder)


@pytest.mark.parametrize("content", [None, "", '{"step": 1, "train_runtime": 3.0}\n'])
def test_nothing_logged(tmp_path, content):
    if content is not None:
        (tmp_path / LOG).write_text(content)
    with pytest.raises(InputError, match=r"log\.jsonl: no loss in it; give the output_dir of a run"):
        draw_loss_curve(tmp_path, tmp_path / "loss.png")
    assert not (tmp_path / "loss.png").exists()


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_formats(tmp_path, capsys, ending):
    folder = log(tmp_path / "run", [2.0, 1.0])
    output = tmp_path / f"curve.{ending}"
    main(["--output_dir", str(folder), "--output", str(output)])
    assert capsys.readouterr().out.strip() == str(output)
    assert output.stat().st_size > 1000


def test_from_the_shell(tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPT, "--output_dir", tmp_path, "--output", tmp_path / "loss.png"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
