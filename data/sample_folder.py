"""A folder of a few files that comes whole or not at all: written beside its place, then renamed."""

import os
from pathlib import Path

from data.files import write_atomic, writing
from data.output_folder import read_manifest
from models.errors import InputError
from models.writing import OLD, hidden_folder, remove_killed


def holds(folder: Path, identity: dict, overwrite: bool) -> bool:
    """Whether `folder` is already the finished result of `identity`, and is not to be made anew.

    Raises InputError if it cannot be written or replaced: no right to, a file, files of other origin, or the result
    of another identity without `overwrite`.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output_dir {folder}: a file; choose another")
    _check_writable(folder)
    names = sorted(name for name in os.listdir(folder) if not name.startswith(".")) if folder.exists() else []
    if not names:
        return False
    manifest = read_manifest(folder)
    if manifest is None or manifest["identity"].get("build") != identity["build"]:
        raise InputError(f"--output_dir {folder}: holds files of other origin ({names[0]}); choose an empty folder")
    there, known = manifest["identity"], {"manifest.json", *manifest["files"]}
    if there == identity and known <= set(names) and not overwrite:
        return True
    if there != identity and not overwrite:
        differences = ", ".join(
            f"{field} {there.get(field)} there, {value} here"
            for field, value in identity.items()
            if there.get(field) != value
        )
        raise InputError(
            f"--output_dir {folder}: holds another sample ({differences}); choose another folder or give --overwrite"
        )
    if strangers := [name for name in names if name not in known]:
        raise InputError(
            f"--output_dir {folder}: holds {strangers[0]} too, which would be lost; move it or choose another folder"
        )
    return False


def _check_writable(folder: Path) -> None:
    parent = folder.resolve().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output_dir {folder}: cannot be made ({error.strerror}); choose another") from None
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"--output_dir {folder}: no right to write in {parent}; choose another")


def publish(folder: Path, identity: dict, files: dict[str, str], overwrite: bool) -> None:
    """Put `files` (name -> text) into place as `folder`, instead of what `holds` let be replaced.

    A kill leaves the old folder or the new one, in the worst moment neither: the next run then puts the old one back.
    Raises InputError if the disk refuses; the old folder then stays.
    """
    target = folder.resolve()  # not a link to it
    with writing(f"--output_dir {folder}"):
        remove_killed(target)
        with hidden_folder(target) as hidden:
            new, old = hidden / "new", hidden / OLD
            for name, text in files.items():
                write_atomic(new / name, text)
            if holds(folder, identity, overwrite):  # another run was faster
                return
            if target.exists():
                os.rename(target, old)
            try:
                os.rename(new, target)
            except OSError:
                if old.exists():
                    os.rename(old, target)
                raise
