"""The folder of a benchmark's pictures (--img_path), which its records name files of."""

import argparse
import os
from collections.abc import Iterable
from pathlib import Path

from eval.records import BadRecord
from models.errors import InputError


class PictureFolder:
    """`path` as the user gives it. Raises InputError if there is no such folder."""

    def __init__(self, path: Path):
        if not path.is_dir():
            raise InputError(f"--img_path {path}: no such folder")
        self.path, self._root = path, os.path.realpath(path)

    def check(self, name: str) -> None:
        """Raise BadRecord for a name that leads out of the folder: absolute, by `..`, or through a symbolic link."""
        if not os.path.realpath(os.path.join(self._root, name)).startswith(os.path.join(self._root, "")):
            raise BadRecord(f"image `{name}` lies outside --img_path {self.path}")

    def check_any(self, names: Iterable[str], source: object) -> None:
        """Raise InputError if not one of the pictures is there: then it is the wrong folder."""
        if not any((self.path / name).is_file() for name in names):
            raise InputError(f"--img_path {self.path}: holds none of the images that {source} names")


def add_arguments(
    parser: argparse.ArgumentParser, eval_file: str, img_path: str, required: bool = True, several: bool = False
) -> None:
    """--eval_file (a list, if there may be several) and --img_path, with what they are."""
    parser.add_argument("--eval_file", type=Path, required=required, nargs="+" if several else None, help=eval_file)
    parser.add_argument("--img_path", type=Path, required=required, help=img_path)


def image_part(folder: Path, name: str) -> dict:
    """The part of a chat message that shows a picture of the folder."""
    return {"type": "image", "path": folder / name}
