"""Bundle a trained miniature: its weights in bfloat16, its processor, the curves of its stages, and what made them.

    python train/bundle_miniature.py --checkpoints checkpoints/miniature --seed 0 --arm off \\
        --output_dir models/miniature

Writes a checkpoint that models/load.py reads, curves.png and stages.json; the card, README.md, is written by hand.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from data.files import write_json
from eval.heatmaps import save
from models import load_model
from models.errors import ArgumentParser, run_script
from models.outside import read_json_object
from models.writing import new_folder
from train.loss_curve import SMOOTHED
from train.run_folder import read_log

TOWER, LANGUAGE_MODEL = "vision tower", "language model"
# stage -> its folder below --checkpoints
STAGES = {
    TOWER: "tower",
    LANGUAGE_MODEL: "language_model-{seed}",
    "1, projector": "pretrain-{seed}-{arm}",
    "2, instructions": "finetune-{seed}-{arm}",
}


def bundle(checkpoints: Path, seed: int, arm: str, output_dir: Path) -> None:
    """Write the bundle, whole or not at all. Raises InputError for a stage that is missing or not finished."""
    folders = {stage: checkpoints / name.format(seed=seed, arm=arm) for stage, name in STAGES.items()}
    stages = {stage: summary(folder) for stage, folder in folders.items()}
    model, processor = load_model(list(folders.values())[-1], dtype="bfloat16")
    with new_folder(output_dir) as folder:
        model.to(torch.bfloat16).save_pretrained(folder)
        processor.save_pretrained(folder)
        write_json(folder / "stages.json", {"seed": seed, "position_balance": model.config.position_balance} | stages)
        draw_curves({stage: read_log(path) for stage, path in folders.items()}, folder / "curves.png")


def summary(folder: Path) -> dict:
    """Updates, hours, loss at the end, and the commit of the code of a finished stage."""
    made = read_json_object(folder / "training.json", "finish the stage first")
    lines = [line for line in read_log(folder) if "loss" in line]
    seconds = [line["seconds"] for line in lines if "seconds" in line]
    return {
        "updates": lines[-1]["step"],
        "hours": round(sum(seconds) / 3600, 2),
        "last_loss": round(float(np.mean([line["loss"] for line in lines[-100:]])), 4),
        "git_commit": made.get("provenance", {}).get("git_commit"),
    }


def draw_curves(logs: dict[str, list[dict]], path: Path) -> None:
    """The loss of every stage over its updates, smoothed, one panel each."""
    figure = Figure(figsize=(2.6 * len(logs), 2.4), facecolor="white", layout="constrained")
    for axes, (stage, log) in zip(figure.subplots(1, len(logs)), logs.items(), strict=True):
        lines = [line for line in log if "loss" in line]
        steps, losses = (np.array([line[name] for line in lines], float) for name in ("step", "loss"))
        width = max(1, round(SMOOTHED * len(losses)))
        smooth = np.convolve(losses, np.ones(width) / width, mode="valid")
        axes.plot(steps[width - 1 :], smooth, color="#08519c", linewidth=1.4)
        axes.set_ylim(0, 1.05 * smooth.max())
        axes.set_title(stage, fontsize=9)
        axes.set_xlabel("update", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
    save(figure, path)


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--checkpoints", type=Path, required=True, help="where scripts/train_miniature.sh has written")
    add("--seed", type=int, required=True, help="of the run")
    add("--arm", choices=("off", "on"), required=True, help="the flag that it was trained with")
    add("--output_dir", type=Path, required=True, help="an empty or new folder")
    arguments = parser.parse_args(argv)
    bundle(**vars(arguments))
    size = sum(file.stat().st_size for file in arguments.output_dir.iterdir())
    print(f"{arguments.output_dir}: {size / 1e6:.1f} MB; write its README.md")


if __name__ == "__main__":
    run_script(main)
