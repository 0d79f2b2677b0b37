import math
import statistics

import numpy as np
import pytest

from eval import probe_statistics
from eval.probe_statistics import (
    NO,
    UNREADABLE,
    YES,
    Replies,
    bootstrap,
    corrected_samples,
    count_by_caption,
    interval,
    mcnemar,
    null_spread,
    p_value,
    point,
    variance_noise,
)


def replies_of(positives, negatives=None, cells=None):
    """Replies from tables (captions, cells) of YES, NO, UNREADABLE, or None for a missing row."""
    rows = [
        (caption, cell, table is positives, reply)
        for table in (positives, negatives or [])
        for caption, line in enumerate(table)
        for cell, reply in enumerate(line)
        if reply is not None
    ]
    caption, cell, positive, reply = map(np.array, zip(*rows, strict=True))
    captions = max(len(positives), len(negatives or []))
    return Replies(caption, cell, positive.astype(bool), reply, captions, cells or len((positives or negatives)[0]))


def simulate(captions, cells, generator, cluster=0.0, effect=None):
    """Correctness (captions, cells): captions differ in difficulty by `cluster`, cells by `effect`."""
    ability = 0.8 + cluster * generator.normal(size=(captions, 1))
    correct = ability + 0.5 * generator.normal(size=(captions, cells)) + (0 if effect is None else effect) > 0
    return count_by_caption(replies_of(np.where(correct, YES, NO).tolist()))


HAND = [[YES, YES, YES, YES], [YES, NO, UNREADABLE, YES]]


def test_every_number_of_a_small_case_is_the_one_worked_out_by_hand():
    # Cells: 100, 50, 50, 100. Second caption: of its six pairs of cells only one agrees (Yes, Yes).
    numbers = point(count_by_caption(replies_of(HAND)))
    assert numbers["cell_accuracy"].tolist() == [100, 50, 50, 100]
    expected = {
        "accuracy": 75,
        "mean": 75,
        "variance": 625,
        "std": 25,
        "cv": 100 / 3,
        "gap": 50,
        "relative_gap": 50,
        "worst": 50,
        "consistency": 50,
        "same": 50,
        "flip": 50,
        "disagreement": 100 * (0 + 5 / 6) / 2,
        "yes_rate": 75,
    }
    assert {name: numbers[name] for name in expected} == pytest.approx(expected)
    for name in ("negative_accuracy", "balanced_accuracy", "d_prime", "cell_d_prime"):
        assert np.isnan(numbers[name]).all()


def test_every_number_with_negatives():
    # Negatives by cell: 2 of 2, 1 of 2 (a Yes), 1 of 2 (unreadable), 2 of 2.
    numbers = point(count_by_caption(replies_of(HAND, [[NO, YES, NO, NO], [NO, NO, UNREADABLE, NO]])))
    assert numbers["cell_accuracy"].tolist() == [100, 50, 50, 100], "cells are judged on positives"
    assert numbers["cell_negative_accuracy"].tolist() == [100, 50, 50, 100]
    assert numbers["cell_balanced_accuracy"].tolist() == [100, 50, 50, 100]
    assert numbers["negative_accuracy"] == 75
    assert numbers["balanced_accuracy"] == 75
    assert numbers["accuracy"] == 75
    assert numbers["yes_rate"] == pytest.approx(100 * 7 / 16)
    # Hits 2 of 2 and no false alarm: z(2.5/3) - z(0.5/3) = 2 * 0.96742. One of two each: z(0.5) - z(0.5) = 0.
    # One hit of two and no Yes to a negative, of which one cannot be read: z(0.5) - z(0.5/3) = 0.96742.
    assert numbers["cell_d_prime"] == pytest.approx([1.93484, 0, 0.96742, 1.93484], abs=1e-5)
    assert numbers["d_prime"] == pytest.approx((1.93484 * 2 + 0.96742) / 4, abs=1e-5)


