"""Letters in replies to ScienceQA, CRPE and MMMU-Pro, as each scorer reads them; groups of four; random options."""

import pytest

from eval.scorers.reasoning import without_thoughts
from eval.scorers.rules import Context
from tests.scored import numbers, score, verdict

SCORERS = ("official", "lmms", "vlmevalkit")
STATES = ["New York", "New Hampshire", "Maine", "Ohio"]
METALS = ["iron", "copper", "gold", "silver", "tin", "zinc", "lead", "nickel", "cobalt", "cannot be determined"]
TABLE = "What is on the table?\nA. cat\nB. red bus\nC. dog\nD. man-made lake\nAnswer with the option's letter."


@pytest.mark.parametrize(
    ("reply", "official", "lmms", "vlmevalkit"),
    [
        ("B", "B", "B", "B"),
        ("b", None, "B", None),
        ("B.", None, "B", "B"),
        ("B. New Hampshire", "B", "B", "B"),
        ("B.New Hampshire", None, "B", "B"),
        (" B", None, "B", "B"),
        ("B\n", None, "B", "B"),
        ("(B)", None, None, "B"),
        ("B) New Hampshire", None, None, "B"),
        ("The answer is B", None, None, "B"),
        ("The answer is B.", "B", None, "B"),
        ("The answer is B\n", None, None, "B"),
        ("the answer is B.", None, None, "B"),
        ("The answer is B. No: The answer is C.", None, None, "B"),
        ("E", None, None, None),
        ("The answer is E.", None, None, None),
        ("New Hampshire", None, None, "B"),
        ("new york or new hampshire", None, None, None),
        ("the answer is a dog", None, None, "A"),
        ("B it is, as far as I can see from here", None, None, None),
        ("Answer: B", None, None, "B"),
        ("Z", None, None, None),
        ("Z, not Maine", None, None, None),
        ("<think>A.</think>B. Yes", None, "B", None),
        ("", None, None, None),
    ],
)
def test_scienceqa(reply, official, lmms, vlmevalkit):
    row = {"choices": 4, "options": STATES, "answer": "B", "prediction": reply}
    for scorer, letter in zip(SCORERS, (official, lmms, vlmevalkit), strict=True):
        found = verdict("scienceqa", scorer, row)
        assert (found.parsed, found.correct) == (letter, letter == "B"), scorer
        assert verdict("scienceqa", scorer, row | {"answer": 1}) == found, "the index of the gold letter"


def test_scienceqa_tells_pictures_from_texts(tmp_path):
    rows = [{"id": k, "choices": 2, "answer": "A", "prediction": "AB"[k % 2]} for k in range(6)]
    assert set(numbers(tmp_path, "scienceqa", rows)) == {"accuracy", "unreadable"}
    rows[0]["image"] = "0/image.png"
    found = numbers(tmp_path, "scienceqa", rows)
    assert (found["accuracy"], found["image_accuracy"], found["text_accuracy"]) == (50, 100, 40)
    (run,) = score(tmp_path, "scienceqa", rows, scorer="vlmevalkit")["runs"]
    assert "6 rows have no `options`: the step that matches option texts was left out for them" in run["remarks"]


@pytest.mark.parametrize(
    ("reply", "official", "lmms", "vlmevalkit"),
    [
        ("B", "B", "B", "B"),
        ("b", None, "B", None),
        ("B.", None, "B", "B"),
        ("B\n", None, "B", "B"),
        (" B", None, "B", None),
        ("(B)", None, "B", None),
        ("E", None, None, None),
        ("Dog", None, None, "D"),
        ("dog", None, "C", None),
        ("A dog", None, "C", "A"),
        ("Answer: B", None, None, "A"),
        ("red bus, not cat", None, "B", None),
        ("Cats", None, None, "C"),
        ("man-made lake", None, None, None),
        ("<think>cat</think>B", None, "B", None),
        ("<answer>B</answer>", None, "B", None),
        ("", None, None, None),
    ],
)
def test_crpe(reply, official, lmms, vlmevalkit):
    row = {"question_id": 0, "category": "subject", "text": TABLE, "answer": "B", "prediction": reply}
    for scorer, letter in zip(SCORERS, (official, lmms, vlmevalkit), strict=True):
        found = verdict("crpe", scorer, row)
        assert (found.parsed, found.correct) == (letter, letter == "B"), scorer


