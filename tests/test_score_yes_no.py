"""Yes and no in replies to HallusionBench, MME and POPE, as each scorer reads them; their groups and sums."""

import pytest

from eval.scorers.mme import COGNITION, PERCEPTION
from tests.scored import numbers, score, verdict

SCORERS = ("official", "lmms", "vlmevalkit")


@pytest.mark.parametrize(
    ("reply", "official", "lmms", "vlmevalkit"),
    [
        ("Yes", "yes", "yes", "yes"),
        ("NO", "no", "no", "no"),
        ("yes, there is", "yes", "yes", "yes"),
        (" Yes", "yes", "yes", "yes"),
        ("   Yes", None, "yes", "yes"),
        ("**Yes**", None, None, None),
        ("The answer is yes", None, None, "yes"),
        ("Know", "no", "no", None),
        ("None", "no", "no", None),
        ("Eyes", "yes", "yes", None),
        ("y", None, "yes", None),
        ("N.", None, "no", None),
        ("Y.es", None, "yes", "yes"),
        ("Yes and no", "yes", "yes", None),
        ("No\tYes", "no", "no", None),
        ("\nNo", "no", "no", "no"),
        ("", None, None, None),
    ],
)
def test_mme(reply, official, lmms, vlmevalkit):
    row = {"subtask": "color", "image": "0.jpg", "answer": "Yes", "prediction": reply}
    for scorer, word in zip(SCORERS, (official, lmms, vlmevalkit), strict=True):
        found = verdict("mme", scorer, row)
        assert (found.parsed, found.correct) == (word, word == "yes"), scorer


def mme_rows(right):
    """Pairs for each two letters of `right` (subtask -> strings of y and n, one per picture)."""
    rows = []
    for subtask, pictures in right.items():
        for number, pair in enumerate(pictures):
            for question, letter in enumerate(pair):
                gold = ("Yes", "No")[question]
                reply = gold if letter == "y" else "maybe"
                row = {"id": f"{number}-{question}", "subtask": subtask, "image": f"{number}.jpg", "answer": gold}
                rows.append(row | {"prediction": reply})
    return rows


def test_mme_adds_accuracy_and_accuracy_plus(tmp_path):
    rows = mme_rows({"count": ["yy", "yn", "nn", "yy"], "OCR": ["yn", "ny"]})
    found = numbers(tmp_path, "mme", rows[::2] + rows[1::2])
    assert (found["count_accuracy"], found["count_accuracy_plus"], found["count_score"]) == (62.5, 50, 112.5)
    assert (found["OCR_accuracy"], found["OCR_accuracy_plus"], found["OCR_score"]) == (50, 0, 50)
    assert found["total"] == 162.5, "no averaging over subtasks"
    assert not {"perception", "cognition"} & set(found)
    (run,) = score(tmp_path, "mme", rows)["runs"]
    assert "2 of 14 subtasks: total is at most 400" in run["remarks"]
    assert run["unreadable"] == 5


def test_mme_sums_ten_and_four_subtasks(tmp_path):
    rows = mme_rows(dict.fromkeys(PERCEPTION, ["yy", "yy"]) | dict.fromkeys(COGNITION, ["yy", "nn"]))
    found = numbers(tmp_path, "mme", rows)
    assert (found["perception"], found["cognition"], found["total"]) == (2000, 400, 2400)


@pytest.mark.parametrize(
    ("reply", "official", "lmms", "vlmevalkit"),
    [
        ("Yes", "yes", "yes", "yes"),
        ("No", "no", "no", "no"),
        ("no.", "no", None, "no"),
        ("No, there is no dog", "no", None, "no"),
        ("Yes, there is no dog", "no", None, None),
        ("There is not a dog", "no", None, None),
        ("I do not know", "no", None, None),
        ("NO", "yes?", "no", "no"),
        ("Nope", "yes?", None, None),
        ("\nNo", "yes?", "no", "no"),
        ("No,there", "yes?", None, "no"),
        ("It is there. No doubt", "yes?", None, "no"),
        ("yesterday", "yes?", None, None),
        ("Oh yes! It is", "yes", None, "yes"),
        ("", "yes?", None, None),
    ],
)
def test_pope(reply, official, lmms, vlmevalkit):
    """A question mark: the official rule takes it for yes, though it does not say so."""
    row = {"category": "random", "answer": "no", "prediction": reply}
    for scorer, word in zip(SCORERS, (official, lmms, vlmevalkit), strict=True):
        found = verdict("pope", scorer, row)
        assert (found.parsed, found.correct) == (word and word.rstrip("?"), word == "no"), scorer
        assert found.unreadable == (word is None or word.endswith("?")), scorer


