"""What a benchmark reads of its tables (eval/table_source.py): records, and pictures.

Pictures stay in their file, encoded as they are stored, until a prompt needs them: an item names its row.
"""

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path

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


def table_of(args: argparse.Namespace, split: str, config: str | None = None) -> Table | None:
    """The table that the arguments name, if they name one."""
    return Table(args.dataset_path, split, config, args.dataset_revision) if args.dataset_path else None


def table_records(table: Table, columns: tuple[str, ...]) -> Iterator[tuple[str, dict]]:
    """(where, record) of each row: the `columns` without pictures that the table has, and `row`, its number from 0.

    Raises InputError if the table cannot be opened.
    """
    rows = open_source(table).rows
    rows = rows.select_columns([name for name in columns if name in rows.column_names])
    for number, record in enumerate(rows):
        yield f"{table}, row {number}", {**record, "row": number}


def pictures_present(table: Table, prefix: str = "image") -> dict[str, list[bool]]:
    """Of each column of pictures whose name starts with `prefix`: which rows have one, by content or by path."""
    import pyarrow.compute

    def has_content(column) -> list[bool]:
        stored = (pyarrow.compute.struct_field(column, name) for name in ("bytes", "path"))
        return pyarrow.compute.or_(*(pyarrow.compute.is_valid(values) for values in stored)).to_pylist()

    rows = open_source(table).rows
    names = [name for name in rows.column_names if name.startswith(prefix)]
    columns = {name: rows.data.column(name) for name in names}
    return {name: has_content(column) for name, column in columns.items() if str(column.type).startswith("struct")}


def require_pictures(table: Table, column: str = "image") -> None:
    """Raise InputError unless each row has a picture in `column`, naming the first one without."""
    present = pictures_present(table, column).get(column)
    if present is None:
        raise InputError(
            f"{table}: no column `{column}` of pictures; it has {', '.join(open_source(table).rows.column_names)}"
        )
    if not all(present):
        raise InputError(f"{table}, row {present.index(False)}: no picture in `{column}`; download the data again")


def table_image_part(table: Table, row: int, column: str = "image") -> dict:
    """The part of a chat message that shows the picture of a row."""
    return {"type": "image", "image": partial(stored_picture, table, row, column)}


def stored_picture(table: Table, row: int, column: str) -> bytes:
    """The bytes of a row's picture, as they are stored."""
    stored = open_source(table).rows.data.column(column)[row].as_py()
    if stored is None:
        raise ValueError(f"row {row} has no {column}")
    return stored["bytes"] if stored["bytes"] is not None else Path(stored["path"]).read_bytes()
