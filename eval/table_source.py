"""Data sets as tables of `datasets`: an id of the hub, or a folder of parquet files or of `save_to_disk`."""

import argparse
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from models.errors import InputError
from models.outside import read_json_file

COMMIT = re.compile("[0-9a-f]{40}")
END_BYTES = 65536


@dataclass(frozen=True)
class Table:
    """One split of one configuration of a data set; `config` None where it has only one."""

    path: str
    split: str
    config: str | None = None
    revision: str | None = None
    follow_paths: bool = False  # for pictures that cells name out of the folder (data/inside.py)

    def __str__(self) -> str:
        revision = self.revision and f"--dataset_revision {self.revision}"
        return ", ".join(filter(None, (f"--dataset_path {self.path}", revision, self.config, self.split)))


@dataclass(frozen=True)
class Source:
    """A table that is open: its rows (a `datasets.Dataset`), and the hub's commit or the folder's files they are of."""

    rows: Any
    commit: str | None = None
    files: tuple[Path, ...] = ()

    @property
    def folder(self) -> Path | None:
        """What paths of pictures in the rows start from: the folder of the files; None for a table of the hub."""
        return self.files[0].parent if self.files else None


Tables = Table | Sequence[Table] | None  # of one data set


def no_tables(args: argparse.Namespace) -> None:
    """For what is not read from tables."""


def provenance(tables: Tables) -> dict:
    """What decides the rows and pictures of a run's tables, for its manifest; {} without tables.

    That is `dataset_path`, and of the hub `dataset_revision`, the commit that was read; of a folder `dataset_files`,
    size and hash of each. Raises InputError if the tables are of two commits.
    """
    if not tables:
        return {}
    tables = [tables] if isinstance(tables, Table) else tables
    path, sources = tables[0].path, [open_source(table) for table in tables]
    commits = list(dict.fromkeys(source.commit for source in sources))
    if len(commits) > 1:
        told = " and ".join(map(str, commits))
        raise InputError(f"--dataset_path {path}: it has changed while it was read ({told}); give a --dataset_revision")
    files = {file.relative_to(path).as_posix(): _hash_ends(file) for source in sources for file in source.files}
    if files:
        return {"dataset_path": str(Path(path).resolve()), "dataset_files": files}
    return {"dataset_path": path, "dataset_revision": commits[0]}


@cache
def open_source(table: Table) -> Source:
    """The rows of a table; memory-mapped, and opened once by each process.

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
        what = "cannot be loaded" if Path(table.path).is_dir() else "no such folder, and the hub does not give it"
        raise InputError(f"{table}: {what} ({_reason(error.__cause__ or error)})") from None


def _load(datasets, table: Table) -> Source:
    folder, config = Path(table.path), table.config
    if not folder.is_dir():
        if table.path.count("/") > 1 or folder.is_absolute() or folder.exists():
            raise InputError(f"--dataset_path {table.path}: no such folder, nor an id of the hub (owner/name)")
        return _from_hub(datasets, table)
    if table.revision:
        raise InputError(f"--dataset_revision {table.revision}: {folder} is a folder; of the hub alone, leave it out")
    if config and (folder / config).is_dir():
        folder = folder / config
    elif config and folder.resolve().name != config:
        raise InputError(f"--dataset_path {folder}: has no folder `{config}`; give the one that holds it")
    for saved in (folder, folder / table.split):
        if (saved / "state.json").is_file():
            return _from_disk(datasets, table, saved)
    if (folder / "dataset_dict.json").is_file():
        splits = [path.parent.name for path in sorted(folder.glob("*/state.json"))]
        raise InputError(f"{table}: no such split; it has {', '.join(splits)}")
    return _from_parquet(datasets, table, folder)


def _from_hub(datasets, table: Table) -> Source:
    builder = datasets.load_dataset_builder(table.path, table.config, revision=table.revision)
    commit, wanted = builder.hash, table.revision or ""
    # Where the hub is out of reach, the library gives what its cache has, of whatever revision.
    if COMMIT.fullmatch(wanted) and wanted != commit:
        raise InputError(
            f"--dataset_revision {wanted}: the hub does not give it, and the newest of {table.path} in the cache is "
            f"{commit}; try again online, or download it and give the folder"
        )
    builder.download_and_prepare()
    return Source(builder.as_dataset(split=table.split), commit)


def _from_disk(datasets, table: Table, folder: Path) -> Source:
    files = sorted(path for path in folder.iterdir() if path.suffix in READERS)
    try:
        rows = datasets.load_from_disk(folder)
    except Exception:
        _name_damaged(files)
        raise
    if rows.split not in (None, table.split):
        raise InputError(f"{table}: {folder} is of the split {rows.split}")
    return Source(rows, files=tuple(files))


def _from_parquet(datasets, table: Table, folder: Path) -> Source:
    files = _parquet_files(folder, table)
    if not files:
        raise InputError(f"{table}: {folder} has no {table.split}-*.parquet (nor in data/), and is not of save_to_disk")
    try:
        rows = datasets.load_dataset("parquet", data_files=[str(file) for file in files], split="train")
    except Exception:
        _name_damaged(files)
        raise
    return Source(rows, files=tuple(files))


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
            raise _damaged(file, error) from None
    if files and not rows:
        raise InputError(f"{table}: has no rows; download the data again")
    return files


def _name_damaged(files: list[Path]) -> None:
    """Raise InputError naming the first file with a part that cannot be read; it reads them whole."""
    for file in files:
        try:
            READERS[file.suffix](file)
        except Exception as error:  # what arrow and its codecs raise has no common base
            raise _damaged(file, error) from None


def _read_parquet(file: Path) -> None:
    import pyarrow.parquet

    for _ in pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=64):
        pass


def _read_arrow(file: Path) -> None:
    import pyarrow

    with pyarrow.memory_map(str(file)) as opened:
        for _ in pyarrow.ipc.open_stream(opened):
            pass


def _read_json(file: Path) -> None:
    read_json_file(file, finite=False)


READERS = {".parquet": _read_parquet, ".arrow": _read_arrow, ".json": _read_json}


def _damaged(file: Path, error: Exception) -> InputError:
    return InputError(f"{file}: damaged ({_reason(error)}); download it again")


def _reason(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]


def _hash_ends(file: Path) -> str:
    """Size and hash of a file's two ends: the last has, in parquet, where and how long each column's parts are."""
    size = file.stat().st_size
    with open(file, "rb") as opened:
        digest = hashlib.sha256(opened.read(END_BYTES))
        opened.seek(max(END_BYTES, size - END_BYTES))
        digest.update(opened.read())
    return f"{size} bytes, {digest.hexdigest()}"
