"""An answers file of a benchmark, read and checked; and what tells that it lacks rows.

That rows are missing is told from, in this order: rows with `error` in place of a reply; the manifest beside the file
(eval/manifest.py), where the run has written which items it asked and whether --limit cut them; groups that a
benchmark is made of (its file in this package: fours, pairs, figure 0); and the benchmark's number of rows. A run that
its manifest calls complete, of other data than the published, is scored, and the numbers of rows are a remark.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from data.files import numbered_json_lines
from eval.fields import describe_key, item_key, wrong_field
from eval.manifest import manifest_path, noted_keys, read_manifest
from eval.scorers.rules import Rules
from models.errors import InputError

SHOWN = 5  # how many ids a message lists
PICTURES = ("image", "image_sha256")  # rows of one picture are drawn together


@dataclass(frozen=True)
class Answers:
    """The rows to score, in the order of the file, and why that may not be all there are.

    `errors` and `left_out`: how many rows had no reply, or were in the file and not scored. `partial`: what is missing,
    in words; empty for a whole file. `remarks`: what else to know.
    """

    path: str
    rows: list[dict]
    errors: int = 0
    left_out: int = 0
    partial: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def read_answers(path: str, benchmark: str, rules: Rules, scorer: str, allow_partial: bool) -> Answers:
    """The answers to score. Raises InputError, in one line, for a file that is not fit to be scored.

    That is: a line that lacks a field or has a wrong one (file, line, id, field), rows with one key, answers to another
    benchmark, and rows that are missing, unless `allow_partial`: then rows of broken groups are left out.
    """
    rows, errors = _read_rows(path, rules)
    manifest = read_manifest(Path(path)) or {}
    asked = manifest.get("benchmark", benchmark)
    if asked != benchmark:
        raise InputError(f"{path}: answers to {asked}, as its manifest says; score them as `{asked}`")
    if not rows:
        raise InputError(f"{path}: no row to score, all {len(errors)} are errors; mend the pictures and run again")
    complaints = _unfinished(Path(path), manifest, rows, errors, rules)
    is_whole_run = "items" in manifest and not complaints
    scored = [row for row in rows if rules.takes(row, scorer)]
    if not scored:
        raise InputError(f"{path}: none of its {len(rows)} rows is one that scorer {scorer} counts")
    broken = rules.broken(scored, scorer)
    complaints += _shortened([what for what, _ in broken], "; ", "more such groups")
    other_sizes = rules.sizes(scored, scorer)
    if not is_whole_run:
        complaints += other_sizes
    if complaints and not allow_partial:
        raise InputError(
            f"{path}: not all rows are there: {'; '.join(complaints)}; finish the run, or score what is there with "
            "--allow_partial"
        )
    unfit = {id(row) for _, members in broken for row in members}
    kept = [row for row in scored if id(row) not in unfit]
    if not kept:
        raise InputError(f"{path}: no whole group to score: {'; '.join(complaints)}")
    remarks = [f"not the published data: {line}" for line in other_sizes] if is_whole_run else []
    return Answers(path, kept, len(errors), len(rows) - len(kept), complaints, remarks)


def pair(first: Answers, second: Answers, rules: Rules) -> tuple[Answers, Answers]:
    """Both files with the rows that both have, in the order of the first.

    Raises InputError for rows that only one of them has, unless one is partial, and for rows that ask different things.
    """
    keys = [_keys(answers.rows, rules) for answers in (first, second)]
    by_key = [dict(zip(names, answers.rows, strict=True)) for names, answers in zip(keys, (first, second), strict=True)]
    alone = [[key for key in keys[0] if key not in by_key[1]], [key for key in keys[1] if key not in by_key[0]]]
    if any(alone) and not (first.partial or second.partial):
        told = [f"{len(some)} are only in the {which} ({_ids(some, rules)})"
                for which, some in zip(("first", "second"), alone, strict=True) if some]  # fmt: skip
        raise InputError(f"{first.path} and {second.path} must hold the same rows: {' and '.join(told)}")
    shared = [key for key in keys[0] if key in by_key[1]]
    if not shared:
        raise InputError(f"{first.path} and {second.path}: no row is in both; give two runs over the same questions")
    for key in shared:
        for name in rules.fields:
            if name not in rules.of_the_run and by_key[0][key][name] != by_key[1][key][name]:
                where = f"field `{name}` of {_named(rules.key, key)}"
                raise InputError(f"{first.path} and {second.path}: {where} differs; give two runs over the same data")
    return tuple(
        Answers(
            answers.path,
            [rows[key] for key in shared],
            answers.errors,
            answers.left_out + len(rows) - len(shared),
            answers.partial,
            answers.remarks,
        )
        for answers, rows in zip((first, second), by_key, strict=True)
    )


def _read_rows(path: str, rules: Rules) -> tuple[list[dict], list[dict]]:
    """The rows with a reply, and those with an error in its place."""
    rows, errors, lines = [], [], {}
    for number, row in numbered_json_lines(path):
        complaint = _wrong(row, rules)
        if complaint:
            raise InputError(f"{path}, line {number}{_id_of(row)}: {complaint}")
        lines.setdefault(item_key(row, rules.key), []).append(number)
        (rows if "prediction" in row else errors).append(row)
    doubled = [f"{_named(rules.key, key)} on lines {_listed(at)}" for key, at in lines.items() if len(at) > 1]
    if doubled:
        shown = "; ".join(_shortened(doubled, "; ", "more"))
        raise InputError(f"{path}: {len(doubled)} ids are there more than once ({shown}); delete all but one row each")
    return rows, errors


def _wrong(row: dict, rules: Rules) -> str | None:
    complaint = wrong_field(row, {"id": (str, int)} | rules.fields)
    if complaint:
        return complaint
    if not isinstance(row.get("prediction", ""), str):
        return "field `prediction` is not the reply, a string"
    if "prediction" not in row and not isinstance(row.get("error"), str):
        return "field `prediction` is missing; give the answers, not the questions"
    for name in PICTURES:
        named = row.get(name, [])
        if not all(isinstance(one, str | int | None) for one in (named if isinstance(named, list) else [named])):
            return f"field `{name}` is {json.dumps(named)[:60]}; a text or a list of texts is expected"
    return rules.check(row)


def _unfinished(path: Path, manifest: dict, rows: list[dict], errors: list[dict], rules: Rules) -> list[str]:
    """What errors and the manifest say is missing."""
    complaints = []
    if errors:
        complaints.append(f"{len(errors)} rows have an error and no reply ({_ids(_keys(errors, rules), rules)})")
    present, asked = dict.fromkeys(_keys([*rows, *errors], rules)), noted_keys(path, manifest)
    items, limit = manifest.get("items", len(present)), manifest.get("limit")
    missing = [key for key in asked or () if key not in present]
    foreign = [key for key in present if asked is not None and key not in asked]
    if missing:
        complaints.append(f"{len(missing)} of {items} rows are missing ({_ids(missing, rules)})")
    if foreign:
        complaints.append(f"{len(foreign)} rows are none of the run's ({_ids(foreign, rules)})")
    if asked is None and items != len(present):
        complaints.append(f"{len(present)} rows, but {manifest_path(path).name} names {items} items")
    if limit is not None and limit <= items:
        complaints.append(f"the run was cut with --limit {limit}")
    return complaints


def _keys(rows: list[dict], rules: Rules) -> list[tuple]:
    return [item_key(row, rules.key) for row in rows]


def _ids(keys: list[tuple], rules: Rules) -> str:
    """The first of these keys in words, and how many more there are."""
    return "; ".join(_shortened([_named(rules.key, key) for key in keys], "; ", "more"))


def _id_of(row: dict) -> str:
    return f" (id {row['id']})" if isinstance(row.get("id"), str | int) else ""


def _named(key: tuple[str, ...], values: tuple) -> str:
    return " ".join(describe_key(dict(zip(key, values, strict=True)), key).split())


def _listed(numbers: list[int]) -> str:
    return f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"


def _shortened(lines: list[str], joint: str, rest: str) -> list[str]:
    return lines if len(lines) <= SHOWN else [joint.join(lines[:SHOWN]), f"{len(lines) - SHOWN} {rest}"]
