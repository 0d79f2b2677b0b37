"""Reading JSON lines with errors that name the line, and writing files that are whole or absent."""

import codecs
import errno
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from models.errors import InputError, cannot_write, is_full
from models.outside import LARGEST, json_object, open_outside

OPEN_FILE = re.compile(r"/dev/(std(in|out|err)|fd/\d+)|/proc/[^/]+/fd/\d+")


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


def write_atomic(path: str | os.PathLike, content: bytes | str) -> None:
    """Write `content` so that `path` always holds either its old content or all of the new one.

    Creates missing parent folders. Text is written as UTF-8. Safe with several processes, on one machine or on
    several, writing the same path. A kill may leave `.<name>.*.tmp` behind. A file keeps its mode, and a new one gets
    the umask's; a link stays, and what it points to is written. A terminal, a null device and a pipe that is read are
    written as they are. Raises InputError if the system refuses, and for a folder, a disk, or a pipe that nobody reads.
    """
    content = content.encode() if isinstance(content, str) else content
    with writing(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        status = _status(path)
        if status is not None and (not stat.S_ISREG(status.st_mode) or is_open_file(path)):
            _write_plainly(path, status.st_mode, content)
        else:
            _replace(Path(os.path.realpath(path)), status, content)


def write_json(path: str | os.PathLike, content: dict) -> None:
    """Write results as JSON (atomically). Raises InputError for a path that cannot be written."""
    write_atomic(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def writing(path: str | os.PathLike, kept: str = "", only_full: bool = False) -> Iterator[None]:
    """What the system, or a library for the system, says against writing `path` becomes an InputError.

    `kept` says what is safe. Only what a library writes of a full disk is told from its other errors by its words.
    `only_full`: other errors of the system pass; for a body that reads, too.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if (isinstance(error, OSError) and not only_full) or is_full(error):
            raise cannot_write(path, error, kept) from error
        raise


def is_open_file(path: str | os.PathLike) -> bool:
    """Whether a path is, or is a link to, one of a process's open files, such as /dev/stdout: it cannot be replaced."""
    seen, path = 0, os.path.abspath(path)
    while not OPEN_FILE.fullmatch(path) and os.path.islink(path) and seen < 40:
        path, seen = os.path.abspath(os.path.join(os.path.dirname(path), os.readlink(path))), seen + 1
    return bool(OPEN_FILE.fullmatch(path))


def remove_halves(path: Path) -> None:
    """Remove what killed writers of `path`, which must have none at work, have left beside it."""
    path = Path(os.path.realpath(path))
    halves = re.compile(re.escape(f".{_cut(path.name)}.") + r"[0-9a-f]{16}\.tmp")
    for name in os.listdir(path.parent):
        if halves.fullmatch(name):
            (path.parent / name).unlink(missing_ok=True)


def _cut(name: str) -> str:
    """So much of a name that a hidden one made of it is none too long."""
    return os.fsdecode(os.fsencode(name)[:220])


def _status(path: str | os.PathLike) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:  # or a link to a file that is still to be made
        return None


def _write_plainly(path: str | os.PathLike, mode: int, content: bytes) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    if stat.S_ISBLK(mode):
        raise OSError(errno.EINVAL, "it is a disk")
    try:
        # Not blocking, or a pipe without a reader would hold the run for ever.
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(errno.ENXIO, "nobody reads this pipe or socket") from None
        raise
    with open(handle, "wb") as file:
        os.set_blocking(handle, True)
        file.write(content)


def _replace(target: Path, status: os.stat_result | None, content: bytes) -> None:
    """Put a new file in place of `target`, whose status is `status`, None if there is none."""
    if status is not None and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    target.parent.mkdir(parents=True, exist_ok=True)  # of a link's target
    temporary = target.with_name(f".{_cut(target.name)}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "wb") as file:
            if status is not None:
                _keep_owner_and_mode(file.fileno(), status)
            file.write(content)
            file.flush()
            _sync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _keep_owner_and_mode(handle: int, status: os.stat_result) -> None:
    with suppress(OSError):  # only root gives files away
        os.fchown(handle, status.st_uid, status.st_gid)
    with suppress(OSError):  # file systems without modes
        os.fchmod(handle, stat.S_IMODE(status.st_mode))


def _sync(handle: int) -> None:
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network and FUSE file systems have no fsync; writing has not failed.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
