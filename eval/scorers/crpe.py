"""CRPE: circular multiple choice. A group of four rows asks one question with its options shifted.

Keys: `question_id`, `category` (exist or the like; subject, predicate, object), `text` (question, then `A.` to `D.`
lines), `answer` (the gold letter).

- official: the reply is the letter, not one character more. A group scores if all four rows are right.
- vlmevalkit: the first character is the letter; groups as above.
- lmms: plain accuracy, not circular: never put it beside circular numbers.

Groups are the consecutive fours of a category by question_id, and are refused unless each asks one question (the text
before the options) with one set of options about one picture.
"""

import re
import string
from collections import Counter
from collections.abc import Iterator
from itertools import groupby

from eval.scorers.reasoning import without_thoughts
from eval.scorers.rules import Context, Observation, Rules, Scored, Verdict, all_right, group, other_size, picture_of

OPTIONS = [*"ABCD"]
RELATION = ("subject", "predicate", "object")
RELATION_ROWS = 7576
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def check(row: dict) -> str | None:
    if row["answer"] not in OPTIONS:
        return f"field `answer` is {row['answer']!r}; one of A, B, C, D is expected"
    if not re.fullmatch(r"\d+", str(row["question_id"])):
        return f"field `question_id` is {row['question_id']!r}; a whole number is expected"
    return None


def official(row: dict, context: Context) -> Verdict:
    reply = row["prediction"]
    extra = {} if reply in OPTIONS or reply.strip() not in OPTIONS else {"stripped": reply.strip()}
    return Verdict(reply if reply in OPTIONS else None, reply == row["answer"], extra)


def vlmevalkit(row: dict, context: Context) -> Verdict:
    """The first character, so that "Answer: B" is A and "Dog" is D.

    VLMEvalKit compares a reply that starts otherwise with what its own data has behind the gold letter; our data has
    nothing there, and such a reply is unreadable.
    """
    letter = row["prediction"][:1]
    return Verdict(letter if letter in OPTIONS else None, letter == row["answer"])


def lmms(row: dict, context: Context) -> Verdict:
    """The first option text in the reply without punctuation; else the reply itself, which must be the gold letter.

    Both in exact case; the letter that comes of it is compared without case and punctuation.
    """
    reply = re.sub(r"<thought>.*?</thought>", "", without_thoughts(row["prediction"]), flags=re.DOTALL)
    if tagged := re.search(r"<answer>(.*?)</answer>", reply, re.DOTALL):
        reply = tagged[1]
    reply = re.sub(r"[^\w\s]", "", reply).strip()
    letter_of = {text.strip(): letter for letter, text in re.findall(r"\b([A-Z])\.\s+([^\n]*)", row["text"])}
    starts = {text: reply.find(text) for text in letter_of if text in reply}
    # Of texts that start at one place, the one that the question lists first.
    letter = letter_of[min(starts, key=starts.get)] if starts else reply
    letter = letter.translate(_NO_PUNCTUATION).upper()
    return Verdict(letter if letter in OPTIONS else None, letter == row["answer"])


def fours(rows: list, row_of=lambda row: row) -> dict[str, list[list]]:
    """Category -> its rows in groups of four, by question_id."""
    ordered = sorted(rows, key=lambda row: int(row_of(row)["question_id"]))
    return {
        category: [members[start : start + 4] for start in range(0, len(members), 4)]
        for category, members in group(ordered, lambda row: row_of(row)["category"]).items()
    }


def observe(scored: list[Scored], scorer: str) -> Iterator[Observation]:
    if scorer == "lmms":
        for row in scored:
            yield row.cluster, "accuracy", row.verdict.correct
            yield row.cluster, row.row["category"], row.verdict.correct
        return
    for category, groups in fours(scored, lambda row: row.row).items():
        for rows in groups:
            yield rows[0].cluster, category, all_right(rows)
            if category in RELATION:
                yield rows[0].cluster, "relation", all_right(rows)
            for row in rows:
                yield row.cluster, "row_accuracy", row.verdict.correct


def derive(means: dict) -> dict:
    """The order of the numbers: relation (the three categories pooled), each category, single rows."""
    first = [name for name in ("relation", "accuracy", *RELATION) if name in means]
    categories = [name for name in means if name != "row_accuracy"]
    return {name: means[name] for name in (*first, *categories, *means)}


def broken(rows: list[dict], scorer: str) -> list[tuple[str, list[dict]]]:
    """Runs of rows that ask one thing in a number that is no multiple of four."""
    if scorer == "lmms":
        return []
    found = []
    ordered = sorted(rows, key=lambda row: (row["category"], int(row["question_id"])))
    for (category, question, *_), run in groupby(ordered, key=_asked):
        members = list(run)
        if len(members) % 4:
            ids = ", ".join(str(row["question_id"]) for row in members[:4])
            what = f"{len(members)} rows, no multiple of four, ask {question[:40]!r}"
            found.append((f"category {category}, question_id {ids}: {what}", members))
    return found


def _asked(row: dict) -> tuple:
    question, *options = re.split(r"\n\s*[A-D]\.", row["text"])
    same = sorted(" ".join(re.findall(r"\w+", option.split("\n")[0].lower())) for option in options)
    return row["category"], question.strip(), picture_of(row), same


def sizes(rows: list[dict], scorer: str) -> list[str]:
    """Relation only: how many rows the existence file has is not known."""
    count = Counter(row["category"] in RELATION for row in rows)[True]
    return other_size(count, {RELATION_ROWS: ""}, "CRPE relation") if count else []


def remarks(scored: list[Scored], scorer: str) -> list[str]:
    notes = ["plain accuracy, not circular: not comparable with CRPE's circular figures"] if scorer == "lmms" else []
    spaced = sum("stripped" in row.verdict.extra for row in scored)
    if spaced:
        notes.append(f"{spaced} replies are a letter but for white space, which the official rule counts as wrong")
    return notes


RULES = Rules(
    fields={"question_id": (int, str), "category": str, "text": str, "answer": str},
    key=("category", "question_id"),
    scorers={"official": official, "lmms": lmms, "vlmevalkit": vlmevalkit},
    check=check,
    observe=observe,
    derive=derive,
    broken=broken,
    sizes=sizes,
    remarks=remarks,
    tests=("relation", "exist", "accuracy"),
)
