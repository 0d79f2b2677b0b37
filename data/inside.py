"""Names of pictures that come from data: they may not lead out of the folder that they start from.

A captions.jsonl, an instruction file, a table or a benchmark's file is often somebody else's. A name in it that is
absolute or climbs out by `..` would read any file of the machine, so it is refused unless the user says --follow_paths.
Links are followed: whoever has the folder has made them, and no name in the data can. That is how people share COCO
among folders (LLaVA's playground/data/coco), and how the hub's downloads lie on the disk.
"""

import os
from pathlib import Path


class OutsideError(ValueError):
    """A name leads out of its folder. The message is one line that gives both."""


def inside(folder: str | os.PathLike, name: str, follow_paths: bool = False) -> Path:
    """The place of the file `name` of `folder`, whether there is one or not.

    `..` is taken out of the name first, so that `a/../b.jpg` is b.jpg also where `a` is a link; an absolute name may be
    one of the folder's. Raises OutsideError for any other, unless `follow_paths`: then the name is followed.
    """
    if follow_paths:
        return Path(folder) / name
    plain = os.path.normpath(name)
    if not os.path.isabs(plain) and plain.split(os.sep)[0] != os.pardir:
        return Path(folder) / plain
    if plain.startswith(os.path.join(os.path.abspath(folder), "")):
        return Path(plain)
    raise OutsideError(f"{name!r} lies outside {folder}")
