"""What benchmarks observe whose figure is a mean over rows."""

from collections.abc import Iterator

from eval.scorers.rules import Observation, Scored


def observe_accuracy(scored: list[Scored], scorer: str) -> Iterator[Observation]:
    """`accuracy`: the share of right rows."""
    for row in scored:
        yield row.cluster, "accuracy", row.verdict.correct


def observe_score(scored: list[Scored], scorer: str) -> Iterator[Observation]:
    """`score`: the mean of soft scores."""
    for row in scored:
        yield row.cluster, "score", row.verdict.correct
