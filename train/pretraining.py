"""The loop that pretrains the small parts of a LLaVA: resumable, logged, one process.

A run's folder holds run.json (its settings), state.pt (weights and optimizer, until it is finished), log.jsonl,
loss.png, and training.json once what it trains is written. Adapting a checkpoint is train/sft.py's, not this one's.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from data.files import write_atomic
from models.errors import InputError
from models.outside import read_json_object
from models.provenance import differences, provenance, versions
from train import run_folder
from train.loss_curve import draw_loss_curve

WARMUP = 100  # updates
RUN, STATE = "run.json", "state.pt"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

StepLoss = Callable[[np.random.Generator], tuple[torch.Tensor, dict[str, torch.Tensor]]]


def check_positive(args: argparse.Namespace, *flags: str) -> None:
    """InputError for a number below 1."""
    for flag in flags:
        if getattr(args, flag) < 1:
            raise InputError(f"--{flag} {getattr(args, flag)}: must be 1 or more")


@contextmanager
def run_in(folder: Path, settings: dict):
    """Keep other runs out of `folder`; gives False if the run of these `settings` is finished.

    InputError if another run or other files are in it. What the block does is finished when it ends without an error.
    """
    with run_folder.lock_folder(folder):
        path = folder / RUN
        if path.is_file():
            changes = differences(read_json_object(path, "choose another --output_dir"), settings)
            if changes:
                raise InputError(f"--output_dir {folder}: holds another run ({changes}); choose another folder")
        elif {one.name for one in folder.iterdir()} - {run_folder.LOCK}:
            raise InputError(f"--output_dir {folder}: holds files of other origin; choose an empty folder")
        else:
            write_atomic(path, json.dumps(settings, indent=2) + "\n")
        if run_folder.is_finished(folder):
            print(f"{folder}: finished already; nothing to do")
            yield False
            return
        try:
            yield True
        except InputError:
            if not (folder / STATE).exists() and not (folder / run_folder.LOG).exists():
                path.unlink()
            raise
        training = {"settings": settings, "versions": versions(), "provenance": provenance()}
        write_atomic(folder / run_folder.TRAINING, json.dumps(training, indent=2) + "\n")
        (folder / STATE).unlink()


def optimize(
    model: nn.Module,
    step_loss: StepLoss,
    folder: Path,
    steps: int,
    learning_rate: float,
    save_steps: int,
    seed: int,
    matrices: Sequence[nn.Parameter] = (),
) -> None:
    """`steps` updates, the learning rate a cosine behind a warm-up, from where a killed run has saved last.

    The weights in `matrices` (2-D) are Muon's (with updates of AdamW's size, arXiv 2502.16982), all others AdamW's.
    `step_loss` draws a batch with the generator of its step, and gives the loss and what else is logged.
    """
    theirs = set(map(id, matrices))
    ours = [weight for weight in model.parameters() if id(weight) not in theirs]
    optimizers = [torch.optim.AdamW(ours, lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.98))]
    if matrices:
        muon = torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
        optimizers.append(muon)
    parts = {"model": model}
    for number, optimizer in enumerate(optimizers):
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, steps))
        parts |= {f"optimizer_{number}": optimizer, f"schedule_{number}": schedule}
    start = load_state(folder / STATE, parts)
    run_folder.cut_log(folder, start)
    for step in tqdm(range(start, steps), "training", steps, initial=start, unit=" steps"):
        began = time.perf_counter()
        # A generator of the step: a resumed run draws what it would have drawn.
        loss, others = step_loss(np.random.default_rng([seed, step]))
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for name, part in parts.items():
            if name != "model":
                part.step()
        line = {"step": step + 1, "loss": loss.item(), "learning_rate": schedule.get_last_lr()[0]}
        line |= {name: value.item() for name, value in others.items()}
        run_folder.append_log(folder, line | {"seconds": round(time.perf_counter() - began, 3)})
        if (step + 1) % save_steps == 0 or step + 1 == steps:
            save_state(folder / STATE, parts, step + 1)
            draw_loss_curve(folder, folder / run_folder.CURVE)


def rate(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / WARMUP) * (1 + math.cos(math.pi * step / steps)) / 2


def save_state(path: Path, parts: dict, step: int) -> None:
    buffer = BytesIO()
    torch.save({"step": step} | {name: part.state_dict() for name, part in parts.items()}, buffer)
    write_atomic(path, buffer.getvalue())


def load_state(path: Path, parts: dict) -> int:
    """Put a saved state into `parts` and return the update after which it was saved; 0 if there is none."""
    if not path.is_file():
        return 0
    state = torch.load(path, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return state["step"]