def test_d_prime_by_hand():
    # 8 hits of 10, 1 false alarm of 10: z(8.5/11) - z(1.5/11) = 0.7479 + 1.0968.
    positives = [[YES]] * 8 + [[NO]] * 2
    negatives = [[YES]] + [[NO]] * 9
    z = statistics.NormalDist().inv_cdf
    found = point(count_by_caption(replies_of(positives, negatives, cells=4)))["d_prime"]
    assert found == pytest.approx(z(8.5 / 11) - z(1.5 / 11))
    assert found == pytest.approx(1.8447, abs=1e-4)


def test_a_model_that_always_says_yes_is_found_out_by_its_negatives():
    numbers = point(count_by_caption(replies_of([[YES] * 4] * 3, [[YES] * 4] * 3)))
    assert (numbers["mean"], numbers["flip"], numbers["balanced_accuracy"]) == (100, 0, 50)
    assert numbers["d_prime"] == pytest.approx(0)


def test_a_model_that_cannot_be_read_has_a_d_prime_of_0():
    # No hit and no false alarm, of 3 rows each: z(0.5/4) - z(0.5/4).
    numbers = point(count_by_caption(replies_of([[UNREADABLE] * 4] * 3, [[UNREADABLE] * 4] * 3)))
    assert numbers["cell_d_prime"].tolist() == [0, 0, 0, 0]
    # Unreadable on the negatives alone: z(3.5/4) - z(0.5/4) = 2 * 1.15035.
    numbers = point(count_by_caption(replies_of([[YES] * 4] * 3, [[UNREADABLE] * 4] * 3)))
    assert numbers["d_prime"] == pytest.approx(2.3007, abs=1e-4)


def test_variance_is_the_population_variance_in_percent_squared():
    right = [84, 82, 83, 81, 82, 85, 81, 82, 83]  # of 100 captions, per cell
    table = [[YES if caption < count else NO for count in right] for caption in range(100)]
    numbers = point(count_by_caption(replies_of(table)))
    assert numbers["mean"] == pytest.approx(statistics.mean(right))
    assert numbers["variance"] == pytest.approx(statistics.pvariance(right))
    assert numbers["variance"] == pytest.approx(1.5802, abs=1e-4)
    assert numbers["gap"] == pytest.approx(4)


def test_pooled_answers_count_negatives_into_the_cells():
    replies = replies_of([[YES, NO]], [[YES, NO]])
    assert point(count_by_caption(replies, pool_answers=True))["cell_accuracy"].tolist() == [50, 50]
    assert point(count_by_caption(replies))["cell_accuracy"].tolist() == [100, 0]


def test_incomplete_captions_count_for_cells_but_not_for_consistency():
    counts = count_by_caption(replies_of([[YES, YES], [NO, None], [None, YES]]))
    numbers = point(counts)
    assert counts["complete"][:, 0].tolist() == [1, 0, 0]
    assert numbers["cell_accuracy"].tolist() == [50, 100]
    assert numbers["consistency"] == 100


def test_two_positives_in_one_cell_make_no_complete_caption():
    twice = Replies(np.zeros(3, int), np.array([0, 1, 1]), np.ones(3, bool), np.array([YES, YES, NO]), 1, 2)
    assert np.isnan(point(count_by_caption(twice))["consistency"])


def test_a_cell_without_data_is_nan_and_left_out_of_the_spread():
    numbers = point(count_by_caption(replies_of([[YES, None, NO]])))
    assert np.isnan(numbers["cell_accuracy"]).tolist() == [False, True, False]
    assert (numbers["mean"], numbers["gap"]) == (50, 100)
    assert np.isnan(numbers["consistency"])


def test_only_negatives_leave_the_cells_unknown():
    counts = count_by_caption(replies_of([], [[NO, YES]]))
    numbers = point(counts)
    assert np.isnan(numbers["mean"])
    assert numbers["negative_accuracy"] == 50
    assert np.isnan(null_spread(counts, 5, 0)["gap"]).all()


