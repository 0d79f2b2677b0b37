"""Names of files that come from outside: what no system takes is told in one line, before anything is written."""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from models.errors import InputError

LONGEST_NAME, LONGEST_PATH = 255, 4095  # bytes, of Linux and macOS
# What a terminal obeys or a reader cannot see: controls, lone surrogates, line separators, marks of direction.
UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# Bytes that are no UTF-8 come in as such surrogates (PEP 383) and go out as they were.
UNDECODED = re.compile("[\udc80-\udcff]")
# What lies beside an answers file under its name, and must be no output either.
COMPANION = re.compile(r"\.(manifest\.json|part-\d+|judge\.jsonl)")


def wrong_name(name: str) -> str | None:
    """What is wrong with a file's name or path; None if a system takes it."""
    if "\0" in name:
        return "has a NUL in it"
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in UNDECODED.sub("?", name).split("/") if _encodes(part)):
        return f"is longer than {LONGEST_NAME} bytes"
    if not _encodes(name):
        return "holds half a character"
    return f"is longer than {LONGEST_PATH} bytes" if len(os.fsencode(name)) > LONGEST_PATH else None


def check_name(name: str, where: str) -> None:
    """Raise InputError, starting with `where`, for a name that no system takes, or that a terminal would obey."""
    reason = wrong_name(name)
    if reason is None and UNSEEN.search(UNDECODED.sub("?", name)):
        reason = "has a line break or another control character in it"
    if reason:
        shown = name if len(name) <= 80 else f"{name[:40]}...{name[-30:]}"
        raise InputError(f"{where} {shown!a}: the name {reason}; give another")


def check_apart(inputs: dict[str, Iterable[str]], outputs: dict[str, Iterable[str]]) -> None:
    """Raise InputError if a file to write is also one to read, lies beside one as its own, or is to be written twice.

    Both are lists of paths by option. Files are told by what they are, whatever links and names lead to them.
    """
    taken: dict[object, str] = {}
    for option, files in inputs.items():
        for file in files:
            for one in (file, *_companions(file)):
                taken.setdefault(_identity(one), f"--{option}" + (f" {file}'s {Path(one).name}" if one != file else ""))
    for option, files in outputs.items():
        for file in files:
            if not _is_written_whole(file):
                continue
            if _identity(file) in taken:
                raise InputError(f"--{option}: {file} is also {taken[_identity(file)]}; it would be overwritten")
            taken[_identity(file)] = f"--{option}"


def _encodes(name: str) -> bool:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True


def _companions(file: str) -> Iterator[str]:
    folder, name = os.path.split(file)
    yield f"{file}.manifest.json"
    try:
        names = os.listdir(folder or ".") if os.path.isfile(file) else []
    except OSError:
        return
    yield from (
        os.path.join(folder, one) for one in names if one.startswith(name) and COMPANION.fullmatch(one[len(name) :])
    )


def _identity(file: str) -> object:
    try:
        status = os.stat(file)
    except OSError:
        return os.path.normcase(os.path.realpath(file))
    return status.st_dev, status.st_ino


def _is_written_whole(file: str) -> bool:
    """Whether writing replaces what is there: not of a folder, a terminal or a null device."""
    return os.path.isfile(file) or not os.path.exists(file)
