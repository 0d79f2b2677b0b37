"""From verdicts to numbers: means with bootstrap intervals by cluster, and the paired difference of two runs.

All shares are in percent. What is drawn with replacement are clusters: the pictures with all their rows, or what the
benchmark names instead. A group of rows that scores as one belongs to the cluster of its first row.
"""

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

from eval.entries import entry
from eval.probe_statistics import interval, mcnemar
from eval.resampling import resampled_sums
from eval.scorers.answers_file import Answers
from eval.scorers.rules import Context, Means, Rules, Scored


@dataclass(frozen=True)
class Run:
    """One measured answers file. `summary` is for JSON; the rest is what `compare` needs."""

    label: str
    scored: list[Scored]
    observed: dict[str, list[float]]  # mean -> its observations, in the order of the rows
    means: Means  # (1 + resamples,): of the data first
    summary: dict


def clusters_of(rows: list[dict], rules: Rules) -> list[int]:
    """The number of each row's cluster; a row without a picture is its own."""
    numbers: dict[Hashable, int] = {}
    names = [rules.cluster(row) for row in rows]
    return [numbers.setdefault(index if name is None else (name,), len(numbers)) for index, name in enumerate(names)]


def score_rows(answers: Answers, clusters: list[int], rules: Rules, scorer: str, context: Context) -> list[Scored]:
    """Each row with its verdict."""
    read = rules.scorers[scorer]
    return [Scored(row, read(row, context), cluster) for row, cluster in zip(answers.rows, clusters, strict=True)]


def measure(
    answers: Answers, scored: list[Scored], label: str, rules: Rules, scorer: str, resamples: int, seed: int
) -> Run:
    """All numbers of one answers file. With `resamples` 0, or one cluster, there are no intervals."""
    by_name = {"unreadable": [(row.cluster, row.verdict.unreadable) for row in scored]}
    for cluster, name, value in rules.observe(scored, scorer):
        by_name.setdefault(name, []).append((cluster, float(value)))
    count = 1 + max(row.cluster for row in scored)
    means = _means(by_name, count, resamples if count > 1 else 0, seed)
    unreadable = means.pop("unreadable")
    means = rules.derive(means) | {"unreadable": unreadable}
    pictured = any(rules.cluster(row.row) is not None for row in scored)
    remarks = [*answers.remarks, *rules.remarks(scored, scorer)]
    if not pictured:
        remarks.append("no `image` or `image_sha256` in the rows: intervals take rows as independent")
    summary = {
        "label": label,
        "answers_file": answers.path,
        "partial": answers.partial,
        "scored": len(scored),
        "errors": answers.errors,
        "left_out": answers.left_out,
        "unreadable": sum(row.verdict.unreadable for row in scored),
        "guessed": sum(bool(row.verdict.extra.get("guessed")) for row in scored),
        "clusters": count,
        "clusters_are": rules.unit if pictured else "rows",
        "numbers": _entries(means),
        "remarks": remarks,
    }
    observed = {name: [value for _, value in pairs] for name, pairs in by_name.items()}
    return Run(label, scored, observed, means, summary)


def compare(first: Run, second: Run, rules: Rules) -> dict:
    """The paired differences second - first of two runs over the same rows in the same order, bootstrapped alike.

    McNemar's test is made of the means of rights and wrongs; where scores are soft, the paired bootstrap interval is
    the test.
    """
    shared = [name for name in first.means if name in second.means]
    tests = [name for name in rules.tests if name in first.observed]
    return {
        "label": f"{second.label} - {first.label}",
        "numbers": _entries({name: second.means[name] - first.means[name] for name in shared}),
        "mcnemar": {
            name: mcnemar(*(np.array(run.observed[name], dtype=bool) for run in (first, second))) for name in tests
        },
    }


def _means(by_name: dict[str, list], clusters: int, resamples: int, seed: int) -> Means:
    columns = []
    for pairs in by_name.values():
        index, values = (np.array(column) for column in zip(*pairs, strict=True))
        columns += [np.bincount(index, weights, clusters) for weights in (values.astype(float), None)]
    sums = resampled_sums(np.stack(columns, axis=1).astype(float), resamples, seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {name: 100 * sums[:, 2 * place] / sums[:, 2 * place + 1] for place, name in enumerate(by_name)}


def _entries(means: Means) -> dict[str, dict]:
    return {name: entry(values[0], *interval(values[1:])) for name, values in means.items()}
