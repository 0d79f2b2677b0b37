"""A run's folder: what it was started with, its whole checkpoints, its log. Everything that survives a kill is here.

settings.yaml       the resolved settings
data/               the prepared samples (train/dataset.py), dropped.jsonl what was left out, data.sha256 their hash
checkpoint-<step>/  model, optimizer, schedule, RNG; whole once it holds `whole.json`
log.jsonl loss.png  one line for each logging step, and its curve
training.json       what the saved model was trained on, beside it; written last
"""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import IO

import yaml

from data.files import try_lock, write_atomic
from models.errors import InputError
from models.outside import json_object, read_yaml_mapping
from models.provenance import differences
from train.settings import FIELDS, Settings

SETTINGS, WHOLE, LOG, TRAINING = "settings.yaml", "whole.json", "log.jsonl", "training.json"
LOCK, DATA = ".lock", "data.sha256"


def lock_folder(folder: Path) -> IO:
    """Keep other runs out of `folder` until the returned file is closed; InputError if one is in it.

    (A launcher that is killed may leave its processes at work.)
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / LOCK, "ab")
    except OSError as error:
        raise InputError(f"output_dir {folder}: cannot be written ({error.strerror}); choose another") from None
    if not try_lock(file):
        file.close()
        raise InputError(f"output_dir {folder}: another run is at work in it; wait for it, or stop its processes")
    return file


def open_folder(settings: Settings) -> Path | None:
    """Enter `output_dir`, which is locked; returns the checkpoint to resume from, None to start.

    Raises InputError if the folder holds something and neither `resume` nor `overwrite` is asked for, a run of other
    settings, or something that no run of ours wrote.
    """
    folder = Path(settings.output_dir)
    if settings.overwrite and settings.resume == "auto":
        raise InputError("--overwrite true and --resume auto are opposites; choose one (the scripts: RESUME=none)")
    if settings.overwrite and (folder / SETTINGS).is_file():
        for path in sorted(folder.iterdir(), key=lambda path: path.name == SETTINGS):  # last: a kill leaves a run
            if path.name != LOCK:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    earlier = read_settings(folder)
    if earlier is not None and settings.resume == "auto":
        check_same(folder, earlier, settings)
    elif {path.name for path in folder.iterdir()} - {LOCK}:
        advice = "--resume auto goes on with its run, --overwrite true deletes it" if earlier else "name a new folder"
        raise InputError(f"output_dir {folder}: holds files; {advice}")
    write_atomic(folder / SETTINGS, yaml.safe_dump(dataclasses.asdict(settings), sort_keys=False))
    checkpoints = whole_checkpoints(folder)
    return checkpoints[-1] if checkpoints else None


def is_finished(folder: Path) -> bool:
    return (folder / TRAINING).is_file()


def read_settings(folder: Path) -> dict | None:
    """The settings that a run in `folder` was started with; None if there is none."""
    path = folder / SETTINGS
    if not path.is_file():
        return None
    try:
        return read_yaml_mapping(path)
    except InputError as error:
        advice = "--overwrite true deletes what is there"
        raise InputError(f"{path}: not the settings of a run; {advice} ({error})") from None


def check_same(folder: Path, earlier: dict, settings: Settings) -> None:
    """InputError with the differences, unless a run of `settings` would be the same run as the `earlier` one."""
    deciding = {name for name, item in FIELDS.items() if item.metadata["decides"]} - {"output_dir"}
    there = {name: value for name, value in earlier.items() if name in deciding}
    here = {name: value for name, value in dataclasses.asdict(settings).items() if name in deciding}
    changes = differences(there, here)
    if changes:
        raise InputError(
            f"--resume auto: {folder} holds a run of another recipe ({changes}); change it back, or start anew"
        )


def whole_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints that were written to their end, the oldest first."""
    found = {int(path.parent.name.split("-")[1]): path.parent for path in folder.glob(f"checkpoint-*/{WHOLE}")}
    return [found[step] for step in sorted(found)]


def mark_whole(checkpoint: Path, keep: int, processes: int = 1) -> None:
    """Say that `checkpoint` is whole, then delete all but the last `keep` and what a kill left half-written.

    `processes` is how many have written it.
    """
    write_atomic(checkpoint / WHOLE, json.dumps({"checkpoint": checkpoint.name, "processes": processes}) + "\n")
    kept = whole_checkpoints(checkpoint.parent)[-keep:]
    for path in checkpoint.parent.iterdir():
        if re.fullmatch(r"checkpoint-\d+", path.name) and path not in kept:
            (path / WHOLE).unlink(missing_ok=True)  # first: a kill must not leave a part that looks whole
            shutil.rmtree(path, ignore_errors=True)


def check_processes(checkpoint: Path, processes: int) -> None:
    """InputError if DeepSpeed, which divides its state among the processes, could not read a checkpoint."""
    written = json.loads((checkpoint / WHOLE).read_text(encoding="utf-8"))["processes"]
    if written != processes:
        raise InputError(
            f"--resume auto: {checkpoint} is DeepSpeed's, of {written} processes; go on with as many, not {processes}"
        )


def check_data(folder: Path, digest: str) -> None:
    """InputError if a run that goes on has other samples than before; `digest` is their hash."""
    path = folder / DATA
    if whole_checkpoints(folder) and path.is_file() and path.read_text(encoding="utf-8").strip() != digest:
        raise InputError(f"--resume auto: the samples of {folder} are not those that it was started with; start anew")
    write_atomic(path, digest + "\n")


def cut_log(folder: Path, step: int) -> None:
    """Drop the lines of log.jsonl behind `step`: they will be written again."""
    lines = [line for line in read_log(folder) if line["step"] <= step]
    if (folder / LOG).exists():
        write_atomic(folder / LOG, "".join(json.dumps(line) + "\n" for line in lines))


def read_log(folder: Path) -> list[dict]:
    """The lines of log.jsonl; a last one that a kill cut short is left out."""
    try:
        text = (folder / LOG).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    lines = enumerate(text.split("\n")[:-1], start=1)
    return [json_object(line, f"{folder / LOG}, line {number}", "restore the file") for number, line in lines]


def append_log(folder: Path, line: dict) -> None:
    with open(folder / LOG, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
