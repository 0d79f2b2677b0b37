"""What commands that measure one or two answers files check of their names, before they read them."""

import re
from collections.abc import Sequence
from pathlib import Path

from models.errors import InputError


def check_inputs(files: Sequence[str], option: str) -> None:
    """Raise InputError for more than two files, or one that is a part of an unfinished run."""
    if len(files) > 2:
        raise InputError(f"--{option}: {len(files)} files; give one, or two to compare")
    for file in files:
        if part := re.fullmatch(r"(.+)\.part-\d+", file):
            raise InputError(f"{file}: a part of an unfinished run; finish the run and give {part[1]}")


def name_runs(labels: list[str] | None, files: Sequence[str], kind: str) -> list[str]:
    """A label per file: `labels`, or the files' names, with their folders where the names are alike.

    Raises InputError unless there is one label for each of the files, which the message calls `kind`, and all differ.
    """
    if labels is None:
        names = [Path(file).stem for file in files]
        labels = names if len(set(names)) == len(names) else [str(Path(file).with_suffix("")) for file in files]
    if len(labels) != len(files):
        raise InputError(f"--labels: {len(labels)} labels for {len(files)} {kind} files; give one each")
    if len(set(labels)) != len(files):
        raise InputError(f"--labels: {labels[0]!r} twice; tell the two runs apart")
    return labels
