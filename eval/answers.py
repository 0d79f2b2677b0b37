"""What a reply says. A reply that cannot be read is an outcome (None), never a guess.

from eval.answers import read_yes_no
read_yes_no("**Yes**, it shows a red bus.")  # "Yes"
"""

import re

# Quantifiers are possessive (`*+`) so that a reply of thousands of spaces or stars is read in linear time.
# Zero-width characters and a byte order mark are listed because \s does not hold them.
_DECORATION = r"[\s\u200b-\u200d\u2060\ufeff*_#>`~\"'“”‘’«»„•(\[{-]*+"
_LABEL = rf"(?:(?:the\s++)?(?:final\s++|correct\s++)?answer{_DECORATION}(?:is\b:?|:){_DECORATION})?"
_JOINED_TO_A_WORD = r"(?![^\W_]|[-'’]\w|_++[^\W_])"
_MARKS = r"[\s*_`\"'“”‘’]*+"
_OFFERS_BOTH = (
    rf"(?!{_MARKS},?{_MARKS}(?:/|\||\bor\b){_MARKS}(?:yes|no)\b"
    rf"|{_MARKS}\band\b{_MARKS}(?:yes|no)\W*$)"
)
_YES_NO = re.compile(
    rf"{_DECORATION}{_LABEL}(?P<word>yes|no){_JOINED_TO_A_WORD}{_OFFERS_BOTH}",
    re.IGNORECASE,
)


def read_yes_no(reply: str) -> str | None:
    """The reply as "Yes" or "No", or None for a reply that cannot be read.

    The grammar, ignoring case: decoration, an optional label, the word, anything.

    - Decoration is white space, quotes, opening brackets and Markdown (`**Yes**`, `# Yes`, `- Yes`).
    - A label is "Answer:", "The answer is", "Final answer:" and the like.
    - The word is `yes` or `no` as a whole word, and it decides, whatever comes after it. "Nothing", "Not",
      "None", "Know", "Yesterday", "No-one", "Nope", "Yeah" and "Y" are other words: unreadable.
    - A reply that opens by offering both ("Yes or No", "Yes/No", "Yes and no.") has not answered: unreadable.

    A sentence with the word further in ("There is no such picture.") is unreadable as well: the prompt asks
    for one word, and searching the sentence would be guessing. So are, by decision, `<answer>Yes</answer>`,
    `\\boxed{Yes}` and `1. Yes`: forms that the prompt does not ask for.
    """
    match = _YES_NO.match(reply)
    if match is None:
        return None
    return "Yes" if match["word"][0] in "Yy" else "No"


def read_yes_no_paper(reply: str) -> str | None:
    """The rule of the paper's own scorer (its scripts/metrics.py): "Yes", "No", or None for neither.

    A reply that starts with `No` is No, one that starts with `Yes` is Yes (both case-sensitive, nothing is
    stripped); of any other reply the text before the first ", " is compared with the answer, ignoring case.
    So "Nothing" is No, "yes, there is" is Yes, and "yes." or "**Yes**" matches no answer.
    """
    if reply.startswith("No"):
        return "No"
    if reply.startswith("Yes"):
        return "Yes"
    return {"yes": "Yes", "no": "No"}.get(reply.split(", ")[0].lower())
