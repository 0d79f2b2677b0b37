"""Data sets as tables of the `datasets` library: an id of the hub, or a folder of parquet files or of `save_to_disk`.

Pictures stay in their file, encoded as they are stored, until a prompt needs them: an item names its row.
"""

import argparse
import re
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
    revision: str | None = None

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
    parser.add_argument("--dataset_revision", metavar="COMMIT", help="of a data set of the hub (default: the newest)")


def table_of(args: argparse.Namespace, split: str, config: str | None = None) -> Table | None:
    """The table that the arguments name, if they name one."""
    return Table(args.dataset_path, split, config, args.dataset_revision) if args.dataset_path else None


def table_records(table: Table, columns: tuple[str, ...]) -> Iterator[tuple[str, dict]]:
    """(where, record) of each row: the `columns` without pictures that the table has, and `row`, its number from 0.

    Raises InputError if the table cannot be opened.
    """
    rows = open_table(table)
    rows = rows.select_columns([name for name in columns if name in rows.column_names])
    for number, record in enumerate(rows):
        yield f"{table}, row {number}", {**record, "row": number}


def pictures_present(table: Table, prefix: str = "image") -> dict[str, list[bool]]:
    """Of each column of pictures whose name starts with `prefix`: which rows have one, by content or by path."""
    import pyarrow.compute

    def has_content(column) -> list[bool]:
        stored = (pyarrow.compute.struct_field(column, name) for name in ("bytes", "path"))
        return pyarrow.compute.or_(*(pyarrow.compute.is_valid(values) for values in stored)).to_pylist()

    rows = open_table(table)
    names = [name for name in rows.column_names if name.startswith(prefix)]
    columns = {name: rows.data.column(name) for name in names}
    return {name: has_content(column) for name, column in columns.items() if str(column.type).startswith("struct")}


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

    Parquet is first converted, once, into the folder HF_DATASETS_CACHE (a copy of about the same size). Raises
    InputError, naming the file where one is missing or damaged.
    """
    import datasets  # takes seconds, which a mistake on the command line must not cost

    datasets.disable_progress_bars()
    try:
        return _load(datasets, table)
    except InputError:
        raise
    except Exception as error:  # of a dozen libraries: the file system, arrow, the hub
        reason = str(error.__cause__ or error).strip().split("\n")[0]
        what = "cannot be loaded" if Path(table.path).is_dir() else "no such folder, and the hub does not give it"
        raise InputError(f"{table}: {what} ({reason})") from None


def _load(datasets, table: Table):
    folder, config = Path(table.path), table.config
    if not folder.is_dir():
        if table.path.count("/") > 1 or folder.is_absolute() or folder.exists():
            raise InputError(f"--dataset_path {table.path}: no such folder, nor an id of the hub (owner/name)")
        return datasets.load_dataset(table.path, config, split=table.split, revision=table.revision)
    if table.revision:
        raise InputError(f"--dataset_revision {table.revision}: {folder} is a folder; of the hub alone, leave it out")
    if config and (folder / config).is_dir():
        folder = folder / config
    elif config and folder.resolve().name != config:
        raise InputError(f"--dataset_path {folder}: has no folder `{config}`; give the one that holds it")
    if (folder / "dataset_dict.json").is_file():
        splits = datasets.load_from_disk(folder)
        if table.split not in splits:
            raise InputError(f"{table}: no such split; it has {', '.join(splits)}")
        return splits[table.split]
    for saved in (folder, folder / table.split):
        if (saved / "state.json").is_file():
            rows = datasets.load_from_disk(saved)
            if rows.split not in (None, table.split):
                raise InputError(f"{table}: {saved} is of the split {rows.split}")
            return rows
    files = [str(file) for file in _parquet_files(folder, table)]
    if not files:
        raise InputError(f"{table}: {folder} has no {table.split}-*.parquet (nor in data/), and is not of save_to_disk")
    return datasets.load_dataset("parquet", data_files=files, split="train")


def _parquet_files(folder: Path, table: Table) -> list[Path]:
    """The split's files in the folder or in its `data`. Raises InputError if one is missing or has no footer."""
    import pyarrow
    import pyarrow.parquet

    found = ([*place.glob(f"{table.split}-*.parquet"), *place.glob(f"{table.split}.parquet")]
             for place in (folder, folder / "data"))  # fmt: skip
    files = sorted(next(filter(None, found), []))
    rows = 0
    for file in files:
        if shard := re.fullmatch(r"(.*)-\d+-of-(\d+)\.parquet", file.name):
            for number in range(int(shard[2])):
                name = f"{shard[1]}-{number:05d}-of-{shard[2]}.parquet"
                if not (file.parent / name).is_file():
                    raise InputError(
                        f"{file.parent / name}: missing, of {int(shard[2])} files; download the data again"
                    )
        try:
            rows += pyarrow.parquet.read_metadata(file).num_rows
        except (OSError, pyarrow.ArrowInvalid) as error:
            reason = str(error).split("\n")[0]
            raise InputError(f"{file}: damaged ({reason}); download it again") from None
    if files and not rows:
        raise InputError(f"{table}: has no rows; download the data again")
    return files
