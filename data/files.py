"""Reading JSON lines with errors that name the line, and writing files that are whole or absent."""

import json
import os
from pathlib import Path

from models.errors import InputError


def read_json_lines(path: str | os.PathLike) -> list[dict]:
    """The objects of a JSON-lines file, in order; blank lines are skipped.

    Raises InputError if the file is missing, empty, or has a line that is not one JSON object (the line is named).
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give the path of a JSON-lines file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error})") from None
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {number}: not JSON ({error.msg}); one object a line is expected") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}: a {type(row).__name__}, not a JSON object")
        rows.append(row)
    if not rows:
        raise InputError(f"{path}: empty; one JSON object a line is expected")
    return rows


def write_atomic(path: str | os.PathLike, content: bytes | str) -> None:
    """Write `content` so that `path` always holds either its old content or all of the new one.

    Creates missing parent folders. Text is written as UTF-8. Safe with several processes writing the same path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
