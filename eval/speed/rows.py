"""What a part of eval/benchmark.py finds, in the form in which it is printed, saved and put on the page."""

from dataclasses import asdict, dataclass

from eval.speed.side_by_side import Ratio


@dataclass(frozen=True)
class Goal:
    """A ratio to reach: `at_most` it (an overhead) or at least it (a gain)."""

    value: float
    at_most: bool = False

    def met(self, ratio: float) -> bool:
        return ratio <= self.value if self.at_most else ratio >= self.value

    def words(self) -> str:
        return f"{'at most' if self.at_most else 'at least'} {self.value:g}"


@dataclass(frozen=True)
class Row:
    """One comparison: `first` and `second` name the two ways, `unit` what is counted a second.

    The ratio is `seconds[first] / seconds[second]`, in an overhead as in a gain. `note`: what limits it, or what it
    does not say.
    """

    part: str
    what: str
    first: str
    second: str
    unit: str
    ratio: Ratio
    goal: Goal | None = None
    note: str = ""

    def as_dict(self) -> dict:
        met = None if self.goal is None else self.goal.met(self.ratio.median)
        return asdict(self) | {"met": met, "goal": None if self.goal is None else self.goal.words()}


@dataclass(frozen=True)
class Size:
    """What one `unit` costs where there are `size` of what `what` names: seconds, and bytes at the peak of all.

    `limit`: what takes most of it. `computed`: from other rows, not measured.
    """

    part: str
    what: str
    size: int
    unit: str
    seconds: float
    peak: int | None
    limit: str
    computed: bool = False

    def as_dict(self) -> dict:
        return asdict(self)


SIZE_COLUMNS = ("part", "of", "how many", "time", "peak, MB", "limit", "measured")
COLUMNS = (
    *("part", "of", "first way", "second way", "a second", "peak, MB"),
    *("ratio", "of each round", "goal", "met", "note"),
)


def columns(row: dict) -> tuple[str, ...]:
    """The heads of the cells of a row."""
    return COLUMNS if "ratio" in row else SIZE_COLUMNS


def cells(row: dict) -> list[str]:
    """The cells of a row, as `as_dict` (or a file of it) gives it, under its `columns`."""
    if "ratio" not in row:
        return [
            *(row["part"], row["what"], f"{row['size']:,}", f"{duration(row['seconds'])} per {row['unit']}"),
            *(megabytes(row["peak"]), row["limit"], "computed" if row["computed"] else "yes"),
        ]
    ratio = row["ratio"]
    rates = " / ".join(rate(ratio["units"] / seconds) for seconds in ratio["seconds"])
    peaks = " / ".join(map(megabytes, ratio["peaks"]))
    each = " ".join(f"{one:.2f}" for one in ratio["rounds"])
    met = {True: "yes", False: "no", None: ""}[row["met"]]
    return [
        *(row["part"], row["what"], row["first"], row["second"], f"{rates} {row['unit']}", peaks),
        *(f"{ratio['median']:.2f}", each, row["goal"] or "", met, row["note"]),
    ]


def rate(value: float) -> str:
    """A number with three digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def megabytes(count: int | None) -> str:
    """Bytes, in MB."""
    return "?" if count is None else f"{count / 1e6:,.0f}"


def duration(seconds: float) -> str:
    """Seconds with the unit that needs few digits."""
    scale, unit = next((one for one in ((1, "s"), (1e-3, "ms")) if seconds >= one[0]), (1e-6, "µs"))
    return f"{rate(seconds / scale)} {unit}"
