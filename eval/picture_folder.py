"""The folder of a benchmark's pictures (--img_path), which its records name files of."""

import argparse
import os
from collections.abc import Iterable
from pathlib import Path

from data.inside import OutsideError, inside
from eval.records import NOT_TEXT, BadRecord
from models.errors import InputError
from models.names import wrong_name


class PictureFolder:
    """`path` as the user gives it, by `option`. Raises InputError if there is no such folder.

    With `follows_links` a picture may lie elsewhere, if a symbolic link of the folder leads there: benchmarks share
    COCO, and downloads of the hub are links.
    """

    def __init__(self, path: Path, follows_links: bool = True, option: str = "img_path"):
        if not path.is_dir():
            raise InputError(f"--{option} {path}: no such folder")
        self.path, self.option, self.follows_links = path, option, follows_links

    def check(self, name: object) -> None:
        """Raise BadRecord for what is no name of a file, or leads out of the folder: absolute, or by `..`."""
        if not isinstance(name, str) or NOT_TEXT.search(name):
            raise BadRecord(f"field `image` is {str(name)[:60]!r}; the name of a file is expected")
        if reason := wrong_name(name):
            raise BadRecord(f"field `image` is {name[:60]!r}...: the name {reason}")
        try:
            place = inside(self.path, name)
        except OutsideError:
            place = None
        root = os.path.join(os.path.realpath(self.path), "")
        if place is None or not (self.follows_links or os.path.realpath(place).startswith(root)):
            raise BadRecord(f"image `{name}` lies outside --{self.option} {self.path}")

    def check_any(self, names: Iterable[str], source: object) -> None:
        """Raise InputError if not one of the pictures is there: then it is the wrong folder."""
        if not any((self.path / name).is_file() for name in names):
            raise InputError(f"--{self.option} {self.path}: holds none of the images that {source} names")


def add_arguments(
    parser: argparse.ArgumentParser, eval_file: str, img_path: str, required: bool = True, several: bool = False
) -> None:
    """--eval_file (a list, if there may be several) and --img_path, with what they are."""
    parser.add_argument("--eval_file", type=Path, required=required, nargs="+" if several else None, help=eval_file)
    parser.add_argument("--img_path", type=Path, required=required, help=img_path)


def image_part(folder: Path, name: str) -> dict:
    """The part of a chat message that shows a picture of the folder."""
    return {"type": "image", "path": inside(folder, name)}
