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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml

from data.files import write_atomic, write_json, writing
from models.errors import InputError
from models.fingerprint import hash_sampled
from models.locks import is_same, try_lock
from models.outside import json_object, read_json_object, read_yaml_mapping
from models.provenance import differences
from models.writing import give_usual_modes
from train.settings import FIELDS, Settings

SETTINGS, WHOLE, LOG, TRAINING = "settings.yaml", "whole.json", "log.jsonl", "training.json"
CURVE = "loss.png"
KEPT = "what is saved is kept, and --resume auto goes on from it"
LOCK, DATA = ".lock", "data.sha256"
REPORTS = ("dropped.jsonl",)  # what a refusal may tell the user to look into
CHECKPOINT = re.compile(r"checkpoint-(0|[1-9][0-9]*)")


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Keep other runs out of `folder` for the length of a with block; InputError if one is in it.

    (A launcher that is killed may leave its processes at work.) A folder that was made here and stays empty goes again.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    busy = InputError(f"output_dir {folder}: another run is at work in it; wait for it, or stop its processes")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / LOCK, "ab")
    except OSError as error:
        raise InputError(f"output_dir {folder}: cannot be written ({error.strerror}); choose another") from None
    with file:
        # A run that ended since the file was opened has removed it, and a third may hold a new one.
        if not try_lock(file) or not is_same(file, folder / LOCK):
            raise busy
        try:
            yield
        finally:
            with suppress(OSError):  # Windows removes no open file
                (folder / LOCK).unlink()
            with suppress(OSError):
                for path in made:
                    path.rmdir()


@contextmanager
def undone_if_refused(settings: Settings) -> Iterator[None]:
    """If the body refuses its input before anything was begun, remove what it has written into a new run's folder.

    Begun is a run whose samples are prepared: DATA is there. What lists the samples that are left out stays to be read.
    """
    folder = Path(settings.output_dir)
    is_new = not (folder / SETTINGS).is_file() or settings.overwrite
    try:
        yield
    except (InputError, SystemExit):  # the latter: one of several processes has refused
        if is_new and (folder / SETTINGS).is_file() and not (folder / DATA).exists() and not whole_checkpoints(folder):
            clear(folder, kept=(LOCK, *REPORTS))
        raise


def clear(folder: Path, kept: tuple[str, ...]) -> None:
    """Delete all that is in a run's folder but `kept`; its settings last: a kill leaves a run."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name == SETTINGS):
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def open_folder(settings: Settings) -> Path | None:
    """Enter `output_dir`, which is locked; returns the checkpoint to resume from, None to start.

    Raises InputError if the folder holds something and neither `resume` nor `overwrite` is asked for, a run of other
    settings, or something that no run of ours wrote.
    """
    folder = Path(settings.output_dir)
    if settings.overwrite and settings.resume == "auto":
        raise InputError("--overwrite true and --resume auto are opposites; choose one (the scripts: RESUME=none)")
    if settings.overwrite and (folder / SETTINGS).is_file():
        clear(folder, kept=(LOCK,))
    earlier = read_settings(folder)
    if earlier is not None and settings.resume == "auto":
        check_same(folder, earlier, settings)
    elif earlier is not None or {path.name for path in folder.iterdir()} - {LOCK, *REPORTS}:
        advice = "--resume auto goes on with its run, --overwrite true deletes it" if earlier else "name a new folder"
        raise InputError(f"output_dir {folder}: holds files; {advice}")
    write_atomic(folder / SETTINGS, yaml.safe_dump(dataclasses.asdict(settings), sort_keys=False))
    for path in checkpoint_folders(folder):
        if name := copied_from(path):
            raise InputError(f"--resume auto: {path} is a copy of {name}; give it a name that is no checkpoint's")
    checkpoints = whole_checkpoints(folder)
    if checkpoints and not is_finished(folder):
        check_whole(checkpoints)
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
    """Checkpoints that were written to their end, the oldest first; no copies, nor folders of other names."""
    whole = [path for path in checkpoint_folders(folder) if (path / WHOLE).is_file() and copied_from(path) is None]
    found = {int(path.name.split("-")[1]): path for path in whole}
    return [found[step] for step in sorted(found)]


def checkpoint_folders(folder: Path) -> list[Path]:
    """All folders with a checkpoint's name, whole or not."""
    return [path for path in folder.glob("checkpoint-*") if CHECKPOINT.fullmatch(path.name) and path.is_dir()]


def mark_whole(checkpoint: Path, keep: int, processes: int = 1) -> None:
    """Say that `checkpoint` is whole, then delete all but the last `keep` and what a kill left half-written.

    `processes` is how many have written it. Its files are listed, with sizes and hashes that `check_whole` compares.
    """
    with writing(checkpoint):
        give_usual_modes(checkpoint)
    content = {"checkpoint": checkpoint.name, "processes": processes, "files": sample_files(checkpoint)}
    write_json(checkpoint / WHOLE, content)
    kept = whole_checkpoints(checkpoint.parent)[-keep:]
    for path in checkpoint_folders(checkpoint.parent):
        if path not in kept and copied_from(path) is None:
            (path / WHOLE).unlink(missing_ok=True)  # first: a kill must not leave a part that looks whole
            shutil.rmtree(path, ignore_errors=True)


def check_whole(checkpoints: list[Path]) -> None:
    """InputError unless the last of these checkpoints holds all files that were written into it, as they were.

    An earlier version of this code has listed none: such a checkpoint is taken as it is.
    """
    last = checkpoints[-1]
    advice = "to start anew" if len(checkpoints) == 1 else f"to go on from {checkpoints[-2].name}"
    advice = f"restore it, or delete {last} {advice}"
    listed = read_json_object(last / WHOLE, advice).get("files", {})
    if not isinstance(listed, dict):
        raise InputError(f"--resume auto: {last / WHOLE}: field `files` is no object; {advice}")
    found = sample_files(last)
    for name, state in listed.items():
        if name not in found:
            raise InputError(f"--resume auto: {last / name} is missing; {advice}")
        if found[name] != state:
            raise InputError(f"--resume auto: {last / name} is not what training wrote; {advice}")


def sample_files(checkpoint: Path) -> dict[str, str]:
    """Name -> size and hash of all files of a checkpoint but WHOLE."""
    paths = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != WHOLE)
    return {path.relative_to(checkpoint).as_posix(): hash_sampled(path) for path in paths}


def copied_from(checkpoint: Path) -> str | None:
    """The name under which a checkpoint was written, if it has another now: a user has copied or renamed it."""
    if not (checkpoint / WHOLE).is_file():
        return None
    name = read_json_object(checkpoint / WHOLE, f"delete {checkpoint}").get("checkpoint", checkpoint.name)
    return None if name == checkpoint.name else str(name)


def check_processes(checkpoint: Path, processes: int) -> None:
    """InputError if DeepSpeed, which divides its state among the processes, could not read a checkpoint."""
    written = read_json_object(checkpoint / WHOLE).get("processes")
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
    logged = read_log(folder)
    lines = [line for line in logged if line["step"] <= step]
    if len(lines) < len(logged):
        (folder / CURVE).unlink(missing_ok=True)  # it shows what is dropped; the next checkpoint draws it anew
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
    with writing(folder / LOG, KEPT), open(folder / LOG, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
