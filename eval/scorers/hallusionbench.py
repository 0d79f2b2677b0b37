"""HallusionBench: yes/no questions about figures, their edited copies, and (VS, figure 0) no figure at all.

Keys: category, subcategory, set_id, figure_id, question_id, visual_input and `answer` (gt_answer: 0 or 1), strings as
in the data. A judge (eval/scorers/judge.py) needs `question` and `gt_answer_details` too.

aAcc: rows. fAcc: figures whose questions are all right (VS figure 0 is none). qAcc: questions right on every figure.

- official: all 1,129 rows. By the judge's word: correct is right, incorrect wrong, unclear wrong, but right where there
  is no figure (VS figure 0). Without a judge the vlmevalkit reading takes its place: the gold answer is correct, the
  other one incorrect, and what cannot be read is unclear.
- vlmevalkit: the 951 rows with a figure; exactly one of the words yes and no, else wrong. Its headline is the mean of
  the three.
- lmms: the 951 rows with a figure; lmms-eval asks a judge. Its rule without one, left in its code but not used: a reply
  that holds "yes" anywhere says yes, any other no.
"""

from collections.abc import Iterator

from eval.fields import item_key
from eval.scorers.reasoning import without_thoughts
from eval.scorers.rules import Context, Observation, Rules, Scored, Verdict, all_right, group, other_size
from eval.scorers.vqa_text import read_yes_no_vlmevalkit

KEY = ("category", "subcategory", "set_id", "figure_id", "question_id")
SIZES = {"official": {1129: "all"}, "lmms": {951: "with a figure"}, "vlmevalkit": {951: "with a figure"}}
JUDGED = ("official", "lmms")  # the scorers of which a judge is a part


def check(row: dict) -> str | None:
    for field, values in (("category", ("VD", "VS")), ("visual_input", ("0", "1", "2")), ("answer", ("0", "1"))):
        if str(row[field]) not in values:
            return f"field `{field}` is {row[field]!r}; one of {', '.join(values)} is expected"
    return None


def official(row: dict, context: Context) -> Verdict:
    reply = read_yes_no_vlmevalkit(row["prediction"])
    word = _compared(row, reply) if context.judged is None else _judged(row, context)
    lenient = {"lenient": True} if word == "unclear" and _has_no_figure(row) else {}
    return _verdict(word, reply, context, lenient)


def lmms(row: dict, context: Context) -> Verdict:
    if context.judged is not None:
        return _verdict(_judged(row, context), None, context, {})
    reply = without_thoughts(row["prediction"]).lower()
    says = "yes" if "yes" in reply else "no"
    guessed = {"guessed": True} if read_yes_no_vlmevalkit(reply) is None else {}
    return _verdict(_compared(row, says), says, context, guessed)


def vlmevalkit(row: dict, context: Context) -> Verdict:
    reply = read_yes_no_vlmevalkit(row["prediction"])
    return Verdict(reply, _compared(row, reply) == "correct")


def takes(row: dict, scorer: str) -> bool:
    return scorer == "official" or str(row["visual_input"]) != "0"


def observe(scored: list[Scored], scorer: str) -> Iterator[Observation]:
    figures = [row for row in scored if not _has_no_figure(row.row)]
    for row in scored:
        yield row.cluster, "aAcc", row.verdict.correct
        if scorer == "official":
            yield row.cluster, "aAcc_zero_credit", row.verdict.earned
    for rows in group(figures, lambda row: _fields(row.row, "figure_id")).values():
        yield rows[0].cluster, "fAcc", all_right(rows)
    for name, members in _by_difficulty(scored, scorer):
        for rows in group(members, lambda row: _fields(row.row, "question_id")).values():
            yield rows[0].cluster, name, all_right(rows)


def derive(means: dict) -> dict:
    """And the mean of aAcc, fAcc and qAcc, the headline of VLMEvalKit."""
    first = {name: means[name] for name in ("aAcc", "fAcc", "qAcc") if name in means}
    return first | ({"mean_of_three": sum(first.values()) / 3} if len(first) == 3 else {}) | means


def broken(rows: list[dict], scorer: str) -> list[tuple[str, list[dict]]]:
    """Questions about further figures whose figure 0 (an original, or no picture at all) was not asked.

    The official script does not run without them; vlmevalkit and lmms leave VS figure 0 out themselves.
    """
    rows = [row for row in rows if row["category"] == "VD" or scorer == "official"]
    missing = [
        pair
        for pair, members in group(rows, lambda row: _fields(row, "question_id")).items()
        if all(str(row["figure_id"]) != "0" for row in members)
    ]
    if not missing:
        return []
    named = ", ".join("_".join([*pair[:3], "0", pair[3]]) for pair in missing[:3])
    fix = "; vlmevalkit and lmms score the rows with a figure alone" if scorer == "official" else ""
    return [(f"{len(missing)} questions lack the row of their figure 0 (first: {named}){fix}", [])]


def sizes(rows: list[dict], scorer: str) -> list[str]:
    return other_size(len(rows), SIZES[scorer], "HallusionBench")


def remarks(scored: list[Scored], scorer: str) -> list[str]:
    lenient = sum(row.verdict.extra.get("lenient", False) for row in scored)
    notes = [f"{lenient} unclear replies without a figure count as right, as the official rule has it"] * bool(lenient)
    judged = any("judged" in row.verdict.extra for row in scored)
    if scorer in JUDGED and not judged:
        notes.append(f"{scorer} has a judge for verdicts; these are by rule (see --judge_command)")
    return notes


def _by_difficulty(scored: list[Scored], scorer: str) -> Iterator[tuple[str, list[Scored]]]:
    """The name of a share of questions, and the rows it is made of. Hard: about an edited figure.

    (The official script prints the last two as accuracies of easy and hard questions.)
    """
    yield "qAcc", scored
    if scorer == "official":
        yield "easy_qAcc", [row for row in scored if str(row.row["visual_input"]) != "2"]
        yield "hard_qAcc", [row for row in scored if str(row.row["visual_input"]) == "2"]


def _verdict(word: str, reply: str | None, context: Context, extra: dict) -> Verdict:
    """The verdict that a word stands for: `parsed` is that of the judge, or what the rule has read."""
    correct = word == "correct" or "lenient" in extra
    if context.judged is None:
        return Verdict(reply, correct, extra)
    return Verdict(None if word == "unclear" else word, correct, {"judged": word} | extra)


def _judged(row: dict, context: Context) -> str:
    return context.judged[item_key(row, KEY)]


def _compared(row: dict, reply: str | None) -> str:
    if reply is None:
        return "unclear"
    return "correct" if reply == ("no", "yes")[int(row["answer"])] else "incorrect"


def _has_no_figure(row: dict) -> bool:
    return row["category"] == "VS" and str(row["figure_id"]) == "0"


def _fields(row: dict, last: str) -> tuple[str, ...]:
    return tuple(str(row[field]) for field in ("category", "subcategory", "set_id", last))


RULES = Rules(
    fields={field: str if field.endswith("category") else (str, int) for field in (*KEY, "visual_input", "answer")},
    key=KEY,
    scorers={"official": official, "lmms": lmms, "vlmevalkit": vlmevalkit},
    check=check,
    takes=takes,
    observe=observe,
    derive=derive,
    broken=broken,
    sizes=sizes,
    remarks=remarks,
    tests=("aAcc", "fAcc", "qAcc"),
    # A question is asked about several figures of its set, so only whole sets can be drawn.
    cluster=lambda row: _fields(row, "set_id")[:3],
    unit="sets of figures",
)
