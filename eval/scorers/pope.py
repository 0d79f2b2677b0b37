"""POPE: is there such an object in the picture?

Keys: `category` (the split: random, popular, adversarial), `answer` (the label: yes or no).

Per split: accuracy, precision, recall and F1 of yes, and the share of yes among the replies; then their means over the
splits (LLaVA's figure is the mean F1), and all of them over the pooled rows. Precision and F1 are 0 if nothing is yes.

- official: "No", "no" or "not" as a word of the text before the first dot, commas taken out, is no, and everything else
  yes: the empty reply, too. `accuracy_zero_credit` counts a yes as wrong in which the word yes does not occur.
- lmms: the whole reply is yes or no, ignoring case. Others are wrong, but in neither precision nor recall. Its own
  yes ratio is that of the gold answers; ours is that of the replies.
- vlmevalkit: exactly one of the words yes and no; others count as not yes. Its headline is the F1 of the pooled rows;
  a row may be of several splits ("random,popular").
"""

import re
from collections import Counter
from collections.abc import Iterator

import numpy as np

from eval.scorers.reasoning import without_thoughts
from eval.scorers.rules import Context, Observation, Rules, Scored, Verdict, other_size
from eval.scorers.vqa_text import read_yes_no_vlmevalkit

SPLITS = {
    "random": {3000: "", 2910: "of LLaVA's commit"},
    "popular": {3000: ""},
    "adversarial": {3000: ""},
}
METRICS = ("accuracy", "precision", "recall", "f1", "yes_ratio", "accuracy_zero_credit")


def check(row: dict) -> str | None:
    if not set(_splits(row)) <= SPLITS.keys():
        return f"field `category` is {row['category']!r}; one of {', '.join(SPLITS)} is expected"
    if row["answer"].strip().lower() not in ("yes", "no"):
        return f"field `answer` is {row['answer']!r}; the label, yes or no, is expected"
    return None


def official(row: dict, context: Context) -> Verdict:
    words = row["prediction"].partition(".")[0].replace(",", "").split(" ")
    if {"No", "no", "not"} & set(words):
        return _verdict(row, "no")
    says_yes = re.search(r"\byes\b", row["prediction"], re.IGNORECASE)
    return _verdict(row, "yes", {} if says_yes else {"guessed": True})


def lmms(row: dict, context: Context) -> Verdict:
    reply = without_thoughts(row["prediction"]).lower().strip()
    return _verdict(row, reply if reply in ("yes", "no") else None)


def vlmevalkit(row: dict, context: Context) -> Verdict:
    return _verdict(row, read_yes_no_vlmevalkit(row["prediction"]))


def observe(scored: list[Scored], scorer: str) -> Iterator[Observation]:
    for row in scored:
        gold_yes, says = _gold(row.row) == "yes", row.verdict.parsed
        for name in (name for split in _splits(row.row) for name in (split, "pooled")):
            yield row.cluster, f"{name}_accuracy", row.verdict.correct
            yield row.cluster, f"{name}_yes_ratio", says == "yes"
            if says == "yes":
                yield row.cluster, f"{name}_precision", gold_yes
            if gold_yes and (says is not None or scorer != "lmms"):
                yield row.cluster, f"{name}_recall", says == "yes"
            if scorer == "official":
                yield row.cluster, f"{name}_accuracy_zero_credit", row.verdict.earned


def derive(means: dict) -> dict:
    """And F1, and the means over splits, which come first."""
    numbers = dict(means)
    names = [name for name in (*SPLITS, "pooled") if f"{name}_accuracy" in means]
    nothing = np.zeros_like(next(iter(means.values())))
    for name in names:
        precision, recall = (np.nan_to_num(means.get(f"{name}_{kind}", nothing)) for kind in ("precision", "recall"))
        both = precision + recall
        numbers |= {f"{name}_precision": precision, f"{name}_recall": recall}
        numbers[f"{name}_f1"] = np.divide(2 * precision * recall, both, out=np.zeros_like(both), where=both > 0)
    splits = [name for name in names if name != "pooled"]
    metrics = [metric for metric in METRICS if f"pooled_{metric}" in numbers]
    for metric in metrics:
        numbers[f"mean_{metric}"] = sum(numbers[f"{name}_{metric}"] for name in splits) / len(splits)
    return {f"{name}_{metric}": numbers[f"{name}_{metric}"] for name in ("mean", *names) for metric in metrics}


def sizes(rows: list[dict], scorer: str) -> list[str]:
    counts = Counter(split for row in rows for split in _splits(row))
    return [line for name, count in counts.items() for line in other_size(count, SPLITS[name], f"POPE {name}")]


def remarks(scored: list[Scored], scorer: str) -> list[str]:
    present = {split for row in scored for split in _splits(row.row)}
    notes = [f"the mean is over {len(present)} of {len(SPLITS)} splits"] * (len(present) < len(SPLITS))
    silent = sum("guessed" in row.verdict.extra for row in scored)
    if silent:
        notes.append(f"{silent} replies that say neither count as yes, as the official rule has it")
    return notes


def _gold(row: dict) -> str:
    return row["answer"].strip().lower()


def _splits(row: dict) -> list[str]:
    return [name.strip() for name in row["category"].split(",")]


def _verdict(row: dict, reply: str | None, extra: dict | None = None) -> Verdict:
    return Verdict(reply, reply == _gold(row), extra or {})


RULES = Rules(
    fields={"category": str, "answer": str},
    key=("category", "id"),
    scorers={"official": official, "lmms": lmms, "vlmevalkit": vlmevalkit},
    check=check,
    observe=observe,
    derive=derive,
    sizes=sizes,
    remarks=remarks,
    tests=("pooled_accuracy", *(f"{name}_accuracy" for name in SPLITS)),
)
