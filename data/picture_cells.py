"""Pictures in the columns of tables (parquet, Arrow), in every form that people keep them in.

A cell is the hub's struct of `bytes` and `path`, either of which may be missing, or bytes alone, or a path alone. A
path starts from the table's own folder and may not lead out of it (data/inside.py).
"""

import os

from data.inside import inside
from data.pictures import PictureError, read_file


def holds_pictures(kind) -> bool:
    """Whether a column of this pyarrow type can hold pictures: bytes, paths, or structs of either."""
    import pyarrow  # slow to load, and only tables need it

    if pyarrow.types.is_struct(kind):
        return bool({"bytes", "path"} & {field.name for field in kind})
    of_bytes = (pyarrow.types.is_binary, pyarrow.types.is_large_binary)
    of_text = (pyarrow.types.is_string, pyarrow.types.is_large_string)
    return any(is_kind(kind) for is_kind in of_bytes + of_text)


def stored_bytes(cell: object, folder: str | os.PathLike | None, follow_paths: bool = False) -> bytes | None:
    """The bytes of the picture of a cell, as stored; None for an empty cell.

    Raises OutsideError for a path that leads out of `folder`, and PictureError for one whose file cannot be read, or
    that has no folder to start from (a table of the hub).
    """
    content, path = parts(cell)
    if content is not None or path is None:
        return content
    if folder is None:
        raise PictureError(f"{path!r} is a path, and a table of the hub has no folder for it to start from")
    return read_file(inside(folder, path, follow_paths))


def parts(cell: object) -> tuple[bytes | None, str | None]:
    """The bytes and the path of a cell, None for what it lacks."""
    if isinstance(cell, dict):
        return cell.get("bytes"), cell.get("path")
    return (cell, None) if isinstance(cell, bytes) else (None, cell)
