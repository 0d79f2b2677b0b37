"""Questions that got another answer with the flag on, with their canvases."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from data.files import numbered_json_lines
from data.grid import cell_names
from eval.items import hash_pictures
from eval.probe_answers import Answers, caption_group
from eval.reporting.parts import Example
from eval.reporting.pictures import canvas_picture
from eval.reporting.results import files_below


class Canvases:
    """Canvases below some folders, found by the name and the hash that a row of answers has.

    The folders are listed once, when the first is asked for.
    """

    def __init__(self, folders: list[Path]) -> None:
        self.folders = folders
        self.by_name: dict[str, list[Path]] | None = None

    def find(self, row: dict) -> bytes | None:
        """The bytes of the canvas that was asked about; None if it is not there."""
        if not isinstance(row.get("image_sha256"), str):
            return None
        if self.by_name is None:
            self.by_name = {}
            for path in (path for folder in self.folders for path in files_below(folder)):
                self.by_name.setdefault(path.name, []).append(path)
        for path in self.by_name.get(PurePosixPath(row["image"]).name, []):
            content = [{"type": "image", "path": path}]
            if hash_pictures([{"role": "user", "content": content}]) == [row["image_sha256"]]:
                return path.read_bytes()
        return None


def changed_examples(
    answers: tuple[Answers, Answers], labels: list[str], many: int, canvases: Canvases
) -> tuple[list[Example], str]:
    """At most `many` examples, as many that became wrong as became right where there are; and what they are of."""
    first, second = ({item: reply for item, (_, reply) in one.replies.items()} for one in answers)
    lost = [item for item in first if first[item] == item[2] != second[item]]
    won = [item for item in first if second[item] == item[2] != first[item]]
    chosen = _spread(lost, many - min(len(won), many // 2)) + _spread(won, many - min(len(lost), many - many // 2))
    text = (
        f"Of {len(first)} questions, {len(lost)} are answered rightly with {labels[0]} alone and {len(won)} with "
        f"{labels[1]} alone."
    )
    if not chosen:
        return [], text
    rows = [_rows(one.path, set(chosen)) for one in answers]
    sides = [dict(found) for found in rows]
    examples = [_example(item, [side[item] for side in sides], labels, answers, canvases) for item in chosen]
    text += f" Below are {len(chosen)} of them, spread over the file."
    missing = sum(example.picture is None for example in examples)
    if missing:
        text += f" {missing} of their canvases were not found; --img_path names their folder."
    return examples, text


def _spread(items: list, many: int) -> list:
    """At most `many`, evenly over the list."""
    count = min(many, len(items))
    return [items[place * len(items) // count] for place in range(count)]


def _rows(path: str, wanted: set) -> Iterator[tuple[tuple, dict]]:
    for _, row in numbered_json_lines(path):
        item = (row["id"], row["position"], row["answer"].strip().capitalize())
        if item in wanted:
            yield item, row


def _example(item: tuple, rows: list[dict], labels: list[str], answers: tuple[Answers, ...], canvases: Canvases):
    _, position, expected = item
    replies = [
        (label, row["prediction"].strip() or "(empty)", one.replies[item][1] == expected)
        for label, row, one in zip(labels, rows, answers, strict=True)
    ]
    caption, grid = str(rows[0].get("caption", caption_group(rows[0]["image"]))), answers[0].grid
    where = position.replace("_", " ")
    asked = f"the caption's picture is {where}" if expected == "Yes" else "none of them fits the caption"
    stored, picture = canvases.find(rows[0]), None
    if stored is not None:
        alt = f"Canvas of {grid} by {grid} pictures; {asked}: {caption}"
        try:
            picture = canvas_picture(stored, alt)
        except (OSError, ValueError):  # which was an error row, were it the run's
            picture = None
    row, column = divmod(cell_names(grid).index(position), grid)
    place = (100 * column / grid, 100 * row / grid, 100 / grid) if expected == "Yes" and picture else None
    return Example(caption, where, expected, replies, picture, place)
