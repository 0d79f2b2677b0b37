"""The folder that a build writes: one build at a time, one set of arguments, and what a killed build left.

<kind>.jsonl  manifest.json  images/*.jpg     the finished build
.build/       build.json, the sample          only while it is unfinished
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from data.files import write_atomic
from models.errors import InputError
from models.locks import is_same, try_lock
from models.outside import read_json_object

WORK, LOCK = ".build", ".build.lock"


@contextmanager
def open_build(folder: Path, identity: dict, overwrite: bool) -> Iterator[None]:
    """Hold `folder` for one build, whose bytes are decided by `identity`, a flat dict of JSON.

    Makes the folder, removes the halves of files that a killed build left and, with `overwrite`, everything
    that an earlier build wrote. Raises InputError if the folder cannot be written, is in use, or holds a
    build of another identity or files that no build wrote. If the body raises InputError before a state worth
    resuming was written, the working files go.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Opened for writing: network file systems lock no other files.
        lock = open(folder / LOCK, "ab")
    except OSError as error:
        raise InputError(
            f"--output_dir {folder}: cannot be made or written ({error.strerror}); choose another"
        ) from None
    with lock:
        _lock(folder, lock)
        try:
            _check_holder(folder, identity, overwrite)
            if overwrite:
                _clear(folder)
            _remove_halves(folder)
            try:
                yield
            except InputError:
                if not (folder / WORK / "sample.json").exists():
                    finish_work(folder)
                raise
        finally:
            with suppress(OSError):  # Windows removes no open file
                (folder / LOCK).unlink()


def start_work(folder: Path, identity: dict) -> Path:
    """The folder for a build's working files, marked with its identity."""
    try:
        write_atomic(folder / WORK / "build.json", json.dumps(identity))
    except OSError as error:
        raise InputError(f"--output_dir {folder}: cannot be written ({error.strerror}); choose another") from None
    return folder / WORK


def finish_work(folder: Path) -> None:
    """Remove the working files."""
    shutil.rmtree(folder / WORK, ignore_errors=True)


def read_manifest(folder: Path) -> dict | None:
    """The manifest of the finished build in `folder`, or None. Raises InputError if it is not of a build."""
    path = folder / "manifest.json"
    if not path.exists():
        return None
    advice = "choose another --output_dir"
    manifest = read_json_object(path, advice)
    if isinstance(manifest.get("identity"), dict):
        return manifest
    raise InputError(f"{path}: not the manifest of a build; {advice}")


def _lock(folder: Path, file: BinaryIO) -> None:
    busy = InputError(f"--output_dir {folder}: another build is writing there; wait for it")
    if not try_lock(file):
        raise busy
    # A build that ended since the file was opened has removed it, and a third may hold a new one.
    if not is_same(file, folder / LOCK):
        raise busy


def _check_holder(folder: Path, identity: dict, overwrite: bool) -> None:
    manifest, unfinished = read_manifest(folder), folder / WORK / "build.json"
    if manifest is not None:
        there = manifest["identity"]
    elif unfinished.exists():
        there = read_json_object(unfinished, "give --overwrite to start anew") if not overwrite else identity
    else:
        if strangers := sorted(name for name in os.listdir(folder) if not name.startswith(".")):
            raise InputError(
                f"--output_dir {folder}: holds files of other origin ({strangers[0]}); choose an empty folder"
            )
        finish_work(folder)
        return
    if there != identity and not overwrite:
        raise InputError(
            f"--output_dir {folder}: holds another build ({_differences(there, identity)}); "
            "choose another folder or give --overwrite"
        )


def _differences(there: dict, here: dict) -> str:
    names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    return ", ".join(f"{name} {there.get(name)} there, {here.get(name)} here" for name in names)


def _clear(folder: Path) -> None:
    """Remove what a build wrote. What tells that it is a build goes last: a kill in between does no harm."""
    shutil.rmtree(folder / "images", ignore_errors=True)
    for name in ("probe.jsonl", "similarity.jsonl"):
        (folder / name).unlink(missing_ok=True)
    (folder / "manifest.json").unlink(missing_ok=True)
    finish_work(folder)


def _remove_halves(folder: Path) -> None:
    for part in (folder, folder / "images", folder / WORK):
        for path in part.glob(".*.tmp"):
            if re.fullmatch(r"\..+\.[0-9a-f]{16}\.tmp", path.name):
                path.unlink(missing_ok=True)
