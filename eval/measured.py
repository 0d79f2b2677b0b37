"""What a study has measured of captions in every cell, read from its answers file."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.files import numbered_json_lines
from data.grid import cell_names, grid_of
from eval.manifest import check_finished
from eval.probe_answers import caption_group
from models.errors import InputError


@dataclass(frozen=True)
class Measured:
    """The rows of one answers file; `index`, (captions, cells), says which measures a caption in a cell; -1: none."""

    path: str
    rows: tuple[dict, ...]
    index: np.ndarray
    errors: int

    def values(self, of: Callable[[dict], float]) -> np.ndarray:
        """A number of every row, by caption and cell: (captions, cells), NaN for none."""
        numbers = np.array([of(row) for row in self.rows] + [np.nan])
        return numbers[self.index]


def read_rows(path: str, fields: dict[str, type]) -> tuple[list[tuple[int, dict]], int]:
    """(line number, row) of each row of an answers file that has `fields` (name -> type); and how many are errors.

    Raises InputError naming file and line for a missing or wrong field; for an unfinished run, and if all are errors.
    """
    rows, errors = [], 0
    for number, row in numbered_json_lines(path):
        if "error" in row:
            errors += 1
            continue
        for field, kind in fields.items():
            if not isinstance(row.get(field), kind):
                raise InputError(f"{path}, line {number}: field `{field}` is missing or no {kind.__name__}")
        rows.append((number, row))
    check_finished(Path(path), len(rows) + errors)
    if not rows:
        raise InputError(f"{path}: all {errors} rows are errors; mend the pictures and run again")
    return rows, errors


def read_measured(path: str, fields: dict[str, type]) -> Measured:
    """What `read_rows` reads, by caption and cell; a caption is told by its canvas's name (eval/probe_answers.py).

    Raises InputError, too, for positions of no grid or of several, and for a caption measured twice in a cell.
    """
    numbered, errors = read_rows(path, {"image": str, "position": str} | fields)
    lines, rows = zip(*numbered, strict=True)
    grid = grid_of({row["position"] for row in rows})
    if grid is None:
        raise InputError(f"{path}: field `position` has cells of no grid, or of several; see data/grid.py")
    cells = {name: cell for cell, name in enumerate(cell_names(grid))}
    captions = {}
    for row in rows:
        captions.setdefault(caption_group(row["image"]), len(captions))
    index = np.full((len(captions), len(cells)), -1)
    for place, row in enumerate(rows):
        at = captions[caption_group(row["image"])], cells[row["position"]]
        if index[at] >= 0:
            both = f"{lines[index[at]]} and {lines[place]}"
            raise InputError(f"{path}, lines {both}: one caption twice at {row['position']}; delete one")
        index[at] = place
    return Measured(path, rows, index, errors)