def test_bootstrap_draws_whole_captions_with_replacement():
    samples = bootstrap(count_by_caption(replies_of([[YES] * 3, [NO] * 3])), 4000, seed=1)["mean"]
    values, times = np.unique(samples, return_counts=True)
    assert values.tolist() == [0, 50, 100]
    assert times / 4000 == pytest.approx([0.25, 0.5, 0.25], abs=0.03)


def test_bootstrap_depends_on_the_seed_and_not_on_the_chunks(monkeypatch):
    counts = simulate(50, 9, np.random.default_rng(0), cluster=1)
    samples = bootstrap(counts, 40, seed=3)
    monkeypatch.setattr(probe_statistics, "_CHUNK_ENTRIES", 7 * 50)
    again, other = bootstrap(counts, 40, seed=3), bootstrap(counts, 40, seed=4)
    for name in samples:
        np.testing.assert_allclose(samples[name], again[name], rtol=1e-12)
    assert (samples["mean"] != other["mean"]).any()
    assert samples["cell_accuracy"].shape == (40, 9)


def test_intervals_cover_the_truth_as_often_as_they_say():
    generator = np.random.default_rng(5)
    truth = point(simulate(200_000, 4, generator, cluster=1))["mean"]
    covered = 0
    for trial in range(300):
        low, high = interval(bootstrap(simulate(150, 4, generator, cluster=1), 300, seed=trial)["mean"])
        covered += low <= truth <= high
    assert 0.91 <= covered / 300 <= 0.98


def probit_counts(captions, accuracy, generator, shared):
    """Counts of a model with these accuracies by cell; `shared`, (captions, 1): how easy a caption is, normal."""
    share = 0.5  # of the variance of what decides a reply
    latent = np.sqrt(share) * shared + np.sqrt(1 - share) * generator.normal(size=(captions, len(accuracy)))
    table = (latent + np.array([statistics.NormalDist().inv_cdf(one) for one in accuracy]) > 0).astype(int)
    cells = np.tile(np.arange(len(accuracy)), captions)
    caption = np.repeat(np.arange(captions), len(accuracy))
    return count_by_caption(Replies(caption, cells, np.ones(cells.size, bool), table.ravel(), captions, len(accuracy)))


def corrected(counts, seed):
    """`variance_corrected` and its samples."""
    values, samples, noise = point(counts), bootstrap(counts, 200, seed), variance_noise(counts)
    return values["variance"] - noise, corrected_samples(values, samples, noise), samples["variance"]


RAMP = np.linspace(-1, 1, 9) / 0.6455  # of standard deviation 1


@pytest.mark.parametrize(("captions", "spread", "percentiles"), [(30, 0.0, 40), (200, 0.02, 20)])
def test_less_noise_is_not_called_evenness(captions, spread, percentiles):
    """Two models of one true variance over cells, 60 and 95% accurate: of 100 files, few tell them apart.

    Percentiles of the plain variance do so in `percentiles` and more. The longer simulation is in `corrected_samples`.
    """
    generator, alarms, would = np.random.default_rng(11), 0, 0
    for trial in range(100):
        easy = generator.normal(size=(captions, 1))
        runs = [
            corrected(probit_counts(captions, mean + spread * RAMP, generator, easy), trial) for mean in (0.6, 0.95)
        ]
        low, high = interval(runs[1][1] - runs[0][1])
        alarms += not low <= 0 <= high
        low, high = interval(runs[1][2] - runs[0][2])
        would += not low <= 0 <= high
    assert alarms <= 8
    assert would >= percentiles


def test_less_spread_is_called_evenness_whatever_the_noise():
    """A true standard deviation of 10 points against none, in the run that is noisier by far."""
    generator, found = np.random.default_rng(12), 0
    for trial in range(30):
        easy = generator.normal(size=(300, 1))
        uneven = corrected(probit_counts(300, 0.85 + 0.1 * RAMP / 1.6, generator, easy), trial)
        even = corrected(probit_counts(300, np.full(9, 0.6), generator, easy), trial)
        low, high = interval(even[1] - uneven[1])
        found += high < 0
    assert found >= 27


