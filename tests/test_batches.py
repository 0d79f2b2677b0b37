"""train/batches.py: every sample once an epoch, the same steps on any number of processes."""

from collections import Counter

import numpy as np
import pytest

from train.batches import ProcessBatches, grouped_steps, packed_rows, plan_epoch, sampled

RNG = np.random.default_rng(0)
LENGTHS = RNG.integers(5, 400, 237)
HAS_IMAGE = RNG.random(237) < 0.7
MODES = {"plain": {}, "grouped": {"group": True}, "packed": {"capacity": 500}}


def plan(epoch: int = 0, **changes):
    settings = {"sizes": [237], "weights": [], "seed": 42, "step_rows": 16, "batch_rows": 2} | changes
    if "capacity" in settings:
        settings["batch_rows"] = 1
    return plan_epoch(epoch, LENGTHS, HAS_IMAGE, **settings)


def flat(steps) -> list[int]:
    return [sample for step in steps for batch in step for sample in batch]


def rows(step) -> set[tuple]:
    return {tuple(batch) for batch in step}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_every_sample_once_an_epoch(mode, epoch):
    steps = plan(epoch, **MODES[mode])
    assert sorted(flat(steps)) == list(range(237))
    assert all(len(step) == (16 if mode == "packed" else 8) for step in steps[:-1])
    assert all(isinstance(sample, int) for sample in flat(steps))


@pytest.mark.parametrize("mode", MODES)
def test_order_is_the_seeds_and_the_epochs(mode):
    mode = MODES[mode]
    assert plan(3, **mode) == plan(3, **mode)
    assert flat(plan(3, **mode)) != flat(plan(4, **mode))
    assert flat(plan(3, **mode)) != flat(plan(3, seed=43, **mode))
    assert flat(plan(0, **mode)) != sorted(flat(plan(0, **mode)))


def test_steps_are_mixed_anew_in_each_epoch():
    steps = [{frozenset(flat([step])) for step in plan(epoch)} for epoch in (0, 1)]
    assert not steps[0] & steps[1]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("weights", [[], [0.5, 2.0, 1.0], [0.0, 1.0, 0.3]], ids=str)
def test_all_epochs_are_of_one_length(mode, weights):
    """transformers' Trainer asks once."""
    settings = {"sizes": [100, 37, 100], "weights": weights} | MODES[mode]
    shapes = {tuple(len(step) for step in plan(epoch, **settings)) for epoch in range(6)}
    assert len(shapes) == 1
    batches = [ProcessBatches(lambda epoch: plan(epoch, **settings), 1, 2) for _ in range(6)]
    for epoch, one in enumerate(batches):
        one.epoch = epoch
    assert len({len(one) for one in batches}) == 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("processes", [2, 4])
