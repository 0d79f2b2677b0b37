"""What the scorer of a benchmark is made of: the fields it needs, how it reads a reply, which means it reports.

A benchmark is a file of this package that ends with `RULES = Rules(...)`; eval/score.py lists them. What is written
there of official scripts and frameworks is in own words, from their public code.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Verdict:
    """What a rule makes of one reply.

    `parsed` is what it reads (JSON-ready), None if it can read nothing. `correct` is a bool, or from 0 to 1 for soft
    scores. `extra` goes into the row of --per_row; a true `guessed` there marks a reply that cannot be read either,
    and that the rule settles nonetheless.
    """

    parsed: object
    correct: bool | float
    extra: dict = field(default_factory=dict)

    @property
    def unreadable(self) -> bool:
        """Whether the reply does not say what `parsed` says."""
        return self.parsed is None or bool(self.extra.get("guessed"))

    @property
    def earned(self) -> bool | float:
        """`correct`, with nothing for a guess."""
        return False if self.unreadable else self.correct


@dataclass(frozen=True)
class Scored:
    """A row of an answers file with its verdict; `cluster` numbers its picture, or what else is drawn together."""

    row: dict
    verdict: Verdict
    cluster: int


@dataclass(frozen=True)
class Context:
    """What verdicts depend on beside the row: the seed of guesses, and a judge's words by the row's key."""

    seed: int = 0
    judged: dict[tuple, str] | None = None


Observation = tuple[int, str, float]  # cluster, name of the mean that it goes into, value from 0 to 1
Means = dict[str, np.ndarray]  # name -> (samples,), in percent: of the data, then of each resample


def picture_of(row: dict) -> Hashable | None:
    """The row's picture or pictures, by content where the harness has hashed them, else by name; None without."""
    picture = row.get("image_sha256") or row.get("image")
    return tuple(picture) if isinstance(picture, list) else picture if isinstance(picture, str) else None


@dataclass(frozen=True)
class Rules:
    """How a benchmark is scored.

    `fields`: field -> type or types that rows need beside id and prediction; those in `of_the_run` describe the model's
    side and may differ between two runs. `check(row)` says what else is wrong with a row, or None. `key` names the
    fields that tell a row from every other.

    `scorers`: official, lmms, vlmevalkit -> the reading `(row, context) -> Verdict`, where there is one.
    `takes(row, scorer)`: whether the scorer counts the row at all. `observe(scored, scorer)` gives what the means are
    made of; `derive(means)` adds numbers that follow from means and orders them. `tests` names the means of rights and
    wrongs that McNemar's test compares; a name that has no observations is skipped.

    `broken(rows, scorer)`: groups that lack rows, as (what is wrong, the rows that cannot be scored for it).
    `sizes(rows, scorer)`: where the number of rows is not the benchmark's. `remarks(scored, scorer)`: what a reader of
    the numbers should know. `cluster(row)` is what intervals draw together, in words `unit`.
    """

    fields: dict[str, type | tuple[type, ...]]
    scorers: dict[str, Callable[[dict, Context], Verdict]]
    observe: Callable[[list[Scored], str], Iterator[Observation]]
    sizes: Callable[[list[dict], str], list[str]]
    check: Callable[[dict], str | None] = lambda row: None
    key: tuple[str, ...] = ("id",)
    of_the_run: tuple[str, ...] = ()
    takes: Callable[[dict, str], bool] = lambda row, scorer: True
    derive: Callable[[Means], Means] = lambda means: means
    tests: tuple[str, ...] = ("accuracy",)
    broken: Callable[[list[dict], str], list[tuple[str, list[dict]]]] = lambda rows, scorer: []
    remarks: Callable[[list[Scored], str], list[str]] = lambda scored, scorer: []
    cluster: Callable[[dict], Hashable | None] = picture_of
    unit: str = "pictures"


def other_size(count: int, sizes: dict[int, str], what: str) -> list[str]:
    """The complaint that there are `count` rows of `what`, unless `sizes` (number -> of which set) has that number."""
    if count in sizes:
        return []
    known = " or ".join(f"{size}{f' ({name})' if name else ''}" for size, name in sizes.items())
    return [f"{count} rows of {what}, which has {known}"]


def group(rows: Sequence, key: Callable[[object], Hashable]) -> dict[Hashable, list]:
    """Key -> its rows, both in their order."""
    groups = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def all_right(rows: list[Scored]) -> bool:
    """Whether a group's rows are all correct."""
    return all(row.verdict.correct for row in rows)