def pope_rows(split, replies):
    """One row for each two letters: what is gold (y, n), what the reply says (y, n, - for neither)."""
    words = {"y": "yes", "n": "no", "-": "hm"}
    return [
        {"id": k, "category": split, "image": f"{k}.jpg", "answer": words[pair[0]], "prediction": words[pair[1]]}
        for k, pair in enumerate(replies)
    ]


def test_pope_counts_by_split_and_means_over_splits(tmp_path):
    first = ["yy", "yy", "yn", "yn", "nn", "nn", "nn", "ny"]  # accuracy 5/8, precision 2/3, recall 1/2
    second = ["yy", "yy", "nn", "nn"]
    rows = pope_rows("random", first) + pope_rows("popular", second)
    found = numbers(tmp_path, "pope", rows)
    assert (found["random_accuracy"], found["random_recall"], found["random_yes_ratio"]) == (62.5, 50, 37.5)
    assert found["random_precision"] == pytest.approx(200 / 3, abs=1e-5)
    assert found["random_f1"] == pytest.approx(400 / 7, abs=1e-5)
    assert found["mean_f1"] == pytest.approx((400 / 7 + 100) / 2, abs=1e-5)
    assert found["pooled_accuracy"] == 75
    (run,) = score(tmp_path, "pope", rows)["runs"]
    assert "the mean is over 2 of 3 splits" in run["remarks"]


def test_pope_of_a_published_count_has_its_published_figures(tmp_path):
    """LLaVA-1.5-7B on the random split, as counted in issue 626 of LLaVA's repository."""
    counts = {"yy": 1183, "ny": 31, "nn": 1379, "yn": 317}
    rows = pope_rows("random", [pair for pair, count in counts.items() for _ in range(count)])
    found = numbers(tmp_path, "pope", rows)
    published = {"accuracy": 88.04123711340206, "precision": 97.44645799011532, "recall": 78.86666666666666}
    published |= {"f1": 87.17759764185703}
    assert {name: found[f"random_{name}"] for name in published} == pytest.approx(published, abs=1e-5)


def test_pope_scorers_differ_on_what_is_neither(tmp_path):
    rows = pope_rows("random", ["yy", "y-", "n-", "nn"])
    official, lmms, vlmevalkit = (numbers(tmp_path, "pope", rows, scorer) for scorer in SCORERS)
    names = [f"random_{metric}" for metric in ("accuracy", "precision", "recall", "yes_ratio")]
    assert [official[name] for name in names] == [75, pytest.approx(200 / 3, abs=1e-5), 100, 75]
    assert official["random_accuracy_zero_credit"] == 50
    assert [lmms[name] for name in names] == [50, 100, 100, 25], "neither in precision nor in recall"
    assert [vlmevalkit[name] for name in names] == [50, 100, 50, 25], "as a no that is wrong"


def test_pope_that_never_says_yes_has_no_f1(tmp_path):
    found = numbers(tmp_path, "pope", pope_rows("random", ["yn", "nn"]))
    assert (found["random_precision"], found["random_recall"], found["random_f1"]) == (0, 0, 0)


def test_pope_takes_rows_of_several_splits(tmp_path):
    rows = pope_rows("random,popular", ["yy"]) + pope_rows("popular", ["yn"])
    found = numbers(tmp_path, "pope", rows, "vlmevalkit")
    assert (found["random_accuracy"], found["popular_accuracy"]) == (100, 50)
    assert found["pooled_accuracy"] == pytest.approx(200 / 3, abs=1e-5)


@pytest.mark.parametrize(
    ("reply", "official", "lmms"),
    [
        ("Yes", "yes", "yes"),
        ("No.", "no", "no"),
        ("NO!", "no", "no"),
        ("no, it is not", "no", "no"),
        ("Yes or no", None, "yes"),
        ("Yes,no", None, "yes"),
        ("I cannot tell", None, "no?"),
        ("Not sure", None, "no?"),
        ("Eyes", None, "yes?"),
        ("**Yes**", None, "yes?"),
        ("No-one", "no", "no"),
        ("(yes)", "yes", "yes"),
        ("Answer: 'yes'", None, "yes?"),
        ("It is so, yes", "yes", "yes"),
        ("", None, "no?"),
    ],
)
def test_hallusionbench_by_rule(reply, official, lmms):
    """A question mark: a reply that the rule of lmms takes for what a reader of words cannot find."""
    row = hallusion_row(0, figure=1, answer="1", prediction=reply)
    for scorer in ("official", "vlmevalkit"):
        found = verdict("hallusionbench", scorer, row)
        assert (found.parsed, found.correct) == (official, official == "yes"), scorer
    found = verdict("hallusionbench", "lmms", row)
    assert (found.parsed, found.correct) == (lmms.rstrip("?"), lmms.startswith("yes"))
    if lmms.endswith("?"):
        assert found.unreadable