@pytest.mark.parametrize("spread", [0.0, 0.02, 0.08])
def test_intervals_of_the_variance_cover_the_truth_where_percentiles_do_not(spread):
    generator, covered, percentiles, values = np.random.default_rng(8), 0, 0, []
    for trial in range(100):
        counts = probit_counts(200, 0.8 + spread * RAMP, generator, generator.normal(size=(200, 1)))
        value, samples, plain = corrected(counts, trial)
        low, high = interval(samples)
        covered += low <= 1e4 * spread**2 <= high
        low, high = interval(plain)
        percentiles += low <= 1e4 * spread**2 <= high
        values.append(value)
    assert covered >= 89
    assert spread > 0.05 or percentiles <= 75
    assert abs(np.mean(values) - 1e4 * spread**2) < 3 * np.std(values) / 10, "without bias"


def test_samples_of_the_corrected_variance_by_hand():
    """Cells of 60 and 80: variance 100. Errors of +10 and -10 in one resample, of -5 and 5 in the other."""
    values = {"cell_accuracy": np.array([60.0, 80.0]), "mean": 70.0, "variance": 100.0}
    samples = {"cell_accuracy": np.array([[70.0, 70.0], [55.0, 85.0]])}
    # Less noise of 64: 36. Cells drawn together to 64 and 76, then 74 and 66 (variance 16), and 59 and 81 (121).
    assert corrected_samples(values, samples, noise=64.0) == pytest.approx([16 - 64, 121 - 64])
    # Less noise of 110: -10. Both cells at 70, then 80 and 60 (100), and 65 and 75 (25); 10 lower, as the value is.
    assert corrected_samples(values, samples, noise=110.0) == pytest.approx([100 - 110 - 10, 25 - 110 - 10])


def test_the_noise_of_the_variance_by_hand():
    # Right in cells: 1 1 0 / 1 0 0 / 1 1 1 / 0 1 0, so 3/4, 3/4, 1/4.
    table = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 1, 0]])
    residuals = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    mean_square = (residuals**2).sum() / (3 * 2)  # (captions - 1) * (cells - 1)
    assert variance_noise(count_by_caption(replies_of(table.tolist()))) == pytest.approx(1e4 * mean_square * 2 / 3 / 4)
    # A caption that is right everywhere, or of which nothing is judged, makes no noise but changes how many there are.
    assert np.isnan(variance_noise(count_by_caption(replies_of([[YES, NO]]))))
    assert np.isnan(variance_noise(count_by_caption(replies_of([], [[NO, YES], [NO, NO]]))))
    whole = variance_noise(count_by_caption(replies_of([[YES, NO], [NO, YES], [YES, YES]])))
    with_negatives = count_by_caption(replies_of([[YES, NO], [NO, YES], [YES, YES]], [[YES, NO]] * 5))
    assert variance_noise(with_negatives) == whole > 0


def test_the_noise_of_a_file_with_missing_rows_is_that_of_a_simulation():
    """Of 60 captions, cell 0 has 60 rows, cell 1 every second: its noise counts for twice."""
    generator, noises, variances = np.random.default_rng(2), [], []
    for _ in range(400):
        table = generator.integers(0, 2, (60, 3))
        counts = count_by_caption(
            replies_of([[int(a), int(b) if c % 2 else None, int(d)] for c, (a, b, d) in enumerate(table)])
        )
        noises.append(variance_noise(counts))
        variances.append(point(counts)["variance"])
    assert np.mean(noises) == pytest.approx(np.mean(variances), rel=0.12)
    assert np.std(noises) < 0.2 * np.mean(noises)


def test_intervals_by_caption_are_wider_than_by_row_where_captions_differ():
    generator = np.random.default_rng(6)
    ability = generator.normal(size=(300, 1)) * 2
    table = np.where(ability + 0.3 * generator.normal(size=(300, 9)) > -1, YES, NO)
    by_caption = replies_of(table.tolist())
    rows = len(by_caption.reply)
    by_row = Replies(np.arange(rows), by_caption.cell, by_caption.positive, by_caption.reply, rows, 9)
    width = {}
    for name, replies in {"caption": by_caption, "row": by_row}.items():
        low, high = interval(bootstrap(count_by_caption(replies), 500, seed=0)["accuracy"])
        width[name] = high - low
    assert width["caption"] > 2 * width["row"]


