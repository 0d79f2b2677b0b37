"""What two runs of the probe show, in one sentence that says no more than its intervals do."""

from dataclasses import dataclass

from eval.entries import show_entry
from eval.reporting.parts import with_minus

MANY = 5.0  # percent of replies that cannot be read; from here on the reader is told
CHANCE = 50.0  # percent, balanced accuracy of who guesses or always says the same


@dataclass(frozen=True)
class Verdict:
    """`short`: in two or three words; `caveats`: what must be known beside the sentence."""

    short: str
    sentence: str
    caveats: list[str]


def judge(name: str, summaries: list[dict], comparison: dict | None, caveats: list[str]) -> Verdict:
    """The verdict on the runs of a model called `name`, from what eval/metrics.py finds; `caveats` are added to."""
    caveats = [*caveats, *(caveat for summary in summaries for caveat in _caveats(summary))]
    if comparison is None:
        return Verdict("one run", _alone(name, summaries[0]), caveats)
    guessing = [summary for summary in summaries if not _above_chance(summary)]
    if guessing:
        runs = " and ".join(_with_number(summary["label"], summary, "balanced_accuracy", "%") for summary in guessing)
        sentence = (
            f"{name}: nothing is shown about evenness, since {runs} cannot be told from guessing (balanced accuracy "
            f"{CHANCE:.0f} %), and who guesses is even."
        )
        return Verdict("nothing shown", sentence, caveats)
    variance = comparison["numbers"]["variance"]
    if variance["value"] is None:
        return Verdict("nothing shown", f"{name}: no question about a caption on the canvas was scored.", caveats)
    measure = "balanced_accuracy" if summaries[0]["negatives"] else "mean"
    accuracy, measured = comparison["numbers"][measure], f"{measure.replace('_', ' ')} {{}} points"
    if measure == "mean":
        measured = "mean over cells {} points"
    if variance["low"] is None or accuracy["low"] is None:
        sentence = (
            f"{name}: with BaPA the variance over cells changes by {_shown(variance)} %² and {measured}, without an "
            "interval, so that nothing is told apart from noise."
        )
        return Verdict("no interval", with_minus(sentence.format(_shown(accuracy))), caveats)
    short, even = {
        -1: ("more even", "With BaPA {} answers more evenly over positions"),
        1: ("less even", "With BaPA {} answers less evenly over positions"),
        0: ("not told apart", "With BaPA and without, {} is not told apart in how evenly it answers over positions"),
    }[_side(variance)]
    at_cost = {
        -1: ", at a cost of accuracy" if short == "more even" else ", and less accurately",
        1: ", and more accurately",
        0: "; a difference in accuracy is not told apart from noise"
        if short != "not told apart"
        else ", nor in accuracy",
    }[_side(accuracy)]
    changes = f"variance over cells {_shown(variance)} %²", f"{measured.format(_shown(accuracy))}"
    sentence = f"{even.format(name)} ({changes[0]}){at_cost} ({changes[1]})."
    return Verdict(short, sentence, caveats)


def _alone(name: str, summary: dict) -> str:
    variance = _with_number("its variance over cells is", summary, "variance", "%²")
    mean = _with_number("mean over cells", summary, "mean", "%")
    return f"{name}: only {summary['label']} was measured, so nothing is compared; {variance}, {mean}."


def _caveats(summary: dict) -> list[str]:
    label, caveats = summary["label"], []
    if not summary["negatives"]:
        caveats.append(f"{label}: no caption was asked for in vain, so a model that always says Yes would be perfect.")
    share = 100 * summary["unreadable"] / summary["scored"]
    if share >= MANY:
        caveats.append(f"{label}: {share:.0f} % of the replies cannot be read; they count as wrong.")
    if summary["errors"]:
        caveats.append(f"{label}: partial, {summary['errors']} questions have an error instead of a reply.")
    return caveats


def _above_chance(summary: dict) -> bool:
    """False if replies to captions on the canvas and in vain cannot be told from guessing. True if nobody knows."""
    found = summary["numbers"]["balanced_accuracy"]
    if found["value"] is None:
        return True
    return (found["value"] if found["low"] is None else found["low"]) > CHANCE


def _side(entry: dict) -> int:
    """-1 or 1 if all of the interval lies below or above zero, else 0."""
    return (entry["low"] > 0) - (entry["high"] < 0)


def _with_number(words: str, summary: dict, name: str, unit: str) -> str:
    entry = summary["numbers"][name]
    return with_minus(f"{words} ({show_entry(entry, signed=False)} {unit})") if words[-3:] != " is" else with_minus(
        f"{words} {show_entry(entry, signed=False)} {unit}"
    )


def _shown(entry: dict) -> str:
    return with_minus(show_entry(entry, signed=True))
