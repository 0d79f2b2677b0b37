"""What two runs of the probe show, in one sentence that says no more than its intervals do."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from eval.entries import show_entry
from eval.reporting.parts import with_minus

MANY = 5.0  # percent of replies that cannot be read; from here on the reader is told
CHANCE = 50.0  # percent, balanced accuracy of who guesses or always says the same
# Less noise, since fewer wrong replies make less noise, and that would look like evenness.
VARIANCE = "variance over cells less noise"
MEASURES = {"balanced_accuracy": "balanced accuracy", "mean": "mean over cells"}
# By the side of zero on which all of the interval lies; 0: on both.
EVENNESS = {
    -1: ("more even", "answers more evenly over positions"),
    0: ("no difference shown", "is not shown to answer more or less evenly over positions"),
    1: ("less even", "answers less evenly over positions"),
}
CHANGE = {  # by the sides of the variance and of the accuracy
    (-1, -1): ", at a cost of accuracy",
    (-1, 0): ", and is not shown to be more or less accurate",
    (-1, 1): ", and more accurately",
    (0, -1): ", but answers less accurately",
    (0, 0): ", nor more or less accurately",
    (0, 1): ", but answers more accurately",
    (1, -1): ", and less accurately",
    (1, 0): ", and is not shown to be more or less accurate",
    (1, 1): ", yet more accurately",
}


@dataclass(frozen=True)
class Verdict:
    """`short`: in two or three words; `caveats`: what must be known beside the sentence."""

    short: str
    sentence: str
    caveats: list[str]


def judge(
    names: Sequence[str],
    summaries: list[dict],
    comparison: dict | None,
    partial: bool = False,
    caveats: Sequence[str] = (),
) -> Verdict:
    """The verdict on one run or two, from what eval/metrics.py finds; `caveats` are added to.

    `names`: of the checkpoint, or of that of each run. `partial`: a run was cut short; so it is, too, if questions have
    errors instead of replies.
    """
    caveats = [*caveats, *(caveat for summary in summaries for caveat in _caveats(summary))]
    partial = partial or any(summary["errors"] or summary["left_out"] for summary in summaries)
    found = _judge(names, summaries, comparison, caveats)
    return replace(found, short=f"partial: {found.short}") if partial else found


def _judge(names: Sequence[str], summaries: list[dict], comparison: dict | None, caveats: list[str]) -> Verdict:
    name = " and ".join(dict.fromkeys(names))
    if comparison is None:
        caveats += [_guessing(summary) for summary in summaries if not _above_chance(summary)]
        return Verdict("one run", _alone(name, summaries[0]), caveats)
    guessing = [summary for summary in summaries if not _above_chance(summary)]
    if guessing:
        entries = [(summary["label"], summary["numbers"]["balanced_accuracy"]) for summary in guessing]
        runs = " and ".join(f"{label} ({show_entry(entry, signed=False)} %)" for label, entry in entries)
        sentence = (
            f"{name}: nothing is shown about evenness, since the balanced accuracy of {runs} is not told apart from "
            f"guessing ({CHANCE:.0f} %), and who guesses is even."
        )
        return Verdict("nothing shown", sentence, caveats)
    if comparison["numbers"]["variance"]["value"] is None:
        return Verdict("nothing shown", f"{name}: no question about a caption on the canvas was scored.", caveats)
    variance = comparison["numbers"]["variance_corrected"]
    measure = "balanced_accuracy" if summaries[0]["negatives"] else "mean"
    accuracy, on_canvas = comparison["numbers"][measure], comparison["numbers"]["mean"]
    spread = f"{VARIANCE} {_shown(variance)} %²"
    cost = f"{MEASURES[measure]} {_shown(accuracy)} points"
    if variance["low"] is None or accuracy["low"] is None:
        sentence = f"{name}: with BaPA {spread}, {cost}, without an interval: nothing is told apart from noise."
        return Verdict("no interval", sentence, caveats)
    if _side(on_canvas) != _side(accuracy):
        caveats.append(f"Of captions that are on the canvas alone: mean over cells {_shown(on_canvas)} points.")
    evenness, change = _side(variance), _side(accuracy)
    short, words = EVENNESS[evenness]
    first, second = names[0], names[-1]
    same = first == second
    said = f"With BaPA {first} {words}" if same else f"{second}, with BaPA, {words} than {first}, without it"
    return Verdict(short, f"{said} ({spread}){CHANGE[evenness, change]} ({cost}).", caveats)


def _alone(name: str, summary: dict) -> str:
    numbers = (summary["numbers"][number] for number in ("variance_corrected", "mean"))
    variance, mean = (with_minus(show_entry(number, signed=False)) for number in numbers)
    return (
        f"{name}: only {summary['label']} was measured, so nothing is compared ({VARIANCE} {variance} %², "
        f"mean over cells {mean} %)."
    )


def _caveats(summary: dict) -> list[str]:
    label, caveats = summary["label"], []
    if not summary["negatives"]:
        caveats.append(f"{label}: no caption was asked for in vain, so a model that always says Yes would be perfect.")
    share = 100 * summary["unreadable"] / summary["scored"]
    if share >= MANY:
        caveats.append(f"{label}: {share:.0f} % of the replies cannot be read; they count as wrong.")
    if summary["errors"]:
        caveats.append(f"Partial: {label}: {summary['errors']} questions have an error instead of a reply.")
    if summary["left_out"]:
        caveats.append(f"Partial: {label}: {summary['left_out']} replies left out, errors in the other run.")
    return caveats


def _guessing(summary: dict) -> str:
    shown = show_entry(summary["numbers"]["balanced_accuracy"], signed=False)
    return f"{summary['label']}: balanced accuracy {shown} % is not told apart from guessing, and who guesses is even."


def _above_chance(summary: dict) -> bool:
    """False if replies to captions on the canvas and in vain cannot be told from guessing. True if nobody knows."""
    found = summary["numbers"]["balanced_accuracy"]
    if found["value"] is None:
        return True
    return (found["value"] if found["low"] is None else found["low"]) > CHANCE


def _side(entry: dict) -> int:
    """-1 or 1 if all of the interval lies below or above zero, else 0, also where there is none."""
    if entry["low"] is None:
        return 0
    return (entry["low"] > 0) - (entry["high"] < 0)


def _shown(entry: dict) -> str:
    return with_minus(show_entry(entry, signed=True))
