"""Reading JSON lines with errors that name the line, and writing files that are whole or absent."""

import codecs
import errno
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from models.errors import InputError
from models.outside import LARGEST, json_object, open_outside

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None


def numbered_json_lines(path: str | os.PathLike) -> list[tuple[int, dict]]:
    """(line number from 1, object) of every line of a JSON-lines file, in order; blank lines are skipped.

    Raises InputError if the file is missing, empty, or has a line that is not one JSON object (the line is
    named).
    """
    return list(iter_json_lines(path))


def iter_json_lines(path: str | os.PathLike, half_characters: bool = False) -> Iterator[tuple[int, dict]]:
    """What `numbered_json_lines` gives, one line at a time: for files that need not fit into memory.

    `half_characters`: as in models/outside.py.
    """
    advice, empty = "one JSON object a line is expected", True
    try:
        with open_outside(path, "give the path of a JSON-lines file") as file:
            for number, line in enumerate(iter(lambda: file.readline(LARGEST), b""), start=1):
                if line.removeprefix(codecs.BOM_UTF8).strip():
                    empty = False
                    where = f"{path}, line {number}"
                    yield number, json_object(line, where, advice, half_characters=half_characters)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if empty:
        raise InputError(f"{path}: empty; {advice}")


def try_lock(file: IO) -> bool:
    """Lock an open, writable file for this process until it closes it or ends; False if another process holds it.

    A file system or a platform without locks keeps nobody out.
    """
    if fcntl is None:
        return True
    try:
        # lockf, not flock: child processes must not inherit the lock and outlive a killed run with it.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        pass
    return True


def write_atomic(path: str | os.PathLike, content: bytes | str) -> None:
    """Write `content` so that `path` always holds either its old content or all of the new one.

    Creates missing parent folders. Text is written as UTF-8. Safe with several processes, on one machine or on
    several, writing the same path. A kill may leave `.<name>.*.tmp` behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            _sync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, content: dict) -> None:
    """Write results as JSON (atomically). Raises InputError for a path that cannot be written."""
    try:
        write_atomic(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None


def _sync(handle: int) -> None:
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network and FUSE file systems have no fsync; writing has not failed.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
