"""An answers file of the spatial probe: read, checked, and turned into arrays."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import numpy as np

from data.files import numbered_json_lines
from data.grid import cell_names, grid_of
from eval.probe_statistics import NO, UNREADABLE, YES, Replies
from models.errors import InputError

Item = tuple[int | str, str, str]  # id, position, "Yes" or "No": what tells an item from every other
_CODES = {"Yes": YES, "No": NO, None: UNREADABLE}


@dataclass(frozen=True)
class Answers:
    """One answers file. `replies` and `errors` keep the order of the file.

    replies: item -> (caption group, "Yes", "No" or None). errors: item -> caption group, of the rows whose
    picture could not be read; they are counted and not scored. left_out: how many replies `pair` took out.
    """

    path: str
    grid: int
    replies: dict[Item, tuple[str, str | None]]
    errors: dict[Item, str]
    left_out: int = 0

    def groups(self) -> dict[Item, str]:
        """Item -> caption group, of all rows."""
        return {item: group for item, (group, _) in self.replies.items()} | self.errors


def read_answers(path: str, read_reply: Callable[[str], str | None]) -> Answers:
    """Read the JSON-lines file that eval/probe.py writes, or the paper's own answers (same fields).

    Every row needs `id`, `image`, `position`, `answer` ("Yes" or "No") and `prediction`, or `error` in its
    place. The caption group of a row is its picture's name without suffix and cell: `019920000_3.jpg` ->
    `019920000`.

    Raises InputError naming file and line for a missing or wrong field, an unknown position, positions of two
    grids, a doubled item, or two positives of one caption in one cell; and if no row is left to score.
    """
    return collect_answers(path, numbered_json_lines(path), read_reply)


def collect_answers(
    path: str, numbered_rows: Iterable[tuple[int, dict]], read_reply: Callable[[str], str | None]
) -> Answers:
    """The same of rows that are at hand, each with its line number in the file `path`."""
    replies, errors, lines, positives, positions = {}, {}, {}, {}, set()
    for number, row in numbered_rows:
        where = f"{path}, line {number}"
        item, group = _item(row, where)
        if item in lines:
            raise InputError(f"{where}: the same item as line {lines[item]} ({describe(item)}); delete one of them")
        lines[item] = number
        if item[1] not in positions:
            positions.add(item[1])
            _check_positions(positions, item[1], where)
        if item[2] == "Yes" and positives.setdefault((group, item[1]), number) != number:
            first = positives[group, item[1]]
            raise InputError(
                f"{where}: caption {group!r} has a positive at {item[1]} on line {first} already; "
                "pictures must be named <caption>_<cell>"
            )
        if "prediction" in row:
            if not isinstance(row["prediction"], str):
                raise InputError(f"{where}: field 'prediction' must be the reply, a string")
            replies[item] = (group, read_reply(row["prediction"]))
        elif "error" in row:
            errors[item] = group
        else:
            raise InputError(f"{where}: no field 'prediction'; give the answers of eval/probe.py, not the probe")
    if not replies:
        raise InputError(f"{path}: no row to score, all {len(errors)} are errors; mend the pictures and run again")
    return Answers(str(path), grid_of(positions), replies, errors)


def _check_positions(positions: set[str], newest: str, where: str) -> None:
    if grid_of({newest}) is None:
        raise InputError(
            f"{where}: unknown position {newest!r}; known are {', '.join(cell_names(3))}, row1_col1 and so on"
        )
    if grid_of(positions) is None:
        raise InputError(f"{where}: position {newest!r} and those before it are not of one grid")


def _item(row: dict, where: str) -> tuple[Item, str]:
    for field in ("id", "image", "position", "answer"):
        if field not in row:
            raise InputError(f"{where}: no field {field!r}")
        integer_id = field == "id" and type(row[field]) is int
        if not isinstance(row[field], str) and not integer_id:
            raise InputError(f"{where}: field {field!r} must be a string{' or an integer' * (field == 'id')}")
    answer = row["answer"].strip().capitalize()
    if answer not in ("Yes", "No"):
        raise InputError(f"{where}: answer {row['answer']!r} is neither 'Yes' nor 'No'")
    return (row["id"], row["position"], answer), caption_group(row["image"])


def caption_group(image: str) -> str:
    """The caption that a canvas belongs to: its name without suffix and cell, `019920000_3.jpg` -> `019920000`."""
    return re.sub(r"_\d+$", "", PurePosixPath(image).stem)


def describe(item: Item) -> str:
    """An item in an error message."""
    return f"id {item[0]!r}, position {item[1]}, answer {item[2]}"


def pair(first: Answers, second: Answers) -> tuple[Answers, Answers]:
    """Both files with the items that both could score, in the order of the first.

    Raises InputError, naming how many items differ and the first of them, unless both hold the same items.
    """
    in_first, in_second = first.groups(), second.groups()
    only_first = [item for item, group in in_first.items() if in_second.get(item) != group]
    only_second = [item for item, group in in_second.items() if in_first.get(item) != group]
    if only_first or only_second:
        example, holder = (only_first[0], first) if only_first else (only_second[0], second)
        raise InputError(
            f"{first.path} and {second.path} must hold the same items: {len(only_first)} are only in the first "
            f"and {len(only_second)} only in the second; first, {holder.path} alone has {describe(example)}"
        )
    shared = [item for item in first.replies if item in second.replies]
    if not shared:
        raise InputError(f"{first.path} and {second.path}: no item was scored in both; mend the pictures")
    return tuple(
        replace(
            answers,
            replies={item: answers.replies[item] for item in shared},
            left_out=len(answers.replies) - len(shared),
        )
        for answers in (first, second)
    )


def to_replies(answers: Answers) -> Replies:
    """The scored rows as arrays, in the order of `answers.replies`; captions are numbered by name."""
    names, caption = np.unique([group for group, _ in answers.replies.values()], return_inverse=True)
    cell_of = {name: index for index, name in enumerate(cell_names(answers.grid))}
    return Replies(
        caption=caption,
        cell=np.array([cell_of[position] for _, position, _ in answers.replies]),
        positive=np.array([answer == "Yes" for _, _, answer in answers.replies]),
        reply=np.array([_CODES[reply] for _, reply in answers.replies.values()]),
        captions=len(names),
        cells=len(cell_of),
    )
