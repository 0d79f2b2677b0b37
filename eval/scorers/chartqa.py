"""ChartQA: a number within 5% or the same text.

Keys: `type` (human_test or augmented_test), `answer`. Relaxed accuracy: if both are numbers (a % at the end divides by
100) and the gold one is not 0, their difference is at most 5% of the gold one; otherwise the same text, ignoring case.
So "1,000" and "$10" are no numbers, and "0.0" is not "0".

official and lmms are one rule, which strips nothing; vlmevalkit strips the reply, and takes a gold answer that is
written as a list for several.
"""

import ast
import math
from collections import Counter
from collections.abc import Iterator

from eval.scorers.reasoning import without_thoughts
from eval.scorers.rules import Context, Observation, Rules, Scored, Verdict, other_size
from eval.scorers.simple_means import observe_accuracy

HALVES = {"human_test": "human", "augmented_test": "augmented"}
ROWS = 1250
TOLERANCE = 0.05


def check(row: dict) -> str | None:
    if row["type"] not in HALVES:
        return f"field `type` is {row['type']!r}; human_test or augmented_test is expected"
    return None


def official(row: dict, context: Context) -> Verdict:
    return _verdict([row["answer"]], row["prediction"])


def lmms(row: dict, context: Context) -> Verdict:
    return _verdict([row["answer"]], without_thoughts(row["prediction"]))


def vlmevalkit(row: dict, context: Context) -> Verdict:
    return _verdict(_listed(row["answer"]), row["prediction"].strip())


def relaxed(gold: str, reply: str) -> bool:
    """Whether the reply is right; see above."""
    gold_number, number = _number(gold), _number(reply)
    if number is not None and gold_number:
        return abs(number - gold_number) / abs(gold_number) <= TOLERANCE
    return reply.lower() == gold.lower()


def observe(scored: list[Scored], scorer: str) -> Iterator[Observation]:
    yield from observe_accuracy(scored, scorer)
    for row in scored:
        yield row.cluster, HALVES[row.row["type"]], row.verdict.correct


def sizes(rows: list[dict], scorer: str) -> list[str]:
    counts = Counter(row["type"] for row in rows)
    return [line for name in HALVES for line in other_size(counts[name], {ROWS: ""}, f"ChartQA {name}")]


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def _listed(gold: str) -> list[str]:
    try:
        value = ast.literal_eval(gold)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return [gold]
    return [str(one) for one in value] if isinstance(value, list) and value else [gold]


def _verdict(golds: list[str], reply: str) -> Verdict:
    number = _number(reply)
    parsed = reply if number is None or not math.isfinite(number) else number
    return Verdict(parsed if reply.strip() else None, any(relaxed(gold, reply) for gold in golds))


RULES = Rules(
    fields={"type": str, "answer": str},
    scorers={"official": official, "lmms": lmms, "vlmevalkit": vlmevalkit},
    check=check,
    observe=observe,
    sizes=sizes,
    tests=("accuracy", *HALVES.values()),
)
