"""The answers of a run on disk: nothing that was answered is lost or doubled, whenever the run is killed.

Process r of a run appends to `<answers>.part-<r>`. Once every item has a row, the answers file is written in
one step in the order of the items and the parts go. A later run, with any number of processes, reads the
answers file and all parts: what has an answer is not asked again. So a file under the final name always holds
every item, and its bytes do not tell how often the run was stopped.

A row is the item's fields with `prompt` and `prediction` (or what else a study measures), or with `error`: the reason
why it could not be asked. A last line that a crash (or a cut copy) has left without its end is dropped, in the answers
file only behind whole rows. Any other line that is no row is an InputError: the file may not be the one meant.
"""

import contextlib
import errno
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from data import files
from data.files import write_atomic
from eval.fields import item_key
from models.errors import InputError, steady
from models.locks import try_lock
from models.names import wrong_name
from models.outside import json_object, read_bytes

LONGEST_COMPANION = ".submission.json.0123456789abcdef.tmp"  # of the names that are made of an answers file's


def part_paths(answers: Path) -> list[Path]:
    """The part files that lie beside an answers file: those of exactly the names that processes write."""
    is_part = re.compile(re.escape(answers.name) + r"\.part-(0|[1-9][0-9]*)")
    with contextlib.suppress(OSError):  # no such folder
        names = [name for name in os.listdir(answers.parent) if is_part.fullmatch(name)]
        return sorted(answers.parent / name for name in names)
    return []


def collect(answers: Path, key: tuple[str, ...], outcome: str = "prediction") -> dict[tuple, dict]:
    """Key -> row, of the answers file and its parts. An answer beats an error, a later error an earlier one.

    `outcome` is the field that makes a row an answer.

    Raises InputError for a line that is no such row.
    """
    rows = {}
    for path in (answers, *part_paths(answers)):
        for number, row in enumerate(read_rows(path, is_part=path != answers)[0], start=1):
            has_key = all(isinstance(row.get(field), str | int) for field in key)
            is_row = has_key and (outcome in row or isinstance(row.get("error"), str))
            if not is_row or not isinstance(row.get("prediction", ""), str):
                raise InputError(
                    f"{path}, line {number}: needs {', '.join(key)} and either `{outcome}` or `error`; "
                    "mend the line, or start anew with --overwrite"
                )
            if outcome not in rows.get(item_key(row, key), {}):
                rows[item_key(row, key)] = row
    return rows


def read_rows(path: Path, is_part: bool) -> tuple[list[dict], bool]:
    """The rows of an answers or part file, and whether its last line has no line break. A missing file has no rows.

    Raises InputError naming the first line that is not one JSON object, but for a last one that is cut.
    """
    if not os.path.lexists(path):
        return [], False
    lines = read_bytes(path, "give a file of answers").split(b"\n")
    unended = lines[-1] != b""
    lines = lines if unended else lines[:-1]
    rows = []
    for number, line in enumerate(lines, start=1):
        advice = "mend the line, or start anew with --overwrite"
        try:
            # A study's numbers may be NaN.
            rows.append(json_object(line, f"{path}, line {number}", advice, finite=False))
        except InputError:
            if not (unended and number == len(lines) and (is_part or rows)):
                raise
    return rows, unended


def open_part(answers: Path, rank: int) -> BinaryIO:
    """This process's part file, its last line repaired, ready to append to."""
    return open_to_append(answers.with_name(f"{answers.name}.part-{rank}"))


def open_to_append(path: Path) -> BinaryIO:
    """A file of rows, its last line repaired, ready for `append_rows`."""
    rows, needs_repair = read_rows(path, is_part=True)
    with writing(path):
        if needs_repair:
            write_atomic(path, to_lines(rows))
        return open(path, "ab", buffering=0)


def append_rows(part: BinaryIO, rows: list[dict]) -> None:
    """Append rows and return once they are on the disk."""
    rows = [row | {"error": steady(row["error"])} if "error" in row else row for row in rows]
    content = memoryview(to_lines(rows).encode())
    with writing(part.name):
        while content:
            content = content[part.write(content) :]
        try:
            os.fsync(part.fileno())
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # what file systems without it say
                raise


def finish(answers: Path, rows: list[dict]) -> None:
    """Write the complete answers file, unless it is as it should be, then remove the parts."""
    content = to_lines(rows).encode()
    with writing(answers):
        if not answers.exists() or answers.read_bytes() != content:
            write_atomic(answers, content)
        for path in part_paths(answers):
            path.unlink()


def discard(answers: Path) -> int:
    """Remove the answers and their parts; returns how many rows they had."""
    count = 0
    with writing(answers):
        for path in (answers, *part_paths(answers)):
            if path.exists():
                count += path.read_bytes().count(b"\n")
                os.unlink(os.path.realpath(path))  # a link to the answers stays
    return count


def to_lines(rows: list[dict]) -> str:
    """Rows as JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def writing(path: str | Path) -> contextlib.AbstractContextManager:
    """What the system says against writing `path` becomes an InputError."""
    return files.writing(path, kept="what is on disk is kept")


def check_writable(answers: Path) -> None:
    """Raise InputError unless the answers file, and the files beside it, can be written. Writes nothing."""
    if answers.is_dir():
        raise InputError(f"{answers}: a folder; give the path of a file")
    if answers.exists() and not answers.is_file():
        raise InputError(f"{answers}: a device or a pipe; give the path of a file")
    if reason := wrong_name(f"{answers.name}{LONGEST_COMPANION}"):
        raise InputError(f"{answers}: the name of a file beside it {reason}; give a shorter one")
    folder = answers.absolute().parent
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise InputError(f"{answers}: {folder} is not a folder; choose another path")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{answers}: {folder} cannot be written; choose another path")


@contextlib.contextmanager
def only_writer(answers: Path) -> Iterator[None]:
    """Hold the answers file for this run; creates its folder. Raises InputError if another run holds it."""
    path = answers.with_name(f".{answers.name}.lock")
    with _locked(path, answers):
        try:
            with writing(answers):
                files.remove_halves(answers)
            yield
        finally:
            path.unlink(missing_ok=True)


def _locked(path: Path, answers: Path) -> BinaryIO:
    """The lock file, open and locked, in the folder that it makes."""
    while True:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(path, "ab")
        if not try_lock(file):
            file.close()
            raise InputError(f"{answers}: another run is writing it; wait for it, or stop it")
        # A run that ended in between has removed the file that we opened: the lock on it keeps nobody out.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        file.close()
