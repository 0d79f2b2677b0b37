"""Answers to TextVQA, ChartQA and DocVQA, as each scorer normalises and compares them."""

import pytest

from eval.scorers.docvqa import edit_distance
from eval.scorers.vqa_text import normalize_m4c, normalize_vlmevalkit
from tests.scored import numbers, score, verdict


@pytest.mark.parametrize(
    ("reply", "official", "vlmevalkit"),
    [
        ("The Dog", "dog", "dog"),
        ("3.", "3", "3."),
        ("3.5", "3.5", "3.5"),
        (".5", ".5", ".5"),
        ("5.a", "5a", "5.a"),
        ("No. 7", "no 7", "no 7"),
        ("U.S.A.", "usa", "usa"),
        ("ten", "10", "10"),
        ("None of a kind", "0 of kind", "0 of kind"),
        ("1,000", "1000", "1000"),
        ("red,blue", "redblue", "red blue"),
        ("red, blue", "red blue", "red blue"),
        ("1,000 x-rays", "1000 x rays", "1000 xrays"),
        ("stop-sign", "stop sign", "stop sign"),
        ("a-b - c", "ab c", "ab c"),
        ("what's up", "what 's up", "what's up"),
        ("dont", "don't", "don't"),
        ("couldn'tve", "couldn't've", "couldn't've"),
        ("somebody'd", "somebodyd", "somebodyd"),
        ("Coca\nCola\tZero", "coca cola 0", "coca cola 0"),
        ("Yes?", "yes", "yes"),
        ("who? me", "who me", "who me"),
        ('"Exit"', "exit", "exit"),
        ("A", "", ""),
        ("", "", ""),
    ],
)
def test_textvqa_normalisers(reply, official, vlmevalkit):
    assert normalize_m4c(reply) == official
    assert normalize_vlmevalkit(reply) == vlmevalkit


def test_at_most_32_dots_vanish():
    """The original passes a flag of regular expressions where the number of replacements goes."""
    for normalize in (normalize_m4c, normalize_vlmevalkit):
        assert normalize("x" + "." * 40) == "x" + "." * 8


@pytest.mark.parametrize(("matches", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
@pytest.mark.parametrize("scorer", ["official", "lmms", "vlmevalkit"])
def test_textvqa_score(matches, expected, scorer):
    row = {"answer": ["The dog"] * matches + ["cat"] * (10 - matches), "prediction": "dog"}
    found = verdict("textvqa", scorer, row)
    assert found.correct == pytest.approx(expected)
    assert found.parsed == "dog"


def test_textvqa_score_depends_on_the_normaliser(tmp_path):
    row = {"id": 1, "answer": ["3."] + ["3"] * 9, "prediction": "3."}
    assert numbers(tmp_path, "textvqa", [row])["score"] == 100
    assert numbers(tmp_path, "textvqa", [row], "lmms")["score"] == 100
    assert numbers(tmp_path, "textvqa", [row], "vlmevalkit")["score"] == pytest.approx(30)


@pytest.mark.parametrize("benchmark", ["textvqa", "docvqa"])
def test_soft_scores_have_no_mcnemar_and_blank_replies_are_unreadable(tmp_path, benchmark):
    rows = [{"id": k, "answer": ["dog"] * 10, "prediction": reply} for k, reply in enumerate(["dog", " ", "", "do"])]
    found = score(tmp_path, benchmark, rows, rows, arguments=("--labels", "a", "b"))
    assert found["comparison"]["mcnemar"] == {}
    assert found["comparison"]["numbers"]["score"] == {"value": 0, "low": 0, "high": 0}
    assert [run["unreadable"] for run in found["runs"]] == [2, 2]


@pytest.mark.parametrize(
    ("reply", "gold", "official", "vlmevalkit"),
    [
        ("14", "14", True, True),
        ("10.5", "10", True, True),
        ("10.51", "10", False, False),
        ("9.5", "10", True, True),
        ("2015", "2014", True, True),
        ("0.0", "0", False, False),
        ("0", "0", True, True),
        ("10%", "0.1", True, True),
        ("10", "10%", False, False),
        ("1,000", "1000", False, False),
        ("$10", "10", False, False),
        ("-5", "5", False, False),
        ("Yes.", "Yes", False, False),
        ("yes", "Yes", True, True),
        (" Yes", "Yes", False, True),
        (" 14 ", "14", True, True),
        ("10% ", "0.1", False, True),
        ("1_4", "14", True, True),
        ("nan", "14", False, False),
        ("2", "[1, 2]", False, True),
        ("[1, 2]", "[1, 2]", True, False),
        ("[A, B]", "[A, B]", True, True),
        ("", "0", False, False),
    ],
)
def test_chartqa(reply, gold, official, vlmevalkit):
    row = {"type": "human_test", "answer": gold, "prediction": reply}
    for scorer, correct in (("official", official), ("lmms", official), ("vlmevalkit", vlmevalkit)):
        assert verdict("chartqa", scorer, row).correct is correct, scorer


def test_chartqa_halves(tmp_path):
    types = ["human_test"] * 3 + ["augmented_test"]
    rows = [{"id": k, "type": kind, "answer": "x", "prediction": "xy"[k == 1]} for k, kind in enumerate(types)]
    found = numbers(tmp_path, "chartqa", rows)
    assert (found["accuracy"], found["augmented"]) == (75, 100)
    assert found["human"] == pytest.approx(200 / 3, abs=1e-5)


@pytest.mark.parametrize(
    ("reply", "golds", "expected"),
    [
        ("new york", ["New York"], 1),
        (" New \n York ", ["new york"], 1),
        ("", ["x"], 0),
        ("ab", ["a"], 0.5),
        ("abc", ["a"], 0),
        (" ab ", ["a"], 0.75),
        ("a", [" ab "], 0.75),
        ("cat", ["dog", "cart"], 0.75),
        ("12", ["12.0"], 0.5),
        ("1", ["12.0"], 0),
        ("kitten", ["sitting"], 1 - 3 / 7),
        ("$1,000", ["1000"], 1 - 2 / 6),
        ("yes.", ["no", "yes"], 0.75),
        ("ß", ["a"], 0.5),
    ],
)
@pytest.mark.parametrize("scorer", ["official", "lmms", "vlmevalkit"])
def test_docvqa(reply, golds, expected, scorer):
    """(The original measures lengths in upper case, where a sharp s is two letters.)"""
    assert verdict("docvqa", scorer, {"answer": golds, "prediction": reply}).correct == pytest.approx(expected)


def test_edit_distance():
    assert [edit_distance(*pair) for pair in (("", ""), ("", "abc"), ("abc", ""), ("abcd", "bcde"), ("ab", "ba"))] == [
        0,
        3,
        3,
        2,
        2,
    ]
