"""DocVQA: a short answer, compared by edit distance.

Keys: `answer` (the list of gold answers). ANLS: 1 - edit distance / length of the longer one, the best over the
answers; below 0.5 it is 0. The distance is between texts in lower case with single spaces, but the length is that of
the texts as they are, so that padding softens the penalty.

official, lmms and vlmevalkit are one rule. The test split has no public answers; its replies go to the server.
"""

from eval.scorers.reasoning import without_thoughts
from eval.scorers.rules import Context, Rules, Verdict, other_size
from eval.scorers.simple_means import observe_score

THRESHOLD = 0.5


def check(row: dict) -> str | None:
    if not row["answer"] or not all(isinstance(text, str) for text in row["answer"]):
        return "field `answer` is not a list of texts; the test split, which has none, is scored by the server only"
    return None


def official(row: dict, context: Context) -> Verdict:
    return _verdict(row, row["prediction"])


def lmms(row: dict, context: Context) -> Verdict:
    return _verdict(row, without_thoughts(row["prediction"]))


def relative_distance(gold: str, reply: str) -> float:
    """Edit distance over the longer raw length; 1 where lengths alone put it above the threshold.

    The original measures the length in upper case, in which a sharp s is two letters.
    """
    longer = max(len(gold.upper()), len(reply.upper()))
    if not longer:
        return 0.0
    first, second = (" ".join(text.lower().split()) for text in (gold, reply))
    if 1 - abs(len(first) - len(second)) / longer < THRESHOLD:
        return 1.0
    return edit_distance(first, second) / longer


def edit_distance(first: str, second: str) -> int:
    """The fewest insertions, deletions and replacements of characters between two texts (Levenshtein)."""
    above = list(range(len(second) + 1))
    for row, character in enumerate(first, start=1):
        line = [row]
        for column, other in enumerate(second):
            line.append(min(above[column] + (character != other), above[column + 1] + 1, line[column] + 1))
        above = line
    return above[-1]


def sizes(rows: list[dict], scorer: str) -> list[str]:
    return other_size(len(rows), {5349: "val"}, "DocVQA")


def _verdict(row: dict, reply: str) -> Verdict:
    score = 1 - min(relative_distance(gold, reply) for gold in row["answer"])
    parsed = " ".join(reply.lower().split())
    return Verdict(parsed or None, score if score >= THRESHOLD else 0.0)


RULES = Rules(
    fields={"answer": list},
    scorers={"official": official, "lmms": lmms, "vlmevalkit": official},
    check=check,
    observe=observe_score,
    sizes=sizes,
    tests=(),
)