def test_interval_is_the_percentile_interval_and_skips_nan():
    assert interval(np.array([*range(101), np.nan])) == pytest.approx((2.5, 97.5))
    assert np.isnan(interval(np.full(3, np.nan))).all()
    assert np.isnan(interval(np.empty(0))).all()


def test_null_shuffles_the_cells_within_each_caption():
    # Two captions, each right in one of two cells: the same cell (gap 100) or not (gap 0), evenly.
    gaps = null_spread(count_by_caption(replies_of([[YES, NO], [YES, NO]])), 4000, seed=0)["gap"]
    assert set(gaps) == {0, 100}
    assert np.mean(gaps) == pytest.approx(50, abs=3)


def test_null_keeps_missing_rows_missing():
    # Cell 2 is always right and can swap with no other cell: only cells 0 and 1 of the first caption are shuffled.
    counts = count_by_caption(replies_of([[YES, NO, None], [None, None, YES]]))
    assert set(null_spread(counts, 50, seed=0)["gap"]) == {100}
    assert set(null_spread(counts, 50, seed=0)["variance"].round(6)) == {round(np.var([100, 0, 100]), 6)}


def test_null_shuffles_pooled_rows_as_well():
    # Right in both rows of one cell, wrong in both of the other, and one wrong row in a cell of its own.
    replies = replies_of([[YES, NO, NO], [YES, NO, None]], [[NO, YES, None], [NO, YES, None]])
    assert point(count_by_caption(replies, pool_answers=True))["cell_accuracy"].tolist() == [100, 0, 0]
    gaps = null_spread(count_by_caption(replies, pool_answers=True), 4000, seed=0)["gap"]
    assert set(gaps) == {50, 100}
    assert np.mean(gaps) == pytest.approx(75, abs=3)


def test_null_does_not_depend_on_the_chunks(monkeypatch):
    counts = simulate(30, 9, np.random.default_rng(0))
    before = null_spread(counts, 40, seed=3)["gap"]
    monkeypatch.setattr(probe_statistics, "_CHUNK_ENTRIES", 3 * 30 * 9)
    np.testing.assert_array_equal(before, null_spread(counts, 40, seed=3)["gap"])


@pytest.mark.parametrize("name", ["gap", "variance"])
def test_null_rejects_a_position_effect_and_rarely_anything_else(name):
    generator = np.random.default_rng(7)

    def p(counts):
        return p_value(point(counts)[name], null_spread(counts, 200, seed=0)[name])

    by_chance = [p(simulate(100, 9, generator, cluster=1)) for _ in range(100)]
    assert np.mean(by_chance) == pytest.approx(0.5, abs=0.1)
    assert np.mean(np.array(by_chance) < 0.05) <= 0.12
    assert p(simulate(100, 9, generator, cluster=1, effect=np.linspace(-0.7, 0.7, 9))) < 0.01


def test_p_value_counts_the_observation():
    assert p_value(5, np.array([1.0, 2, 3])) == 0.25
    assert p_value(2, np.array([1.0, 2, 3])) == 0.75


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [(1, 6, 2 * (1 + 7) / 2**7), (0, 5, 2 / 2**5), (3, 3, 1.0), (0, 0, 1.0), (10, 2, 2 * (1 + 12 + 66) / 2**12)],
)
def test_mcnemar_by_hand(only_first, only_second, p):
    first = np.array([True] * only_first + [False] * only_second + [True, False])
    second = np.array([False] * only_first + [True] * only_second + [True, False])
    found = mcnemar(first, second)
    assert (found["only_first_correct"], found["only_second_correct"]) == (only_first, only_second)
    assert math.isclose(found["p"], p)