def crpe_rows(right):
    """Four rows for each letter of `right` (category -> string of y and n); with an n, the last of them is wrong."""
    rows = []
    for category, groups in right.items():
        for group in groups:
            text = f"Question {len(rows)}?\nA. a\nB. b\nC. c\nD. d\nAnswer."
            for shift, gold in enumerate("ABCD"):
                reply = "A" if group == "n" and shift == 3 else gold
                row = {"question_id": len(rows), "category": category, "text": text, "answer": gold}
                rows.append({"id": f"q{len(rows)}", "image": f"{len(rows) // 8}.jpg", "prediction": reply} | row)
    return rows


def test_crpe_counts_groups_of_four_in_the_order_of_question_id(tmp_path):
    rows = crpe_rows({"subject": "yyn", "predicate": "n", "object": "yn", "exist": "yy"})
    rows = rows[1::2][::-1] + rows[::2]
    found = numbers(tmp_path, "crpe", rows)
    assert found["subject"] == pytest.approx(200 / 3, abs=1e-5)
    assert (found["predicate"], found["object"], found["exist"]) == (0, 50, 100)
    assert found["relation"] == 50, "the three categories pooled, not their mean"
    assert found["row_accuracy"] == pytest.approx(100 * 29 / 32)
    assert numbers(tmp_path, "crpe", rows, "vlmevalkit")["relation"] == 50
    found = numbers(tmp_path, "crpe", rows, "lmms")
    assert found["accuracy"] == pytest.approx(100 * 29 / 32), "lmms-eval's is not circular"
    assert "relation" not in found


def test_crpe_sorts_question_ids_as_numbers(tmp_path):
    rows = [row | {"question_id": str(row["question_id"])} for row in crpe_rows({"subject": "yyyy"})]
    rows[1]["prediction"] = rows[2]["prediction"] = "D"  # one group by numbers, two as text: 0, 1, 10, 11
    assert numbers(tmp_path, "crpe", rows)["subject"] == 75


def test_crpe_says_how_many_letters_were_wrong_for_white_space(tmp_path):
    rows = crpe_rows({"exist": "yy"})
    rows[0]["prediction"] = "A\n"
    (run,) = score(tmp_path, "crpe", rows)["runs"]
    assert run["numbers"]["exist"]["value"] == 50
    assert "1 replies are a letter but for white space, which the official rule counts as wrong" in run["remarks"]


@pytest.mark.parametrize(
    ("reply", "official", "lmms", "vlmevalkit"),
    [
        ("B", "B", "B", "B"),
        ("B.", "B", "B", "B"),
        ("(B)", "B", "B", "B"),
        ("(A) or (C)", "C", "C", None),
        ("(C) or (A)", "A", "A", None),
        ("A or C", "C", "C", None),
        ("I cannot tell", "I", "I", "I"),
        ("DNA is made of it", "A", "A", None),
        ("B: copper or C: gold", None, None, None),
        ("Answer: B", "B", "B", "B"),
        ("Answer: B because A fails", "A", "A", None),
        ("I pick C now\nAnswer: $D$", "D", "C", "D"),
        ("Answer: C\nAnswer: D", "D", "D", "D"),
        ("the option B, clearly", None, None, "B"),
        ("it must be made of copper surely", "B", "B", "B"),
        ("gold is better than silver in this", "D", "D", None),
        ("copper", None, None, "B"),
        ("Answer: none of them", None, None, None),
        ("Answer: A, not C surely", "C", "C", None),
        ("C or DNA it is", "C", "C", None),
        ("'B'", "B", "B", None),
        ("B?!", "B", "B", None),
        ("B!?", None, None, "B"),
        ("", None, None, None),
    ],
)
def test_mmmu_pro(reply, official, lmms, vlmevalkit):
    row = {"id": 7, "variant": "standard (10 options)", "options": METALS, "answer": "K", "prediction": reply}
    for scorer, letter in zip(SCORERS, (official, lmms, vlmevalkit), strict=True):
        found = verdict("mmmu_pro", scorer, row)
        if letter is None and scorer != "vlmevalkit":
            assert found.extra == {"guessed": True}, scorer
            assert found.unreadable
        else:
            assert (found.parsed, found.extra) == (letter, {}), scorer


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("B", "B"),
        ("b", None),
        ("B.", None),
        (" B", None),
        ("B\n", None),
        ("(B)", None),
        ("Answer: B", None),
        ("copper", None),
        ("BB", None),
        ("K", None),
        ("<think>A</think>B", "B"),
        ("", None),
    ],
)
def test_mmmu_pro_lmms_compares_vision_replies_as_they_are(reply, letter):
    row = {"id": 7, "variant": "vision", "options": METALS, "answer": "B", "prediction": reply}
    found = verdict("mmmu_pro", "lmms", row)
    assert (found.parsed, found.correct) == (letter, letter == "B")


