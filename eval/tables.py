"""Data sets as tables of the `datasets` library: an id of the hub, or a folder of parquet files or of `save_to_disk`.

Pictures stay in their file, encoded as they are stored, until a prompt needs them: an item names its row.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from models.errors import InputError


@dataclass(frozen=True)
class Table:
    """One split of one configuration of a data set; `config` None where it has only one."""

    path: str
    split: str
    config: str | None = None

    def __str__(self) -> str:
        return ", ".join(filter(None, (f"--dataset_path {self.path}", self.config, self.split)))


def add_arguments(parser: argparse.ArgumentParser, example: str, required: bool = True) -> None:
    """--dataset_path, with an id of the hub as an example."""
    parser.add_argument(
        "--dataset_path",
        "--dataset_repo_id",
        required=required,
        metavar="PATH",
        help=f"data set: a folder of its parquet files, one that datasets has saved, or an id of the hub: {example}",
    )


def table_records(table: Table, columns: tuple[str, ...]) -> Iterator[tuple[str, dict]]:
    """(where, record) of each row: the `columns` without pictures that the table has, and `row`, its number from 0.

    Raises InputError if the table cannot be opened.
    """
    rows = open_table(table)
    rows = rows.select_columns([name for name in columns if name in rows.column_names])
    for number, record in enumerate(rows):
        yield f"{table}, row {number}", {**record, "row": number}


def pictures_present(table: Table, prefix: str = "image") -> dict[str, list[bool]]:
    """Of each column of pictures whose name starts with `prefix`: which rows have one."""
    rows = open_table(table)
    names = [name for name in rows.column_names if name.startswith(prefix)]
    columns = {name: rows.data.column(name) for name in names}
    return {name: column.is_valid().to_pylist() for name, column in columns.items() if str(column.type)[:6] == "struct"}


def require_pictures(table: Table, column: str = "image") -> None:
    """Raise InputError unless each row has a picture in `column`, naming the first one without."""
    present = pictures_present(table, column).get(column)
    if present is None:
        raise InputError(
            f"{table}: no column `{column}` of pictures; it has {', '.join(open_table(table).column_names)}"
        )
    if not all(present):
        raise InputError(f"{table}, row {present.index(False)}: no picture in `{column}`; download the data again")


def table_image_part(table: Table, row: int, column: str = "image") -> dict:
    """The part of a chat message that shows the picture of a row."""
    return {"type": "image", "image": partial(stored_picture, table, row, column)}


def stored_picture(table: Table, row: int, column: str) -> bytes:
    """The bytes of a row's picture, as they are stored."""
    stored = open_table(table).data.column(column)[row].as_py()
    if stored is None:
        raise ValueError(f"row {row} has no {column}")
    return stored["bytes"] if stored["bytes"] is not None else Path(stored["path"]).read_bytes()


@cache
def open_table(table: Table):
    """The `datasets.Dataset` of a table; memory-mapped, and opened once by each process.

    Raises InputError, naming the file where one is damaged.
    """
    import datasets  # takes seconds, which a mistake on the command line must not cost

    datasets.disable_progress_bars()
    try:
        return _load(datasets, table)
    except InputError:
        raise
    except Exception as error:  # of a dozen libraries: the file system, arrow, the hub
        reason = str(error.__cause__ or error).strip().split("\n")[0]
        raise InputError(f"{table}: cannot be loaded ({reason})") from None


def _load(datasets, table: Table):
    folder = Path(table.path)
    if not folder.is_dir():
        if table.path.count("/") > 1 or folder.is_absolute() or folder.exists():
            raise InputError(f"--dataset_path {table.path}: no such folder, nor an id of the hub (owner/name)")
        return datasets.load_dataset(table.path, table.config, split=table.split)
    if table.config and (folder / table.config).is_dir():
        folder = folder / table.config
    for saved, name in ((folder, "dataset_dict.json"), (folder, "state.json"), (folder / table.split, "state.json")):
        if (saved / name).is_file():
            loaded = datasets.load_from_disk(saved)
            return loaded[table.split] if name == "dataset_dict.json" else loaded
    files = [str(file) for file in _parquet_files(folder, table)]
    return datasets.load_dataset("parquet", data_files=files, split="train")


def _parquet_files(folder: Path, table: Table) -> list[Path]:
    """The split's files in the folder or in its `data`, each with a footer. Raises InputError if there are none."""
    import pyarrow
    import pyarrow.parquet

    split = table.split
    for place in (folder, folder / "data"):
        files = sorted([*place.glob(f"{split}-*.parquet"), *place.glob(f"{split}.parquet")])
        if files:
            break
    else:
        raise InputError(f"{table}: {folder} has no {split}-*.parquet (nor in data/), and is not of save_to_disk")
    for file in files:
        try:
            pyarrow.parquet.read_metadata(file)
        except (OSError, pyarrow.ArrowInvalid) as error:
            reason = str(error).split("\n")[0]
            raise InputError(f"{file}: damaged ({reason}); download it again") from None
    return files