def hallusion_row(question, figure, answer="1", prediction="Yes", category="VS", set_id=0, visual=None):
    visual = visual if visual is not None else "0" if category == "VS" and figure == 0 else str(1 + (figure > 1))
    fields = {"category": category, "subcategory": "chart", "set_id": str(set_id), "figure_id": str(figure)}
    fields |= {"question_id": str(question), "visual_input": visual, "answer": answer, "prediction": prediction}
    return fields | {"id": "_".join((category, str(set_id), str(figure), str(question)))}


def hallusion_rows():
    """VS: two questions without a figure, on the original and on an edited one. VD: one question on two figures."""
    rows = [hallusion_row(question, figure) for figure in (0, 1, 2) for question in (0, 1)]
    rows += [hallusion_row(0, figure, category="VD", answer="0", prediction="No") for figure in (0, 1)]
    return rows


def test_hallusionbench_groups(tmp_path):
    rows = hallusion_rows()
    assert [numbers(tmp_path, "hallusionbench", rows)[name] for name in ("aAcc", "fAcc", "qAcc")] == [100, 100, 100]
    rows[5]["prediction"] = "No"  # question 1 on the edited figure
    found = numbers(tmp_path, "hallusionbench", rows)
    assert (found["aAcc"], found["fAcc"]) == (87.5, 75), "figures: VS 1 and 2, VD 0 and 1"
    assert found["qAcc"] == pytest.approx(200 / 3, abs=1e-5)
    assert found["mean_of_three"] == pytest.approx((87.5 + 75 + 200 / 3) / 3, abs=1e-5)
    assert (found["easy_qAcc"], found["hard_qAcc"]) == (100, 50)
    rows[0]["prediction"] = "No"  # question 0 without a figure, which is an easy one
    found = numbers(tmp_path, "hallusionbench", rows)
    assert (found["fAcc"], found["easy_qAcc"], found["hard_qAcc"]) == (75, pytest.approx(200 / 3, abs=1e-5), 50)


def test_hallusionbench_unclear_is_right_without_a_figure_only_and_only_officially(tmp_path):
    rows = hallusion_rows()
    rows[0]["prediction"] = rows[6]["prediction"] = "I see nothing"  # VS figure 0, which is none; VD figure 0
    (run,) = score(tmp_path, "hallusionbench", rows)["runs"]
    found = {name: entry["value"] for name, entry in run["numbers"].items()}
    assert (found["aAcc"], found["aAcc_zero_credit"], found["unreadable"]) == (87.5, 75, 25)
    assert found["qAcc"] == pytest.approx(200 / 3, abs=1e-5)
    assert "1 unclear replies without a figure count as right, as the official rule has it" in run["remarks"]


def test_hallusionbench_without_any_figure(tmp_path):
    found = numbers(tmp_path, "hallusionbench", hallusion_rows()[:2])
    assert (found["aAcc"], found["qAcc"]) == (100, 100)
    assert not {"fAcc", "mean_of_three"} & set(found)


@pytest.mark.parametrize("scorer", ["lmms", "vlmevalkit"])
def test_hallusionbench_frameworks_leave_rows_without_a_figure_out(tmp_path, scorer):
    rows = hallusion_rows()
    rows[0]["prediction"] = "No"
    (run,) = score(tmp_path, "hallusionbench", rows, scorer=scorer)["runs"]
    assert (run["scored"], run["left_out"], run["numbers"]["qAcc"]["value"]) == (6, 2, 100)
    assert numbers(tmp_path, "hallusionbench", rows)["qAcc"] == pytest.approx(200 / 3, abs=1e-5)


def test_hallusionbench_takes_numbers_for_strings(tmp_path):
    numeric = ("set_id", "figure_id", "question_id", "visual_input", "answer")
    rows = [row | {field: int(row[field]) for field in numeric} for row in hallusion_rows()]
    assert numbers(tmp_path, "hallusionbench", rows)["qAcc"] == 100
