"""The one sentence on two runs: it says what the intervals say, and no more."""

import pytest

from eval.reporting.parts import with_minus
from eval.reporting.verdict import judge

BELOW, AROUND, ABOVE = (-4.0, -6.0, -2.0), (-1.0, -3.0, 0.0), (3.0, 1.0, 5.0)


def entry(value, low=None, high=None):
    return {"value": value, "low": low, "high": high}


def summary(label="BaPA off", balanced=(90.0, 85.0, 95.0), **changed):
    numbers = {
        "balanced_accuracy": entry(*balanced),
        "variance": entry(9.0),
        "variance_corrected": entry(-1.0, -4.0, 3.0),
        "mean": entry(80.0, 70.0, 90.0),
    }
    counts = {"label": label, "negatives": 10, "unreadable": 0, "scored": 20, "errors": 0, "left_out": 0}
    return counts | {"numbers": numbers} | changed


def comparison(corrected, accuracy, mean=None):
    """The raw variance says the contrary: it is not to be believed."""
    found = {"variance": (-corrected[0],), "variance_corrected": corrected}
    found |= {"balanced_accuracy": accuracy, "mean": mean or accuracy}
    return {"numbers": {name: entry(*numbers) for name, numbers in found.items()}}


@pytest.mark.parametrize(
    ("variance", "accuracy", "short", "sentence"),
    [
        (BELOW, BELOW, "more even", "answers more evenly over positions "
         "(variance over cells less noise −4.00 [−6.00, −2.00] %²), "
         "at a cost of accuracy (balanced accuracy −4.00 [−6.00, −2.00] points)."),
        (BELOW, AROUND, "more even", ", and is not shown to be more or less accurate (balanced accuracy −1.00"),
        (BELOW, ABOVE, "more even", ", and more accurately (balanced accuracy +3.00"),
        (ABOVE, BELOW, "less even", "answers less evenly over positions "
         "(variance over cells less noise +3.00 [+1.00, +5.00] %²), and less accurately"),
        (ABOVE, ABOVE, "less even", ", yet more accurately"),
        (AROUND, AROUND, "no difference shown", "is not shown to answer more or less evenly over positions "
         "(variance over cells less noise −1.00 [−3.00, +0.00] %²), nor more or less accurately (bal"),
        (AROUND, BELOW, "no difference shown", ", but answers less accurately"),
    ],
)  # fmt: skip
def test_the_sentence_follows_the_intervals(variance, accuracy, short, sentence):
    found = judge(["bus"], [summary(), summary("BaPA on")], comparison(variance, accuracy))
    assert found.short == short
    assert sentence in found.sentence
    assert "bus" in found.sentence
    assert not found.caveats


def test_two_checkpoints_are_both_named():
    runs = [summary(), summary("BaPA on")]
    names = ("lora", "lora-bapa")
    found = judge(names, runs, comparison(BELOW, BELOW)).sentence
    assert found.startswith("lora-bapa, with BaPA, answers more evenly over positions than lora, without it (variance")
    found = judge(names, runs, comparison(AROUND, BELOW)).sentence
    assert found.startswith(
        "lora-bapa, with BaPA, is not shown to answer more or less evenly over positions than lora,"
    )


def test_who_guesses_is_not_called_even():
    for balanced in ((50.0, 50.0, 50.0), (53.0, 49.0, 57.0)):
        found = judge(["bus"], [summary(), summary("BaPA on", balanced)], comparison(BELOW, BELOW))
        assert found.short == "nothing shown"
        assert "BaPA on (5" in found.sentence
        assert "guessing" in found.sentence
        assert "more even" not in found.sentence


def test_without_an_interval_nothing_is_told_apart():
    found = judge(["bus"], [summary(), summary()], comparison((-4.0,), (-1.0,)))
    assert found.short == "no interval"
    assert "nothing is told apart" in found.sentence


def test_without_negatives_the_mean_counts_and_the_reader_is_warned():
    runs = [summary(negatives=0, balanced=(None,)), summary("BaPA on", negatives=0, balanced=(None,))]
    found = judge(["bus"], runs, comparison(BELOW, (None,), BELOW))
    assert "at a cost of accuracy (mean over cells −4.00" in found.sentence
    assert sum("always says Yes" in caveat for caveat in found.caveats) == 2


def test_the_mean_is_told_where_it_says_something_else():
    found = judge(["bus"], [summary(), summary()], comparison(BELOW, AROUND, BELOW))
    assert any("mean over cells −4.00 [−6.00, −2.00] points" in caveat for caveat in found.caveats)


def test_partial_runs_are_called_so():
    assert judge(["bus"], [summary(), summary()], comparison(BELOW, BELOW), True).short == "partial: more even"
    found = judge(["bus"], [summary(errors=3), summary(left_out=3)], comparison(BELOW, BELOW))
    assert found.short == "partial: more even"
    assert any("3 questions have an error" in caveat for caveat in found.caveats)


def test_one_run_is_not_compared():
    found = judge(["bus"], [summary(unreadable=5)], None)
    assert found.short == "one run"
    assert found.sentence.startswith(
        "bus: only BaPA off was measured, so nothing is compared (variance over cells less noise −1.00 [−4.00"
    )
    assert any("25 % of the replies cannot be read" in caveat for caveat in found.caveats)


def test_one_run_of_who_guesses():
    found = judge(["bus"], [summary(balanced=(50.0, 48.0, 52.0))], None)
    assert any("50.00 [48.00, 52.00] % is not told apart from guessing" in caveat for caveat in found.caveats)


def test_minus_signs():
    assert with_minus("on - off -1.00 [-2.00, +3.00], p = 2e-16, llava-1.5") == (
        "on − off −1.00 [−2.00, +3.00], p = 2e-16, llava-1.5"
    )
