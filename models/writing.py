"""Writing a checkpoint's folder: whole or absent, never over anything."""

import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from models.errors import InputError, cannot_write, is_full
from models.locks import try_lock

LOCK = ".lock"
OLD = "old"  # in a hidden folder: what was at the place that is written to


def check_new(output_dir: str | Path, argument: str = "--output_dir") -> Path:
    """The path, if nothing is there yet but perhaps an empty folder; else an InputError that names `argument`."""
    path = Path(output_dir)
    if os.path.lexists(path) and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{argument} {path}: exists and is not an empty folder; name another")
    return path


@contextmanager
def new_folder(output_dir: str | Path, argument: str = "--output_dir") -> Iterator[Path]:
    """A folder to write into, which becomes `output_dir` if the with block ends well, and is gone if it does not.

    A kill leaves nothing under the name that was asked for, at most a hidden folder beside it, which the next run with
    this name removes. All files get the mode that the umask gives. Raises InputError, naming `argument`, if something
    is there already or the system refuses to write.
    """
    path = check_new(output_dir, argument)
    target = Path(os.path.realpath(path))  # a link to an empty folder stays
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_killed(target)
        with hidden_folder(target) as hidden:
            folder = hidden / target.name
            folder.mkdir()
            yield folder
            give_usual_modes(folder)
            os.replace(folder, target)
    except InputError:
        raise
    except Exception as error:
        if isinstance(error, OSError | SafetensorError) or is_full(error):
            raise cannot_write(f"{argument} {path}", error) from error
        raise


@contextmanager
def hidden_folder(target: Path) -> Iterator[Path]:
    """A hidden folder beside `target`, gone behind the block; its lock says that somebody is at work in it."""
    hidden = target.with_name(f"{_start(target)}{secrets.token_hex(8)}.half")
    hidden.mkdir()
    try:
        with open(hidden / LOCK, "ab") as lock:
            try_lock(lock)
            yield hidden
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def remove_killed(target: Path) -> None:
    """Remove the hidden folders that killed runs have left beside `target`: those that nobody is at work in."""
    killed = re.compile(re.escape(_start(target)) + r"[0-9a-f]{16}\.half")
    for name in os.listdir(target.parent):
        hidden = target.with_name(name)
        if not killed.fullmatch(name) or not (hidden / LOCK).is_file():
            continue
        with suppress(OSError), open(hidden / LOCK, "ab") as lock:
            if not try_lock(lock):
                continue
            if (hidden / OLD).exists() and not target.exists():
                os.rename(hidden / OLD, target)  # killed between the two renames that replace a folder
            shutil.rmtree(hidden, ignore_errors=True)


def give_usual_modes(folder: Path, names: str = "**/*") -> None:
    """Give the files in `folder` that a pattern names the umask's permissions: libraries have their own.

    (safetensors writes its files for their owner alone.)
    """
    sample = folder / f".{secrets.token_hex(8)}.tmp"
    with open(sample, "xb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    sample.unlink()
    for path in folder.glob(names):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode | stat.S_IMODE(path.stat().st_mode) & 0o111)


def _start(target: Path) -> str:
    return f".{os.fsdecode(os.fsencode(target.name)[:220])}."