@pytest.mark.parametrize(
    ("reply", "cot", "direct"),
    [
        ("It is C.\nAnswer: $D$", "D", "C"),  # $D$ is no word of its own
        ("It is C.\nAnswer: D", "D", None),
        ("It is C.\n  Answer: D  ", "D", None),
        ("It is C.\nanswer: D", None, None),
        ("Answer: C\nAnswer: D", "D", None),
        ("Answer: D\nC it is", "D", None),
        ("So the Answer: D", "D", "D"),
        ("A?\nAnswer: either C or D", None, None),
        ("A?\nAnswer: copper", "B", "B"),
        ("C\nAnswer: DNA", None, "C"),
        ("A\nAnswer:", None, "A"),
        ("D", "D", "D"),
        ("", None, None),
    ],
)
def test_mmmu_pro_vlmevalkit_cuts_only_replies_with_thoughts(reply, cot, direct):
    row = {"id": 7, "variant": "vision", "options": METALS, "answer": "D", "prediction": reply}
    assert verdict("mmmu_pro", "vlmevalkit", row).parsed == cot
    for mode, letter in (("cot", cot), ("direct", direct)):
        assert verdict("mmmu_pro", "vlmevalkit", row | {"mode": mode}).parsed == letter, mode


@pytest.mark.parametrize(
    ("reply", "left"),
    [
        ("B", "B"),
        (" B\n", " B\n"),
        ("<think>A</think> B", "B"),
        ("<think>A</think>\n<think>C</think>\nB", "B"),
        ("A</think>\n\nB", "B"),
        ("<think>A", "<think>A"),
        ("B<think>A</think>", "B"),
        ("<analysis>A</analysis>B", "B"),
        ("<think>A</think><analysis>C</analysis>B", "B"),
        ("<think>A<think>C</think>B", "B"),
        ("<think>A</think>B</think>C", "C"),
        ("<Think>A</Think>B", "<Think>A</Think>B"),
        ("<think></think>", ""),
        ("", ""),
    ],
)
def test_thoughts_that_lmms_eval_removes(reply, left):
    assert without_thoughts(reply) == left


def test_mmmu_pro_draws_by_seed_and_item():
    """The odd row of the data, too: a list within the list of options."""
    rows = [{"id": k, "variant": "vision", "options": METALS, "answer": "B", "prediction": ""} for k in range(300)]
    drawn = {seed: [verdict("mmmu_pro", "official", row, Context(seed)).parsed for row in rows] for seed in (0, 1)}
    assert set(drawn[0]) == set("ABCDEFGHIJ")
    assert drawn[0] == [verdict("mmmu_pro", "official", row, Context(0)).parsed for row in rows]
    assert drawn[0] != drawn[1]
    odd = rows[0] | {"options": [["A", "B", "Not enough information"]], "prediction": "not one of the two it is"}
    assert verdict("mmmu_pro", "official", odd).parsed == "A"


def test_mmmu_pro_overall_and_zero_credit(tmp_path):
    rows = []
    for variant, replies in {"standard (10 options)": "BBB-", "vision": "B---", "standard (4 options)": "B"}.items():
        for number, reply in enumerate(replies):
            row = {"id": f"q{number}", "variant": variant, "options": ["x", "y"], "answer": "B"}
            rows.append(row | {"prediction": reply})
    found = numbers(tmp_path, "mmmu_pro", rows)
    assert (found["standard_10_zero_credit"], found["vision_zero_credit"]) == (75, 25)
    assert found["overall_zero_credit"] == 50, "of standard with ten options and vision"
    drawn = [verdict("mmmu_pro", "official", row).correct for row in rows if row["prediction"] == "-"]
    assert found["standard_10"] == 75 + 25 * drawn[0]
    assert found["vision"] == 25 + 25 * sum(drawn[1:])
    assert found["overall"] == (found["standard_10"] + found["vision"]) / 2
    (run,) = score(tmp_path, "mmmu_pro", rows)["runs"]
    assert (run["unreadable"], run["guessed"]) == (4, 4)
