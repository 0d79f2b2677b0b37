"""Option letters in replies to multiple-choice questions: the readings that several benchmarks share."""

import random
import re
from collections.abc import Mapping

from eval.scorers.rules import LETTERS

_SPACED = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_ANSWER_IS = re.compile(r"answer\s+is\s+\**([ABCD])", re.IGNORECASE)


def lettered(options: list) -> dict[str, str]:
    """Letter -> text of the option."""
    return dict(zip(LETTERS, map(str, options), strict=False))


def guess(letters: str, seed: int, *key: object) -> str:
    """A letter drawn by seed and item: the same whatever else is scored, and in every run over the item."""
    return random.Random(repr((seed, *key))).choice(letters)


def match_option_vlmevalkit(reply: str, options: Mapping[str, str | None]) -> str | None:
    """VLMEvalKit's matcher without a judge: the letter, or None where it would ask its judge.

    `options`: letter -> text, or None if the text is not known; then the last step is left out.

    1. Marks become spaces. Exactly one option letter among the words, first found within the last four: that one.
       (No option letter, but the word Z, which it offers for none of them: unreadable.)
    2. "answer is X" with a letter from A to D in either case: that one. (So "the answer is a dog" is A.)
    3. The reply is at most twice as long as all option texts: the only option whose text occurs in it.

    Four fixed refusals of closed models, which VLMEvalKit knows by heart, are not special here.
    """
    words = reply.translate(_SPACED).split()
    found = [letter for letter in options if letter in words]
    if len(found) == 1 and words.index(found[0]) > len(words) - 5:
        return found[0]
    if not found and "Z" in words:
        return None
    said = _ANSWER_IS.search(reply)
    if said and said[1].upper() in options:
        return said[1].upper()
    texts = {letter: text.lower() for letter, text in options.items() if text is not None}
    reply = reply.lower()
    if len(texts) < len(options) or len(reply) > 2 * sum(map(len, texts.values())):
        return None
    found = [letter for letter, text in texts.items() if text in reply]
    return found[0] if len(found) == 1 else None
