"""What a benchmark reads of its tables (eval/table_source.py): records, and pictures.

Pictures stay in their file, encoded as they are stored, until a prompt needs them: an item names its row.
"""

import argparse
import re
from collections.abc import Iterator
from functools import partial

from data.inside import OutsideError, inside
from data.picture_cells import holds_pictures, stored_bytes
from data.pictures import PictureError
from eval.table_source import Table, open_source
from models.errors import InputError


def add_arguments(parser: argparse.ArgumentParser, example: str, required: bool = True) -> None:
    """--dataset_path, with an id of the hub as an example."""
    parser.add_argument(
        "--dataset_path",
        "--dataset_repo_id",
        required=required,
        metavar="PATH",
        help=f"data set: a folder of its parquet files, one that datasets has saved, or an id of the hub: {example}",
    )
    parser.add_argument("--dataset_revision", metavar="COMMIT", help="of a data set of the hub (default: the newest)")
    parser.add_argument(
        "--follow_paths", action="store_true", help="read pictures that its cells name out of its folder"
    )


def table_of(args: argparse.Namespace, split: str, config: str | None = None) -> Table | None:
    """The table that the arguments name, if they name one."""
    if not args.dataset_path:
        return None
    return Table(args.dataset_path, split, config, args.dataset_revision, args.follow_paths)


def table_records(table: Table, columns: tuple[str, ...]) -> Iterator[tuple[str, dict]]:
    """(where, record) of each row: the `columns` without pictures that the table has, and `row`, its number from 0.

    Raises InputError if the table cannot be opened.
    """
    rows = open_source(table).rows
    rows = rows.select_columns([name for name in columns if name in rows.column_names])
    for number, record in enumerate(rows):
        yield f"{table}, row {number}", {**record, "row": number}


def pictures_present(table: Table, prefix: str = "image") -> dict[str, list[bool]]:
    """Of each column of pictures, `prefix` or `prefix_<number>`: which rows have one, by content or by path."""
    rows = open_source(table).rows
    names = [name for name in rows.column_names if re.fullmatch(rf"{prefix}(_\d+)?", name)]
    columns = {name: rows.data.column(name) for name in names}
    columns = {name: column for name, column in columns.items() if holds_pictures(column.type)}
    return {
        name: [content or path is not None for content, path in _stored_parts(column)]
        for name, column in columns.items()
    }


def _stored_parts(column) -> Iterator[tuple[bool, str | None]]:
    """(whether there are bytes, path) of each cell, without reading the bytes."""
    import pyarrow

    for chunk in column.chunks:
        kind, missing = chunk.type, [None] * len(chunk)
        if pyarrow.types.is_struct(kind):
            fields = {field.name: chunk.field(field.name) for field in kind}
            there = chunk.is_valid().to_pylist()
            content = fields["bytes"].is_valid().to_pylist() if "bytes" in fields else [False] * len(chunk)
            paths = fields["path"].to_pylist() if "path" in fields else missing
            yield from (
                (own and has, path if own else None) for own, has, path in zip(there, content, paths, strict=True)
            )
        elif pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind):
            yield from ((False, path) for path in chunk.to_pylist())
        else:
            yield from ((has, None) for has in chunk.is_valid().to_pylist())


def require_pictures(table: Table, column: str = "image") -> None:
    """Raise InputError, naming the row, unless each has a picture in `column`: bytes, or a path in the folder."""
    present = pictures_present(table, column).get(column)
    if present is None:
        raise InputError(
            f"{table}: no column `{column}` of pictures; it has {', '.join(open_source(table).rows.column_names)}"
        )
    if not all(present):
        raise InputError(f"{table}, row {present.index(False)}: no picture in `{column}`; download the data again")
    folder = open_source(table).folder
    for row, (has_bytes, path) in enumerate(_stored_parts(open_source(table).rows.data.column(column))):
        if not has_bytes and folder is not None:
            try:
                inside(folder, path, table.follow_paths)
            except OutsideError as error:
                raise InputError(f"{table}, row {row}: picture {error}; give --follow_paths to read it") from None


def table_image_part(table: Table, row: int, column: str = "image") -> dict:
    """The part of a chat message that shows the picture of a row."""
    return {"type": "image", "image": partial(stored_picture, table, row, column)}


def stored_picture(table: Table, row: int, column: str) -> bytes:
    """The bytes of a row's picture, as they are stored. Raises ValueError if it has none, or it cannot be read."""
    source = open_source(table)
    stored = stored_bytes(source.rows.data.column(column)[row].as_py(), source.folder, table.follow_paths)
    if stored is None:
        raise PictureError(f"row {row} has no {column}")
    return stored
