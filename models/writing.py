"""Writing a checkpoint's folder: whole or absent, never over anything."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from models.errors import InputError


def check_new(output_dir: str | Path, argument: str = "--output_dir") -> Path:
    """The path, if nothing is there yet but perhaps an empty folder; else an InputError that names `argument`."""
    path = Path(output_dir)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{argument} {path}: exists and is not an empty folder; name another")
    return path


@contextmanager
def new_folder(output_dir: str | Path, argument: str = "--output_dir") -> Iterator[Path]:
    """A folder to write into, which becomes `output_dir` if the with block ends well, and is gone if it does not.

    A kill leaves nothing under the name that was asked for, at most a hidden folder beside it. Raises InputError,
    naming `argument`, if something is there already or the system refuses to write.
    """
    path = check_new(output_dir, argument)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as hidden:
            folder = Path(hidden) / path.name
            folder.mkdir()
            yield folder
            os.replace(folder, path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{argument} {path}: cannot be written ({reason}); choose another") from None
