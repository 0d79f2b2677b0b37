"""TextVQA: a short answer, compared with those of ten people.

Keys: `answer` (the list of ten). The score of a reply is the mean over the ten people of min(1, matches among the other
nine / 3): 0.3 for one match, 0.6 for two, 0.9 for three, 1 from four on. Replies and answers are normalised
(eval/scorers/vqa_text.py); official and lmms are one rule, vlmevalkit's normaliser differs.
"""

from collections.abc import Callable

from eval.scorers.reasoning import without_thoughts
from eval.scorers.rules import Context, Rules, Verdict, other_size
from eval.scorers.simple_means import observe_score
from eval.scorers.vqa_text import normalize_m4c, normalize_vlmevalkit


def check(row: dict) -> str | None:
    if len(row["answer"]) != 10:
        return f"field `answer` is not the list of ten answers (it has {len(row['answer'])})"
    if not all(isinstance(text, str) for text in row["answer"]):
        return "field `answer` is not a list of texts; all ten answers are expected to be text"
    return None


def official(row: dict, context: Context) -> Verdict:
    return _verdict(row, row["prediction"], normalize_m4c)


def lmms(row: dict, context: Context) -> Verdict:
    return _verdict(row, without_thoughts(row["prediction"]), normalize_m4c)


def vlmevalkit(row: dict, context: Context) -> Verdict:
    return _verdict(row, row["prediction"], normalize_vlmevalkit)


def sizes(rows: list[dict], scorer: str) -> list[str]:
    return other_size(len(rows), {5000: "val"}, "TextVQA")


def _verdict(row: dict, reply: str, normalize: Callable[[str], str]) -> Verdict:
    said = normalize(reply)
    matches = [normalize(text) == said for text in row["answer"]]
    scores = [min(1, (sum(matches) - match) / 3) for match in matches]
    return Verdict(said if reply.strip() else None, sum(scores) / len(scores))


RULES = Rules(
    fields={"answer": list},
    scorers={"official": official, "lmms": lmms, "vlmevalkit": vlmevalkit},
    check=check,
    observe=observe_score,
    sizes=sizes,
    tests=(),
)
