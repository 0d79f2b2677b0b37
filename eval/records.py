"""Records of a benchmark's files, and the items made of them: complaints name the file, the place and the field."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from data.files import iter_json_lines
from eval.fields import describe_key, item_key, strings, wrong_field
from models.errors import InputError
from models.outside import read_json_file

# What the harness writes into a row; an answers file can therefore serve as the items of another run.
ROW_FIELDS = {"prompt", "prediction", "truncated", "beyond_context", "image_sha256", "error"}
# Neither can be in a file's name, and a lone surrogate in no UTF-8 file.
NOT_TEXT = re.compile("[\0\ud800-\udfff]")

Fields = dict[str, type | tuple[type, ...]]  # name -> type or types of a field that every record needs
Records = Iterable[tuple[str, dict]]  # where it stands, for messages; the record


class BadRecord(Exception):
    """What is wrong with a record, in one line; whoever reads the record adds where it stands."""


def json_records(path: Path, inside: str | None = None) -> Iterator[tuple[str, dict]]:
    """The records of JSON lines, of a JSON array, or of the array at the key `inside` of a JSON object.

    What a file is, shows in it: benchmarks name JSON lines .json, too. Raises InputError naming file and place.
    """
    if inside is None and not _is_array(path):
        yield from ((f"{path}, line {number}", record) for number, record in iter_json_lines(path))
        return
    content = read_json_file(path, "is the download complete?")
    if inside is not None:
        content = content.get(inside) if isinstance(content, dict) else None
    expected = "a JSON array of objects" + (f" at the key `{inside}`" if inside else "")
    if not isinstance(content, list) or not content:
        raise InputError(f"{path}: {expected} is expected")
    for number, record in enumerate(content, start=1):
        if not isinstance(record, dict):
            raise InputError(f"{path}, entry {number}: a {type(record).__name__}; {expected} is expected")
        yield f"{path}, entry {number}", record


def build_items(
    records: Records, fields: Fields, item_of: Callable[[dict], dict | None], key: tuple[str, ...]
) -> list[dict]:
    """The items that `item_of` makes of records, in their order; None for a record that is not to be asked.

    `item_of` may raise BadRecord; `key` names the fields that tell an item from every other. Raises InputError naming
    where the record stands (both places where two items have the same key).
    """
    items, seen = [], {}
    for where, record in records:
        require_fields(where, record, fields)
        for field, value in record.items():
            if field not in ROW_FIELDS and any(map(NOT_TEXT.search, strings([field, value]))):
                raise InputError(f"{where}: field {json.dumps(field)} holds \\u0000 or half a character; remove it")
        try:
            item = item_of(record)
        except BadRecord as error:
            raise InputError(f"{where}: {error}") from None
        if item is None:
            continue
        if item_key(item, key) in seen:
            told = " ".join(describe_key(item, key).split())[:100]
            raise InputError(f"{where}: one item twice ({told}); it is also {seen[item_key(item, key)]}; delete one")
        seen[item_key(item, key)] = where
        items.append(item)
    return items


def require_fields(where: str, record: dict, fields: Fields) -> None:
    """Raise InputError for a field that is missing or of another type, before a record gets other names."""
    if complaint := wrong_field(record, fields):
        raise InputError(f"{where}: {complaint}")


def _is_array(path: Path) -> bool:
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            return next((line.lstrip().startswith("[") for line in file if line.strip()), False)
    except OSError:  # told by the reader of JSON lines
        return False
