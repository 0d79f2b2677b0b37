"""The parts of which a page is made; eval/reporting/page.html lays them out. All text in them is plain, not HTML."""

import re
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Picture:
    """`source`: a data URI. `alt` says what is to be seen, for those who cannot see it. `width`, px as it was drawn."""

    source: str
    alt: str
    width: int


@dataclass(frozen=True)
class Table:
    """The first row of `rows` is the head, the first cell of each its title. `folded`: shown on demand."""

    caption: str
    rows: list[list[str]]
    folded: bool = False


@dataclass(frozen=True)
class Example:
    """A question that got another answer. `place`: left, top, side of the target's cell, percent of the canvas."""

    caption: str
    position: str
    expected: str
    replies: list[tuple[str, str, bool]]  # label, reply, was it right
    picture: Picture | None = None
    place: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Section:
    """A heading with what stands below it; `about` says of what, `text` explains, `warnings` go first."""

    title: str
    about: str = ""
    text: str = ""
    warnings: list[str] = field(default_factory=list)
    pictures: list[list[Picture]] = field(default_factory=list)  # rows: beside each other as space allows
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    examples_text: str = ""


def with_minus(text: str) -> str:
    """Numbers with true minus signs, and differences of runs: `on - off`, `[-1.00, +2.00]`."""
    return re.sub(r"(?<!\w)-(?=\d)|(?<= )-(?= )", "\N{MINUS SIGN}", text)
