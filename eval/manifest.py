"""The manifest beside an answers file: all that decides what the answers are, so that no two runs get mixed.

It has no times, batch sizes or numbers of processes: those do not decide an answer, and the same run writes
the same bytes. `provenance` says which code wrote the answers; it may change between a run and its
continuation, with a warning, and then holds both.
"""

import json
import os
from pathlib import Path

from data.files import write_atomic
from models.errors import InputError
from models.outside import parse_json, read_json_object
from models.provenance import differences, provenance


def manifest_path(answers: Path) -> Path:
    """Where the manifest of an answers file lies."""
    return answers.with_name(f"{answers.name}.manifest.json")


def read_manifest(answers: Path) -> dict | None:
    """The manifest beside an answers file, or None. Raises InputError if it is not JSON."""
    path = manifest_path(answers)
    if not os.path.lexists(path):
        return None
    manifest = read_json_object(path, "start anew with --overwrite", finite=False)
    return {"engine": "transformers"} | manifest  # which says nothing of it where there was only one


def write_manifest(answers: Path, settings: dict, earlier: dict | None) -> str | None:
    """Write the manifest of a run with these settings; `earlier` is the manifest of the run it continues.

    Returns a line of warning if other code wrote the earlier answers.
    """
    here = provenance()
    history = (earlier or {}).get("provenance", [])
    if here not in history:
        write_atomic(manifest_path(answers), _dump({**settings, "provenance": [*history, here]}))
    if history and history[-1] != here:
        return f"{answers}: continued with other code than before ({differences(history[-1], here)})"
    return None


def note_keys(answers: Path, keys: list[tuple]) -> None:
    """Add the keys of all items, so that a reader of the answers can name the rows that it lacks.

    As a text that holds JSON: one line, and not one for each of thousands of items.
    """
    manifest = read_manifest(answers) or {}
    noted = json.dumps(keys, ensure_ascii=False, separators=(",", ":"))
    if manifest.get("keys") != noted:
        write_atomic(manifest_path(answers), _dump(manifest | {"keys": noted}))


def noted_keys(answers: Path, manifest: dict) -> dict[tuple, None] | None:
    """The keys of all items in their order, if the manifest has them. Raises InputError if they cannot be read."""
    if "keys" not in manifest:
        return None
    damaged = f"{manifest_path(answers)}: field `keys` is damaged; remove it, or run again"
    try:
        return dict.fromkeys(tuple(key) for key in parse_json(manifest["keys"], str(manifest_path(answers))))
    except (AttributeError, TypeError, InputError):
        raise InputError(damaged) from None


def check_same(answers: Path, manifest: dict, settings: dict) -> None:
    """Raise InputError with the differences unless all of `settings` are in the manifest with the same
    values.
    """
    changes = differences({name: manifest.get(name) for name in settings}, settings)
    if changes:
        raise InputError(
            f"{answers}: answers of another run ({changes}); "
            "choose another path for the answers, or start anew with --overwrite"
        )


def check_finished(answers: Path, rows: int) -> None:
    """Raise InputError if the manifest beside the answers names another number of items than there are rows.

    Answers without a manifest, such as the paper's own, are taken as they are.
    """
    items = (read_manifest(answers) or {}).get("items", rows)
    if rows != items:
        raise InputError(
            f"{answers}: {rows} rows, but {manifest_path(answers).name} names {items} items; "
            "finish the run (the same command again goes on)"
        )


def _dump(manifest: dict) -> str:
    return json.dumps(manifest, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
