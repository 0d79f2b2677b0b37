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


COLUMNS = ("part", "of", "first way", "second way", "a second", "peak, MB", "ratio", "of each round", "goal", "met")


def cells(row: dict) -> list[str]:
    """The cells of a row, as `Row.as_dict` (or a file of it) gives it, under COLUMNS."""
    ratio = row["ratio"]
    rates = " / ".join(rate(ratio["units"] / seconds) for seconds in ratio["seconds"])
    peaks = " / ".join("?" if peak is None else f"{peak / 1e6:,.0f}" for peak in ratio["peaks"])
    each = " ".join(f"{one:.2f}" for one in ratio["rounds"])
    met = {True: "yes", False: "no", None: ""}[row["met"]]
    return [
        *(row["part"], row["what"], row["first"], row["second"], f"{rates} {row['unit']}", peaks),
        *(f"{ratio['median']:.2f}", each, row["goal"] or "", met),
    ]


def rate(value: float) -> str:
    """A number with three digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
