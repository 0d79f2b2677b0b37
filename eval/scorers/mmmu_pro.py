"""MMMU-Pro: one letter of up to twelve, in three variants.

Keys: `options` (list of texts), `variant`, `answer` (the gold letter); `mode` (direct or cot) if it is there. One
question of the data, validation_Accounting_29, has a list within the list and a gold letter beyond it; it stays.

- official: the parser of the official evaluation. A reply without a letter gets a random option: drawn with --seed, by
  item; beside it stands the figure that gives such replies nothing.
- lmms: the same parser but for its first step; in the vision variant the raw reply must be the gold letter.
- vlmevalkit: replies of mode cot (or of no known mode) are cut to what stands behind their last line that starts with
  "Answer:"; then eval/scorers/option_letters.py.
"""

from collections import Counter
from collections.abc import Iterator

from eval.scorers.option_letters import guess, lettered, match_option_vlmevalkit
from eval.scorers.reasoning import without_thoughts
from eval.scorers.rules import LETTERS, Context, Observation, Rules, Scored, Verdict, other_size

# As the benchmark names them -> in the names of the numbers.
VARIANTS = {"standard (10 options)": "standard_10", "standard (4 options)": "standard_4", "vision": "vision"}
ROWS = 1730
_STRIPPED = (",", ".", "!", "?", ";", ":", "'")


def check(row: dict) -> str | None:
    if row["variant"] not in VARIANTS:
        return f"field `variant` is {row['variant']!r}; one of {', '.join(map(repr, VARIANTS))} is expected"
    if not row["options"]:
        return "field `options` is an empty list; the texts of the options are expected"
    if row["answer"] not in [*LETTERS]:
        return f"field `answer` is {row['answer']!r}; a capital letter is expected"
    return None


def official(row: dict, context: Context) -> Verdict:
    options, reply = lettered(row["options"]), row["prediction"]
    _, marker, tail = reply.rpartition("Answer:")
    named = [letter for letter in options if letter in tail] if marker else []
    return _guessed(row, named[0] if len(named) == 1 else parse(reply, options), context)


def lmms(row: dict, context: Context) -> Verdict:
    options, reply = lettered(row["options"]), without_thoughts(row["prediction"])
    if row["variant"] == "vision":
        return Verdict(reply if reply in options else None, reply == row["answer"])
    return _guessed(row, parse(reply, options), context)


def vlmevalkit(row: dict, context: Context) -> Verdict:
    reply = row["prediction"]
    if row.get("mode") != "direct":
        reply = _behind_answer(reply)
    letter = match_option_vlmevalkit(reply, lettered(row["options"]))
    return Verdict(letter, letter == row["answer"])


def parse(reply: str, options: dict[str, str]) -> str | None:
    """The letter that the official parser reads, or None where it draws one.

    The first of these that finds anything, in the reply without marks at its ends: letters as "(X)"; letters that a
    space follows (so the pronoun I is option I); letters that a dot follows; and, in more than five words, options
    whose text occurs. Of several, the one that occurs last; bare letters count there only between spaces, and if none
    stands so, the first option wins.
    """
    for mark in _STRIPPED:
        reply = reply.strip(mark)
    reply = f" {reply} "
    for shape, last_shape in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        found = [letter for letter in options if shape.format(letter) in reply]
        if found:
            return max(found, key=lambda letter: reply.rfind(last_shape.format(letter)))
    if len(reply.split()) > 5:
        reply = reply.lower()
        found = [letter for letter, text in options.items() if text.lower() in reply]
        if found:
            return max(found, key=lambda letter: reply.rfind(options[letter].lower()))
    return None


def observe(scored: list[Scored], scorer: str) -> Iterator[Observation]:
    for row in scored:
        name = VARIANTS[row.row["variant"]]
        yield row.cluster, name, row.verdict.correct
        if scorer != "vlmevalkit":
            yield row.cluster, f"{name}_zero_credit", row.verdict.earned


def derive(means: dict) -> dict:
    """And the official overall figure, the mean of standard_10 and vision, where both were asked."""
    overall = {
        f"overall{suffix}": (means[f"standard_10{suffix}"] + means[f"vision{suffix}"]) / 2
        for suffix in ("", "_zero_credit")
        if f"standard_10{suffix}" in means and f"vision{suffix}" in means
    }
    return overall | means


def sizes(rows: list[dict], scorer: str) -> list[str]:
    counts = Counter(row["variant"] for row in rows)
    return [line for name, count in counts.items() for line in other_size(count, {ROWS: ""}, f"MMMU-Pro, {name}")]


def remarks(scored: list[Scored], scorer: str) -> list[str]:
    drawn = sum("guessed" in row.verdict.extra for row in scored)
    if not drawn:
        return []
    return [f"{drawn} replies without a letter got a random option, as the rule has it; zero_credit gives them nothing"]


def _guessed(row: dict, letter: str | None, context: Context) -> Verdict:
    extra = {}
    if letter is None:
        letters = "".join(lettered(row["options"]))
        letter, extra = guess(letters, context.seed, row["variant"], row["id"]), {"guessed": True}
    return Verdict(letter, letter == row["answer"], extra)


def _behind_answer(reply: str) -> str:
    lines = [line.strip() for line in reply.strip().split("\n")]
    tails = [line.removeprefix("Answer:") for line in lines if line.startswith("Answer:")]
    if not tails:
        return reply
    capitals = {character for character in tails[-1] if character in LETTERS}
    return capitals.pop() if len(capitals) == 1 else tails[-1]


RULES = Rules(
    fields={"options": list, "variant": str, "answer": str},
    key=("variant", "id"),
    scorers={"official": official, "lmms": lmms, "vlmevalkit": vlmevalkit},
    check=check,
    observe=observe,
    derive=derive,
    sizes=sizes,
    remarks=remarks,
    tests=tuple(VARIANTS.values()),
    # A question has its own pictures, others in each variant.
    cluster=lambda row: str(row["id"]),
    unit="questions",
)
