"""Training runs for tests: here in this process, or apart in processes of their own that can be killed."""

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch
from safetensors.torch import load_file

from train import sft

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "data/samples"
PHOTOS = SAMPLES / "photos"


def flags(folder: Path, **settings) -> list[str]:
    """The command line of a small float32 run on the bundled samples; `settings` replace or add to it."""
    values = {
        "data": SAMPLES / "instructions.json",
        "image_folder": PHOTOS,
        "output_dir": folder,
        "bf16": "false",
        "num_workers": 0,
        "global_batch_size": 4,
        "per_device_batch_size": 2,
        "max_steps": 4,
        "save_steps": 2,
        "learning_rate": 0.01,
        "warmup_ratio": 0.0,
        "lora_dropout": 0.0,
    } | settings
    words = []
    for name, value in values.items():
        several = value if isinstance(value, list | tuple) else [value]
        words += [f"--{name}", *(str(one).lower() if isinstance(one, bool) else str(one) for one in several)]
    return words


def train_here(folder: Path, **settings) -> Path:
    """Run train/sft.py's main in this process; returns the run's folder."""
    sft.main(flags(folder, **settings))
    return folder


def start(folder: Path, processes: int = 1, **settings) -> subprocess.Popen:
    """Start train/sft.py as users do: with python, or with torchrun."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", f"--master_port={port}"]
    # A small model's gradients are summed in another order with more threads.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    return subprocess.Popen(
        [*launcher, ROOT / "train/sft.py", *flags(folder, **settings)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def train_apart(folder: Path, processes: int = 1, **settings) -> Path:
    """Run train/sft.py to its end in processes of its own; returns the run's folder."""
    run = start(folder, processes, **settings)
    output, _ = run.communicate()
    assert run.returncode == 0, output
    return folder


def kill_after_checkpoint(folder: Path, processes: int = 1, **settings) -> None:
    """Start a run and kill -9 all its processes once its first checkpoint is whole."""
    run = start(folder, processes, **settings)
    while not list(folder.glob("checkpoint-*/whole.json")):
        assert run.poll() is None, run.communicate()[0]
        time.sleep(0.01)
    # torchrun starts its workers in sessions of their own.
    for process in [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]:
        process.send_signal(signal.SIGKILL)
    run.communicate()
    assert not (folder / "training.json").exists()


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file can be written beyond `size` bytes, as on a disk that is full; nobody needs to be root for it."""
    before, limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limit))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, limit))


def losses(folder: Path) -> list[float]:
    """The logged losses of a run, one an update, every update once."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [line["loss"] for line in lines]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The published weights of a run."""
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def largest_difference(one: Path, other: Path) -> tuple[float, float]:
    """Of two runs' losses, and of their published weights."""
    assert len(losses(one)) == len(losses(other))
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    of_losses = max(abs(a - b) for a, b in zip(losses(one), losses(other), strict=True))
    of_weights = max((ours[name].float() - theirs[name].float()).abs().max().item() for name in ours)
    return of_losses, of_weights