def test_steps_do_not_depend_on_the_number_of_processes(mode, processes):
    """Step by step: all processes together take what one takes."""
    steps = plan(1, **MODES[mode])
    several = [ProcessBatches(lambda epoch: plan(epoch, **MODES[mode]), rank, processes) for rank in range(processes)]
    for batches in several:
        batches.epoch = 1
    assert len({len(batches) for batches in several}) == 1
    streams = [iter(batches) for batches in several]
    for step in steps:
        each = -(-len(step) // processes)
        taken = [next(stream) for stream in streams for _ in range(each)]
        assert sorted(tuple(batch) for batch in taken if batch) == sorted(rows(step))
        if step is not steps[-1]:
            assert all(taken)
    assert all(next(stream, None) is None for stream in streams)


def test_the_last_step_is_filled_with_empty_batches():
    """Nothing counts twice in it."""
    steps = [[[0], [1], [2], [3]], [[4]]]
    assert [list(ProcessBatches(lambda epoch: steps, rank, 2)) for rank in (0, 1)] == [[[0], [2], [4]], [[1], [3], []]]
    assert [list(ProcessBatches(lambda epoch: steps[1:], rank, 3)) for rank in range(3)] == [[[4]], [[]], [[]]]


def test_an_epoch_is_planned_once():
    asked = []

    def planned(epoch):
        asked.append(epoch)
        return plan(epoch)

    batches = ProcessBatches(planned, 0, 1)
    first = list(batches)
    assert len(batches) == len(first)
    assert list(batches) == first
    batches.epoch = 1
    assert list(batches) != first
    assert asked == [0, 1]


def test_like_lengths_share_a_forward_pass():
    """Within a step: the order of its rows changes nothing but the padding."""
    for step in plan():
        lengths = [LENGTHS[sample] for sample in flat([step])]
        assert lengths == sorted(lengths, reverse=True)


def test_grouped_steps_hold_one_modality_but_for_the_last():
    steps = plan(2, group=True)
    mixed = [place for place, step in enumerate(steps) if len({bool(HAS_IMAGE[sample]) for sample in flat([step])}) > 1]
    left = int(HAS_IMAGE.sum()) % 16 + int((~HAS_IMAGE).sum()) % 16
    assert all(place >= len(steps) - -(-left // 16) for place in mixed)
    kinds = [bool(HAS_IMAGE[flat([step])[0]]) for step in steps[:-2]]
    assert kinds != sorted(kinds)
    assert kinds != sorted(kinds, reverse=True)


def test_grouped_steps_are_of_like_length():
    lengths, has_image = RNG.integers(5, 400, 5000), RNG.random(5000) < 0.7

    def spread(group):
        counts = {"sizes": [5000], "weights": [], "seed": 42, "step_rows": 16, "batch_rows": 2}
        steps = plan_epoch(0, lengths, has_image, group=group, **counts)
        return np.mean([np.ptp(lengths[flat([step])]) for step in steps[:-2]])

    assert spread(True) < spread(False) / 3


def test_grouped_steps_are_new_in_each_epoch():
    """With all samples in one window, sorting would make the same steps again and again."""
    one, other = ({frozenset(flat([step])) for step in plan(epoch, group=True)} for epoch in (0, 1))
    assert len(one & other) < 0.2 * len(one)


@pytest.mark.parametrize("has_image", [True, False])
def test_grouping_one_modality(has_image):
    only = np.full(20, has_image)
    steps = grouped_steps(np.arange(20), LENGTHS[:20], only, 8, np.random.default_rng(0))
    assert [len(step) for step in steps] == [8, 8, 4]
    assert sorted(np.concatenate(steps)) == list(range(20))


@pytest.mark.parametrize("capacity", [400, 500, 4000])
def test_packed_rows_are_full_and_never_overfull(capacity):
    packed = [batch for step in plan(capacity=capacity) for batch in step]
    used = [int(LENGTHS[row].sum()) for row in packed]
    assert max(used) <= capacity
    assert len(packed) <= 1.1 * LENGTHS.sum() / capacity + 2


def test_packing_over_several_windows():
    """More samples than are packed together, none lost."""
    lengths = np.random.default_rng(1).integers(1, 64, 2500)
    packed = packed_rows(np.random.default_rng(2).permutation(2500), lengths, 64)
    assert sorted(sample for row in packed for sample in row) == list(range(2500))
    assert max(lengths[row].sum() for row in packed) <= 64


def test_a_sample_as_long_as_a_row():
    assert sorted(packed_rows(np.arange(3), np.array([64, 1, 64]), 64)) == [[0], [1], [2]]


def test_weights_are_passes_over_each_file():
    sizes, weights = [10, 7, 20, 5], [0.0, 2.0, 0.5, 1.0]
    parts = set()
    for seed in range(4):
        order = sampled(sizes, weights, np.random.default_rng(seed)).tolist()
        counts = Counter(order)
        assert not any(sample in counts for sample in range(10))
        assert all(counts[sample] == 2 for sample in range(10, 17))
        part = frozenset(sample for sample in range(17, 37) if sample in counts)
        assert len(part) == 10
        assert all(counts[sample] == 1 for sample in part)
        assert all(counts[sample] == 1 for sample in range(37, 42))
        parts.add(part)
    assert len(parts) == 4


def test_one_and_a_half_passes():
    counts = Counter(sampled([8], [1.5], np.random.default_rng(0)).tolist())
    assert sorted(counts.values()) == [1] * 4 + [2] * 4


def test_a_file_of_which_nothing_was_kept():
    """Its weight has nothing to be a part of."""
    assert sorted(sampled([0, 3], [2.5, 1.0], np.random.default_rng(0))) == [0, 1, 2]
    assert sorted(sampled([2, 0], [], np.random.default_rng(0))) == [0, 1]
