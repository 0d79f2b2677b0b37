"""How open-ended answers are normalised before they are compared (VQA, TextVQA), and the yes/no rule made of it."""

import re

MARKS = ';/[]"{}()=+\\_-><@`,?!'
NUMBERS = {
    name: str(number) for number, name in enumerate("zero one two three four five six seven eight nine ten".split())
} | {"none": "0"}
ARTICLES = {"a", "an", "the"}
_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()
# Each of them is repaired where exactly one of its apostrophes is missing; one entry of the original table goes
# the other way.
CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word for word in _CONTRACTED for place, mark in enumerate(word) if mark == "'"
} | {"somebody'd": "somebodyd"}
_MOST_DOTS = 32  # a flag of regular expressions, passed as the number of replacements in the original


def normalize_m4c(text: str) -> str:
    """The official TextVQA normaliser (M4C's, after EvalAI's).

    Its rule for dots is mistyped: every dot that no digit follows vanishes, so that `3.` becomes `3`.
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = _without_marks(text.replace("\n", " ").replace("\t", " ").strip())
    return _plain_words(re.sub(r"\.(?!\d)", "", text, count=_MOST_DOTS))


def normalize_vlmevalkit(text: str) -> str:
    """VLMEvalKit's normaliser: commas and question marks are marks like others, and `3.` keeps its dot."""
    return _plain_words(strip_marks_vlmevalkit(text.replace("\n", " ").replace("\t", " ").strip()))


def strip_marks_vlmevalkit(text: str) -> str:
    """VLMEvalKit's treatment of punctuation: marks as in `_without_marks`, and dots that touch no digit vanish."""
    return re.sub(r"(?<!\d)\.(?!\d)", "", _without_marks(text), count=_MOST_DOTS)


def read_yes_no_vlmevalkit(reply: str) -> str | None:
    """VLMEvalKit's yes/no rule: the one of the two words that the reply has; None for neither or both."""
    words = strip_marks_vlmevalkit(reply.lower()).split()
    found = [word for word in ("yes", "no") if word in words]
    return found[0] if len(found) == 1 else None


def _without_marks(text: str) -> str:
    """A mark vanishes wherever it is if it touches a space anywhere, or if a comma stands between digits anywhere;
    otherwise it becomes a space.
    """
    left, comma_in_number = text, re.search(r"\d,\d", text) is not None
    for mark in MARKS:
        vanishes = comma_in_number or f"{mark} " in text or f" {mark}" in text
        left = left.replace(mark, "" if vanishes else " ")
    return left


def _plain_words(text: str) -> str:
    """Lower-case words: numbers up to ten as digits, no articles, contractions repaired."""
    words = (NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)
