"""ScienceQA: one letter of up to five.

Keys: `choices` (how many options), `answer` (the gold letter, or its index from 0). The vlmevalkit rule also matches
option texts; for that the rows need `options`, the list of texts.

- official: the rule of LLaVA's evaluation, case-sensitive, nothing stripped.
- lmms: the letter alone in either case, or a capital and a dot first.
- vlmevalkit: eval/scorers/option_letters.py.
"""

import re
from collections.abc import Iterator

from eval.scorers.option_letters import match_option_vlmevalkit
from eval.scorers.reasoning import without_thoughts
from eval.scorers.rules import LETTERS, Context, Observation, Rules, Scored, Verdict, other_size, picture_of

OPTIONS = "ABCDE"
SIZES = {2017: "test, with picture", 4241: "test", 2097: "validation, with picture", 6218: "train, with picture"}


def check(row: dict) -> str | None:
    if not 1 <= row["choices"] <= len(OPTIONS):
        return f"field `choices` is {row['choices']}; the number of options, 1 to {len(OPTIONS)}, is expected"
    letters = _letters(row)
    if row["answer"] not in [*letters, *range(len(letters))]:
        return f"field `answer` is {row['answer']!r}; one of {', '.join(letters)}, or its index from 0, is expected"
    options = row.get("options")
    if options is not None and not (
        isinstance(options, list) and len(options) == row["choices"] and all(isinstance(text, str) for text in options)
    ):
        return f"field `options` is not a list of {row['choices']} texts, as many as `choices` says; mend or remove it"
    return None


def official(row: dict, context: Context) -> Verdict:
    """A letter from A to E alone; or one that ". " follows; or the only one behind "The answer is ", where any
    character but a line break follows. A letter beyond the number of options fails.
    """
    reply = row["prediction"]
    if reply in [*OPTIONS]:
        letter = reply
    elif reply[:1] in [*OPTIONS] and reply[1:3] == ". ":
        letter = reply[0]
    else:
        said = re.findall(r"The answer is ([A-Z]).", reply)
        letter = said[0] if len(said) == 1 else None
    return _verdict(row, letter)


def lmms(row: dict, context: Context) -> Verdict:
    """The letter alone, ignoring case; or a capital that a dot follows. White space at both ends is stripped."""
    reply = without_thoughts(row["prediction"]).strip()
    if reply.upper() in [*LETTERS]:
        return _verdict(row, reply.upper())
    return _verdict(row, reply[0] if reply[:1].isupper() and reply[1:2] == "." else None)


def vlmevalkit(row: dict, context: Context) -> Verdict:
    texts = row.get("options") or [None] * row["choices"]
    return _verdict(row, match_option_vlmevalkit(row["prediction"], dict(zip(_letters(row), texts, strict=True))))


def observe(scored: list[Scored], scorer: str) -> Iterator[Observation]:
    pictured = {picture_of(row.row) is not None for row in scored}
    for row in scored:
        yield row.cluster, "accuracy", row.verdict.correct
        if len(pictured) == 2:
            kind = "image_accuracy" if picture_of(row.row) is not None else "text_accuracy"
            yield row.cluster, kind, row.verdict.correct


def sizes(rows: list[dict], scorer: str) -> list[str]:
    return other_size(len(rows), SIZES, "ScienceQA")


def remarks(scored: list[Scored], scorer: str) -> list[str]:
    notes = []
    if len(scored) == 4241 and all(picture_of(row.row) is None for row in scored):
        notes.append("all of test; `image` does not say which rows have a picture, so the IMG figure cannot be told")
    without = sum(row.row.get("options") is None for row in scored)
    if scorer == "vlmevalkit" and without:
        notes.append(f"{without} rows have no `options`: the step that matches option texts was left out for them")
    return notes


def _letters(row: dict) -> str:
    return OPTIONS[: row["choices"]]


def _verdict(row: dict, letter: str | None) -> Verdict:
    letters = [*_letters(row)]
    gold = row["answer"] if isinstance(row["answer"], str) else letters[row["answer"]]
    return Verdict(letter if letter in letters else None, letter == gold)


RULES = Rules(
    fields={"answer": (str, int), "choices": int},
    scorers={"official": official, "lmms": lmms, "vlmevalkit": vlmevalkit},
    check=check,
    observe=observe,
    sizes=sizes,
    remarks=remarks,
    tests=("accuracy", "image_accuracy"),
)
