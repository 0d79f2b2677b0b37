"""MME: two yes/no questions a picture, in fourteen subtasks.

Keys: `subtask`, `image` (tells the pictures of a subtask apart; its two rows are a pair), `answer` (Yes or No).

A subtask's score is 100 x accuracy + 100 x the share of pictures whose two questions are both right: at most 200.
Perception is the sum of ten subtasks (2000), cognition of four (800), `total` of all that are there.

- official: "yes", else "no", anywhere in the first four characters, ignoring case; nothing is stripped.
- lmms: stripped, without dots; "y" and "n" alone count too.
- vlmevalkit: exactly one of the words yes and no.
"""

from collections import Counter
from collections.abc import Iterator

from eval.scorers.reasoning import without_thoughts
from eval.scorers.rules import Context, Observation, Rules, Scored, Verdict, all_right, group, other_size, picture_of
from eval.scorers.vqa_text import read_yes_no_vlmevalkit

PERCEPTION = {
    "existence": 60,
    "count": 60,
    "position": 60,
    "color": 60,
    "posters": 294,
    "celebrity": 340,
    "scene": 400,
    "landmark": 400,
    "artwork": 400,
    "OCR": 40,
}
COGNITION = {"commonsense_reasoning": 140, "numerical_calculation": 40, "text_translation": 40, "code_reasoning": 40}
ROWS = PERCEPTION | COGNITION


def check(row: dict) -> str | None:
    if row["subtask"] not in ROWS:
        return f"field `subtask` is {row['subtask']!r}; one of {', '.join(ROWS)} is expected"
    if row["answer"].strip().lower() not in ("yes", "no"):
        return f"field `answer` is {row['answer']!r}; Yes or No is expected"
    return None


def official(row: dict, context: Context) -> Verdict:
    return _verdict(row, _read_start(row["prediction"].lower()))


def lmms(row: dict, context: Context) -> Verdict:
    reply = without_thoughts(row["prediction"]).lower().strip().replace(".", "")
    return _verdict(row, {"y": "yes", "n": "no"}.get(reply) or _read_start(reply))


def vlmevalkit(row: dict, context: Context) -> Verdict:
    return _verdict(row, read_yes_no_vlmevalkit(row["prediction"]))


def observe(scored: list[Scored], scorer: str) -> Iterator[Observation]:
    for row in scored:
        yield row.cluster, "accuracy", row.verdict.correct
        yield row.cluster, f"{row.row['subtask']}_accuracy", row.verdict.correct
    for (subtask, _), rows in group(scored, lambda row: _pair(row.row)).items():
        yield rows[0].cluster, "accuracy_plus", all_right(rows)
        yield rows[0].cluster, f"{subtask}_accuracy_plus", all_right(rows)


def derive(means: dict) -> dict:
    """The scores and their sums come first; a sum needs all its subtasks."""
    scores = {
        f"{subtask}_score": means[f"{subtask}_accuracy"] + means[f"{subtask}_accuracy_plus"]
        for subtask in ROWS
        if f"{subtask}_accuracy" in means
    }
    sums = {
        name: sum(scores[f"{subtask}_score"] for subtask in subtasks)
        for name, subtasks in (("perception", PERCEPTION), ("cognition", COGNITION))
        if all(f"{subtask}_score" in scores for subtask in subtasks)
    }
    return sums | {"total": sum(scores.values())} | scores | means


def broken(rows: list[dict], scorer: str) -> list[tuple[str, list[dict]]]:
    return [
        (f"{subtask}: {image} has {len(pair)} questions instead of 2", pair)
        for (subtask, image), pair in group(rows, _pair).items()
        if len(pair) != 2
    ]


def sizes(rows: list[dict], scorer: str) -> list[str]:
    counts = Counter(row["subtask"] for row in rows)
    return [line for name, count in counts.items() for line in other_size(count, {ROWS[name]: ""}, f"MME {name}")]


def remarks(scored: list[Scored], scorer: str) -> list[str]:
    present = {row.row["subtask"] for row in scored}
    if len(present) == len(ROWS):
        return []
    return [f"{len(present)} of {len(ROWS)} subtasks: total is at most {200 * len(present)}"]


def _read_start(reply: str) -> str | None:
    return next((word for word in ("yes", "no") if word in reply[:4]), None)


def _verdict(row: dict, reply: str | None) -> Verdict:
    return Verdict(reply, reply == row["answer"].strip().lower())


def _pair(row: dict) -> tuple[str, str]:
    return row["subtask"], row["image"]


RULES = Rules(
    fields={"subtask": str, "image": str, "answer": str},
    key=("subtask", "id"),
    scorers={"official": official, "lmms": lmms, "vlmevalkit": vlmevalkit},
    check=check,
    observe=observe,
    derive=derive,
    broken=broken,
    sizes=sizes,
    remarks=remarks,
    tests=("accuracy", "accuracy_plus"),
    # A name is that of one picture within its subtask only.
    cluster=lambda row: picture_of(row) if row.get("image_sha256") else _pair(row),
)
