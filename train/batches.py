"""Which samples go into which batch: the plan of an epoch, a function of the seed alone.

A step (one update) is planned for all processes together, so the same samples make the same step on any number of
them. Within a step like lengths stand together, which spares padding and changes nothing: the loss is weighted by
token.
"""

from collections.abc import Callable, Iterator

import numpy as np
from torch.utils.data import Sampler

WINDOW_STEPS = 50  # lengths are grouped among this many steps' samples: enough for like lengths, still a good shuffle
WINDOW_SAMPLES = 1000  # and packed among this many samples

Batch = list[int]  # indices of samples: the rows of a forward pass, or the samples of one packed row


def sampled(sizes: list[int], weights: list[float], generator: np.random.Generator) -> np.ndarray:
    """Indices of one epoch over files that stand one after another, in random order.

    `weights` (none: 1 each) are passes over each file: whole copies, and of the rest a random part, new in each epoch.
    """
    chosen, start = [], 0
    for size, weight in zip(sizes, weights or [1.0] * len(sizes), strict=True):
        copies, rest = divmod(round(weight * size), size) if size else (0, 0)
        part = generator.permutation(size)[:rest]
        chosen += [np.tile(np.arange(size), copies) + start, part + start]
        start += size
    return generator.permutation(np.concatenate(chosen).astype(np.int64))


def steps_of(order: np.ndarray, rows: int) -> list[np.ndarray]:
    """`order` cut into steps of `rows` samples; the last may have fewer."""
    return [order[i : i + rows] for i in range(0, len(order), rows)]


def grouped_steps(
    order: np.ndarray, lengths: np.ndarray, has_image: np.ndarray, rows: int, generator: np.random.Generator
) -> list[np.ndarray]:
    """Steps of samples with images, or of text alone, of like length; the left-over of both makes the last ones.

    As `--group_by_modality_length` of the LLaVA code base (llava/train/llava_trainer.py), but lengths are grouped
    among WINDOW_STEPS steps, not only within one.
    """
    steps, left = [], []
    for modality in (True, False):
        these = order[has_image[order] == modality]
        whole = len(these) // rows * rows
        left.append(these[whole:])
        # At least eight windows: with few, the same samples would make the same steps in every epoch.
        window_steps = max(1, min(WINDOW_STEPS, whole // rows // 8))
        for window in steps_of(these[:whole], window_steps * rows):
            steps += steps_of(window[np.argsort(-lengths[window], kind="stable")], rows)
    steps = [steps[i] for i in generator.permutation(len(steps))]
    return steps + steps_of(np.concatenate(left), rows)


def packed_rows(order: np.ndarray, lengths: np.ndarray, capacity: int) -> list[Batch]:
    """Rows of at most `capacity` tokens: in each window of the order, the longest first into the fullest that fits."""
    rows = []
    for window in steps_of(order, WINDOW_SAMPLES):
        open_rows: list[tuple[int, Batch]] = []
        for sample in window[np.argsort(-lengths[window], kind="stable")]:
            length = int(lengths[sample])
            fitting = [i for i, (used, _) in enumerate(open_rows) if used + length <= capacity]
            best = max(fitting, key=lambda i: open_rows[i][0], default=None)
            if best is None:
                open_rows.append((length, [int(sample)]))
            else:
                used, row = open_rows[best]
                open_rows[best] = (used + length, [*row, int(sample)])
        rows += [row for _, row in open_rows]
    return rows


def plan_epoch(
    epoch: int,
    lengths: np.ndarray,
    has_image: np.ndarray,
    *,
    sizes: list[int],
    weights: list[float],
    seed: int,
    step_rows: int,
    batch_rows: int,
    group: bool = False,
    capacity: int | None = None,
) -> list[list[Batch]]:
    """The batches of each step of an epoch.

    Args:
        lengths, has_image: (samples,) tokens of each sample, and whether it has an image.
        sizes, weights: see `sampled`.
        step_rows: rows of one step, over all processes and accumulation steps.
        batch_rows: rows of one forward pass; divides `step_rows`.
        group: see `grouped_steps`.
        capacity: pack rows of so many tokens; None: every sample is a row.
    """
    if capacity is not None:
        # The rows are the first epoch's in every epoch, in another order: all epochs must have as many steps.
        first = np.random.default_rng([seed, 0])
        rows = packed_rows(sampled(sizes, weights, first), lengths, capacity)
        order = np.random.default_rng([seed, epoch, 1]).permutation(len(rows))
        return [[rows[i] for i in step] for step in steps_of(order, step_rows)]
    generator = np.random.default_rng([seed, epoch])
    order = sampled(sizes, weights, generator)
    steps = grouped_steps(order, lengths, has_image, step_rows, generator) if group else steps_of(order, step_rows)
    steps = [step[np.argsort(-lengths[step], kind="stable")] for step in steps]
    return [[batch.tolist() for batch in steps_of(step, batch_rows)] for step in steps]


class ProcessBatches(Sampler[Batch]):
    """The batches of one of several processes: a batch sampler for torch's DataLoader.

    `plan(epoch)` gives an epoch's steps. Batch k of a step goes to process k modulo their number. Where a step, the
    last, has not as many batches for all, the others get an empty one: a batch that came twice would count twice.
    `epoch` is to be set before iterating.
    """

    def __init__(self, plan: Callable[[int], list[list[Batch]]], process: int, processes: int):
        self.plan, self.process, self.processes, self.epoch = plan, process, processes, 0
        self._planned: tuple[int, list[Batch]] | None = None

    def __len__(self) -> int:
        return len(self._batches())

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches())

    def _batches(self) -> list[Batch]:
        if self._planned is None or self._planned[0] != self.epoch:
            mine = []
            for step in self.plan(self.epoch):
                whole = step + [[] for _ in range(-len(step) % self.processes)]
                mine += whole[self.process :: self.processes]
            self._planned = (self.epoch, mine)
        return self._planned[1]
