"""The loss curve of a run, from its log; training draws it at every checkpoint.

python train/loss_curve.py --output_dir runs/lora --output runs/lora/loss.pdf
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from eval.heatmaps import save
from models.errors import ArgumentParser, InputError, run_script
from train.run_folder import LOG, read_log

SMOOTHED = 0.05  # the thick line is a running mean over this part of the run


def draw_loss_curve(folder: Path, picture: Path) -> None:
    """Draw the loss and the learning rate in a run's log.jsonl over its updates; InputError if there is none."""
    lines = [line for line in read_log(folder) if "loss" in line]
    if not lines:
        raise InputError(f"{folder / LOG}: no loss in it; give the output_dir of a run that has logged")
    steps, losses = (np.array([line[name] for line in lines]) for name in ("step", "loss"))
    rates = [line["learning_rate"] for line in lines]
    figure = Figure(figsize=(7, 4), layout="constrained")
    loss_axes, rate_axes = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    width = max(1, round(SMOOTHED * len(losses)))
    thin = {"color": "#9ecae1", "linewidth": 0.8} if width > 1 else {"color": "#08519c", "marker": "."}
    loss_axes.plot(steps, losses, **thin)
    if width > 1:
        smooth = np.convolve(losses, np.ones(width) / width, mode="valid")
        label = f"mean of {width} logged steps"
        loss_axes.plot(steps[width - 1 :], smooth, color="#08519c", linewidth=1.6, label=label)
        loss_axes.legend(frameon=False)
    loss_axes.set_ylabel("loss per supervised token")
    loss_axes.set_ylim(0, 1.05 * losses.max())
    loss_axes.grid(alpha=0.3)
    rate_axes.plot(steps, rates, color="#636363", linewidth=1.2)
    rate_axes.set_ylabel("learning rate")
    rate_axes.set_xlabel("update")
    rate_axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    rate_axes.xaxis.get_major_locator().set_params(integer=True)
    save(figure, picture)


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--output_dir", required=True, help="the run's folder")
    parser.add_argument("--output", required=True, help="the picture: .png, .pdf or .svg")
    arguments = parser.parse_args(argv)
    draw_loss_curve(Path(arguments.output_dir), Path(arguments.output))
    print(arguments.output)


if __name__ == "__main__":
    run_script(main)
