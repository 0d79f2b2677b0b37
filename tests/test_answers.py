import pytest

from eval.answers import read_yes_no, read_yes_no_paper


@pytest.mark.parametrize(
    "reply",
    [
        *("Yes", "yes", "YES", "Yes.", "Yes!", "Yes…", " Yes\n", "\n\nyes\n", "\ufeffYes", "\u200bYes"),
        *("**Yes**", "__Yes__", "_Yes_", "***Yes***", "# Yes", "- Yes", "> Yes", "`Yes`", "```\nYes\n```"),
        *("'Yes'", '"Yes."', "“Yes”", "‘Yes’", "«Yes»", "(Yes)", "[Yes]"),
        *("Answer: Yes", "**Answer:** Yes", "Answer: **Yes**", "answer : yes", "Answer:\n\nYes", "### Answer: Yes"),
        *("The answer is yes", "The answer is: 'Yes'.", "The correct answer is **Yes**.", "Final answer: Yes"),
        *("Yes, no doubt about it.", "Yes, and no other part matches.", "Yes—there is.", "Yes.There is", "Yes, 1 of 9"),
    ],
)
def test_yes(reply):
    assert read_yes_no(reply) == "Yes"


@pytest.mark.parametrize(
    "reply",
    [
        *("No", "no", "NO", "No.", "no\n", "**No**", "`No`", "- No", "“No”", "Answer: No", "The answer is no."),
        *(
            "No, there is none.",
            "No, the bus is red; yes would be wrong.",
            "No\nYes",
            "No one is there",
            "No: it is a cat",
        ),
    ],
)
def test_no(reply):
    assert read_yes_no(reply) == "No"


@pytest.mark.parametrize(
    "reply",
    [
        *("", " ", "\n", "**", "'", ".", "1", "Answer:", "The answer is", "是", "Oui", "Y", "N", "Yeah", "Yep", "Nope"),
        *(
            "Nothing",
            "Not",
            "Not at all",
            "None",
            "Know",
            "Knows",
            "Yesterday",
            "Yess",
            "Noo",
            "Now",
            "Nobody",
            "November",
        ),
        *("Yes-ish", "No-one", "Yes's", "Yesno", "Yes_no", "No1", "Yes1"),
        *(
            "Yes or No",
            "Yes/No",
            "yes / no",
            "Yes|No",
            "No or yes",
            "**Yes** or **No**",
            "'Yes' or 'No'",
            "Yes, or no?",
        ),
        *(
            "Yes and no.",
            "There is no such picture.",
            "It is yes",
            "I think yes",
            "The answer is not yes",
            "Answer yes",
            "<answer>Yes</answer>",
            "\\boxed{Yes}",
            "1. Yes",
        ),
        "The answer should only contain 'Yes' or 'No', without reasoning process.",
    ],
)
def test_unreadable(reply):
    assert read_yes_no(reply) is None


def test_odd_unicode_never_leaves_the_three_outcomes():
    assert read_yes_no("ye\u017f") in ("Yes", None)  # a long s, which ignoring case makes an s


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        ("*" * 200_000, None),
        ("answer" + " " * 200_000, None),
        ("yes" + " " * 200_000 + "x", "Yes"),
        ("yes and no" + "." * 200_000 + "x", "Yes"),
    ],
    ids=["stars", "label", "spaces", "dots"],
)
def test_a_runaway_reply_is_read(reply, outcome):
    """A search that backtracks over 200,000 characters would not come back."""
    assert read_yes_no(reply) == outcome


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        *[("No", "No"), ("Nothing", "No"), ("None of them", "No"), ("Not at all", "No"), ("No, it is not", "No")],
        *[("Yes", "Yes"), ("Yesterday", "Yes"), ("Yes or No", "Yes"), ("Yes.", "Yes")],
        *[("yes", "Yes"), ("YES", "Yes"), ("yes, there is", "Yes"), ("no, there is not", "No"), ("NO", "No")],
        *[("yes.", None), (" Yes", None), ("**Yes**", None), ("no\n", None), ("yes,there is", None), ("", None)],
        *[("Answer: Yes", None), ("nothing", None), ("NO.", None)],
    ],
)
def test_the_papers_rule(reply, outcome):
    assert read_yes_no_paper(reply) == outcome
