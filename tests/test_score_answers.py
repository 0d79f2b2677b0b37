"""What eval/score.py refuses: rows that are missing, doubled or wrong; and what --allow_partial makes of the rest."""

import json

import pytest

from eval.score import main
from models.errors import InputError
from tests.scored import score, write

SCIENCE = {"choices": 4, "answer": "B"}
CRPE = {"category": "subject", "text": "What?\nA. a\nB. b\nC. c\nD. d", "answer": "A"}
HALLUSION = {"category": "VS", "subcategory": "chart", "set_id": "0", "question_id": "0", "answer": "1"}
MMMU = {"variant": "vision", "options": ["x", "y"], "answer": "B"}
MME = {"subtask": "color", "image": "0.jpg", "answer": "Yes"}
POPE = {"category": "random", "answer": "yes"}
REFCOCO = {"answer": [1, 2, 3, 4], "image_size": [64, 48], "coordinates": "resized_pixels"} | {
    "min_pixels": 3136,
    "max_pixels": 200704,
}
ROWS = {
    "scienceqa": SCIENCE,
    "crpe": CRPE | {"question_id": 3},
    "hallusionbench": HALLUSION | {"figure_id": "0", "visual_input": "0"},
    "mmmu_pro": MMMU,
    "mme": MME,
    "pope": POPE,
    "textvqa": {"answer": ["dog"] * 10},
    "chartqa": {"type": "human_test", "answer": "14"},
    "docvqa": {"answer": ["a", "b"]},
    "refcoco": REFCOCO,
}


def refused(path, benchmark, *arguments):
    """The one line of the InputError."""
    with pytest.raises(InputError) as caught:
        main([benchmark, "--answers_file", str(path), "--bootstrap", "5", *arguments])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def accept(path, benchmark, *arguments):
    main([benchmark, "--answers_file", str(path), "--bootstrap", "5", *arguments])


def manifest(path, **content):
    path.with_name(f"{path.name}.manifest.json").write_text(json.dumps(content))


def rows_of(benchmark, count):
    return [ROWS[benchmark] | {"id": k, "prediction": "B"} for k in range(count)]


@pytest.mark.parametrize(
    ("benchmark", "change", "message"),
    [
        ("scienceqa", {"choices": [1, 2]}, "field `choices` is [1, 2]; int is expected"),
        ("scienceqa", {"choices": True}, "field `choices` is true; int is expected"),
        ("scienceqa", {"choices": 6}, "field `choices` is 6; the number of options, 1 to 5, is expected"),
        ("scienceqa", {"answer": "E"}, "field `answer` is 'E'; one of A, B, C, D, or its index from 0, is expected"),
        ("scienceqa", {"answer": 4}, "field `answer` is 4; one of A, B, C, D, or its index from 0, is expected"),
        ("scienceqa", {"options": ["x"]}, "field `options` is not a list of 4 texts, as many as `choices` says"),
        ("scienceqa", {"prediction": None}, "field `prediction` is not the reply, a string"),
        ("scienceqa", {"prediction": ...}, "field `prediction` is missing; give the answers, not the questions"),
        ("scienceqa", {"id": 1.5}, "field `id` is 1.5; str or int is expected"),
        ("crpe", {"question_id": "x"}, "field `question_id` is 'x'; a whole number is expected"),
        ("crpe", {"answer": "(A)"}, "field `answer` is '(A)'; one of A, B, C, D is expected"),
        ("crpe", {"text": ...}, "field `text` is missing"),
        ("hallusionbench", {"answer": "yes"}, "field `answer` is 'yes'; one of 0, 1 is expected"),
        ("hallusionbench", {"category": "VX"}, "field `category` is 'VX'; one of VD, VS is expected"),
        ("hallusionbench", {"visual_input": "3"}, "field `visual_input` is '3'; one of 0, 1, 2 is expected"),
        ("mmmu_pro", {"options": "['x', 'y']"}, "field `options` is \"['x', 'y']\"; list is expected"),
        ("mmmu_pro", {"options": []}, "field `options` is an empty list"),
        ("mmmu_pro", {"variant": "standard"}, "field `variant` is 'standard'; one of 'standard (10 options)'"),
        ("mmmu_pro", {"answer": "b"}, "field `answer` is 'b'; a capital letter is expected"),
        ("mme", {"subtask": "colour"}, "field `subtask` is 'colour'; one of existence, count,"),
        ("mme", {"answer": "maybe"}, "field `answer` is 'maybe'; Yes or No is expected"),
        ("mme", {"image": None}, "field `image` is null; str is expected"),
        ("pope", {"answer": "maybe"}, "field `answer` is 'maybe'; the label, yes or no, is expected"),
        ("pope", {"category": "easy"}, "field `category` is 'easy'; one of random, popular, adversarial is expected"),
        ("textvqa", {"answer": ["dog"] * 9}, "field `answer` is not the list of ten answers (it has 9)"),
        ("textvqa", {"answer": ["dog"] * 9 + [2]}, "field `answer` is not a list of texts; all ten answers"),
        ("scienceqa", {"image": [["x"]]}, 'field `image` is [["x"]]; a text or a list of texts is expected'),
        ("scienceqa", {"prediction": "A\ud800"}, 'field "prediction" holds half a character'),
        ("refcoco", {"split": ["val"]}, "field `split` is ['val']; the split's name, a text, is expected"),
        ("textvqa", {"answer": "dog"}, 'field `answer` is "dog"; list is expected'),
        ("chartqa", {"type": "human"}, "field `type` is 'human'; human_test or augmented_test is expected"),
        ("chartqa", {"answer": 14}, "field `answer` is 14; str is expected"),
        ("docvqa", {"answer": []}, "field `answer` is not a list of texts; the test split, which has none"),
        ("refcoco", {"coordinates": "pixels"}, "field `coordinates` is 'pixels'; one of resized_pixels,"),
        ("refcoco", {"image_size": [64]}, "field `image_size` is [64]; [width, height] in pixels is expected"),
        ("refcoco", {"answer": [1, 2, 3]}, "field `answer` is [1, 2, 3]; the box [left, top, right, bottom]"),
        ("refcoco", {"answer": [9, 2, 3, 4]}, "left < right and top < bottom are expected (xyxy, not xywh)"),
        ("refcoco", {"min_pixels": None}, "field `min_pixels` is None; resized_pixels needs what the processor was"),
    ],
)
def test_wrong_fields(tmp_path, benchmark, change, message):
    row = {"id": 7, "prediction": "B"} | ROWS[benchmark] | change
    rows = [{"id": 6, "prediction": "x"} | ROWS[benchmark]]
    rows.append({name: value for name, value in row.items() if value is not ...})
    told = refused(write(tmp_path / "a.jsonl", rows), benchmark, "--allow_partial")
    assert f"{tmp_path}/a.jsonl, line 2" in told
    assert message in told
    assert ("(id 7)" in told) == (row["id"] == 7 and "half a character" not in message)


def test_not_json(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}x\n")
    assert "a.jsonl, line 1: not JSON" in refused(tmp_path / "a.jsonl", "pope")


def test_doubled_ids_are_listed(tmp_path):
    rows = rows_of("scienceqa", 20)
    doubled = [*rows, *rows[:7], rows[0]]
    told = refused(write(tmp_path / "a.jsonl", doubled), "scienceqa", "--allow_partial")
    assert "7 ids are there more than once (id=0 on lines 1, 21 and 28; id=1 on lines 2 and 22;" in told
    assert "id=4 on lines 5 and 25; 2 more); delete all but one row each" in told
    assert "id=5" not in told


def test_an_id_of_two_lines_is_told_in_one(tmp_path):
    rows = [row | {"id": "a\nb"} for row in rows_of("scienceqa", 2)]
    assert "(id=a b on lines 1 and 2)" in refused(write(tmp_path / "a.jsonl", rows), "scienceqa")


def test_ids_that_only_a_split_tells_apart(tmp_path):
    rows = [ROWS["pope"] | {"id": 1, "category": split, "prediction": "yes"} for split in ("random", "popular")]
    assert score(tmp_path, "pope", rows)["runs"][0]["scored"] == 2


@pytest.mark.parametrize(
    ("benchmark", "message"),
    [
        ("scienceqa", "8 rows of ScienceQA, which has 2017 (test, with picture) or 4241 (test) or"),
        ("mmmu_pro", "8 rows of MMMU-Pro, vision, which has 1730"),
        ("pope", "8 rows of POPE random, which has 3000 or 2910 (of LLaVA's commit)"),
        ("textvqa", "8 rows of TextVQA, which has 5000 (val)"),
        ("chartqa", "8 rows of ChartQA human_test, which has 1250; 0 rows of ChartQA augmented_test, which has 1250"),
        ("docvqa", "8 rows of DocVQA, which has 5349 (val)"),
        ("refcoco", "8 rows of a split of RefCOCO, which has 10834 (RefCOCO val) or"),
    ],
)
def test_numbers_of_rows(tmp_path, benchmark, message):
    answers = tmp_path / "a.jsonl"
    write(answers, rows_of(benchmark, 8))
    told = refused(answers, benchmark)
    assert told.startswith(f"{answers}: not all rows are there: {message}")
    assert told.endswith("finish the run, or score what is there with --allow_partial")
    manifest(answers, benchmark=benchmark, items=8, limit=None)
    accept(answers, benchmark)


def test_partial_is_labelled(tmp_path, capsys):
    found = score(tmp_path, "scienceqa", rows_of("scienceqa", 8))["runs"][0]
    (reason,) = found["partial"]
    assert reason.startswith("8 rows of ScienceQA")
    printed = capsys.readouterr().out
    assert "answers-0 (partial)" in printed
    assert f"answers-0: PARTIAL, not to be compared: {reason}" in printed


def test_a_whole_run_over_other_data_is_scored_and_says_so(tmp_path):
    write(tmp_path / "answers-0.jsonl", rows_of("scienceqa", 8))
    manifest(tmp_path / "answers-0.jsonl", benchmark="scienceqa", items=8)
    found = score(tmp_path, "scienceqa", rows_of("scienceqa", 8))["runs"][0]
    assert found["partial"] == []
    assert found["remarks"][0].startswith("not the published data: 8 rows of ScienceQA")


def test_the_manifest_tells_what_is_missing(tmp_path):
    answers = tmp_path / "a.jsonl"
    write(answers, rows_of("scienceqa", 8))
    manifest(answers, benchmark="scienceqa", items=9)
    assert "8 rows, but a.jsonl.manifest.json names 9 items; 8 rows of ScienceQA" in refused(answers, "scienceqa")
    accept(answers, "scienceqa", "--allow_partial")
    manifest(answers, benchmark="scienceqa", items=8, limit=8)
    assert "the run was cut with --limit 8" in refused(answers, "scienceqa")
    manifest(answers, benchmark="scienceqa", items=8, limit=100)
    accept(answers, "scienceqa")
    keys = json.dumps([[number] for number in range(10)])
    manifest(answers, benchmark="scienceqa", items=10, keys=keys)
    assert "2 of 10 rows are missing (id=8; id=9)" in refused(answers, "scienceqa")
    assert score(tmp_path, "scienceqa", rows_of("scienceqa", 8))["runs"][0]["partial"] != []
    write(answers, rows_of("scienceqa", 11)[1:])
    told = refused(answers, "scienceqa")
    assert "1 of 10 rows are missing (id=0); 1 rows are none of the run's (id=10)" in told
    manifest(answers, benchmark="scienceqa", items=10, keys="[1, 2")
    assert refused(answers, "scienceqa").endswith("field `keys` is damaged; remove it, or run again")
    write(answers, rows_of("scienceqa", 8))
    manifest(answers, benchmark="pope", items=8)
    assert "answers to pope, as its manifest says; score them as `pope`" in refused(answers, "scienceqa")


def test_a_part_of_a_run_is_refused(tmp_path):
    part = write(tmp_path / "a.jsonl.part-0", rows_of("pope", 2))
    assert refused(part, "pope").endswith(f"a part of an unfinished run; finish the run and give {tmp_path}/a.jsonl")


def test_rows_with_errors_are_missing(tmp_path):
    rows = rows_of("scienceqa", 8)
    for row in rows[2:]:
        row["error"] = f"{row['id']}.png: truncated"
        del row["prediction"]
    answers = tmp_path / "a.jsonl"
    write(answers, rows)
    manifest(answers, benchmark="scienceqa", items=8)
    told = refused(answers, "scienceqa")
    assert "6 rows have an error and no reply (id=2; id=3; id=4; id=5; id=6; 1 more)" in told
    run = score(tmp_path, "scienceqa", rows)["runs"][0]
    assert (run["scored"], run["errors"]) == (2, 6)
    assert "no row to score, all 6 are errors" in refused(write(answers, rows[2:]), "scienceqa", "--allow_partial")


def crpe_rows(groups):
    return [
        CRPE | {"id": k, "question_id": k, "text": f"{k // 4}: {CRPE['text']}", "answer": "ABCD"[k % 4]}
        | {"prediction": "ABCD"[k % 4]}
        for k in range(4 * groups)
    ]  # fmt: skip


def test_broken_groups_of_four_are_refused_and_named(tmp_path):
    rows = crpe_rows(3)
    answers = tmp_path / "a.jsonl"
    # Four rows too few, so that their number still divides by four.
    write(answers, [row for row in rows if row["id"] not in (1, 5, 6, 7)])
    manifest(answers, benchmark="crpe", items=8)
    told = refused(answers, "crpe")
    assert "category subject, question_id 0, 2, 3: 3 rows, no multiple of four, ask '0: What?'" in told
    assert "question_id 4: 1 rows, no multiple of four, ask '1: What?'" in told
    found = score(tmp_path, "crpe", [row for row in rows if row["id"] not in (1, 5, 6, 7)])["runs"][0]
    assert (found["scored"], found["left_out"], found["numbers"]["subject"]["value"]) == (4, 4, 100)
    for few in (rows[1:4], rows[:2]):
        assert "no whole group to score" in refused(write(answers, few), "crpe", "--allow_partial")


def test_groups_that_ask_the_same_with_other_options_are_two(tmp_path):
    rows = []
    for number, words in enumerate((["on", "in", "by", "at"], ["under", "over", "near", "off"])):
        for turn in range(4):
            options = "\n".join(f"{letter}. {words[(turn + k) % 4]}" for k, letter in enumerate("ABCD"))
            row = CRPE | {"text": f"How is it?\n{options}\nAnswer with the letter.", "answer": "DCBA"[turn]}
            rows.append(row | {"id": 4 * number + turn, "question_id": 4 * number + turn, "prediction": "DCBA"[turn]})
    assert score(tmp_path, "crpe", rows)["runs"][0]["numbers"]["subject"]["value"] == 100
    told = refused(write(tmp_path / "a.jsonl", rows[2:6]), "crpe")
    assert told.count("2 rows, no multiple of four, ask 'How is it?'") == 2


def test_lmms_needs_no_groups_of_four(tmp_path):
    found = score(tmp_path, "crpe", crpe_rows(2)[1:], scorer="lmms")["runs"][0]
    assert found["scored"] == 7


def test_pairs_of_mme_are_refused_and_named(tmp_path):
    rows = [MME | {"id": k, "image": f"{k // 2}.jpg", "prediction": "Yes"} for k in range(7)]
    answers = tmp_path / "a.jsonl"
    write(answers, rows)
    manifest(answers, benchmark="mme", items=7)
    assert "color: 3.jpg has 1 questions instead of 2" in refused(answers, "mme")
    found = score(tmp_path, "mme", rows)["runs"][0]
    assert (found["scored"], found["left_out"]) == (6, 1)


def hallusion_rows(figures):
    return [
        HALLUSION | {"id": figure, "figure_id": figure, "visual_input": "0" if figure == "0" else "1"}
        | {"prediction": "Yes"}
        for figure in figures
    ]  # fmt: skip


def test_official_hallusionbench_needs_the_rows_without_a_figure(tmp_path):
    answers = tmp_path / "a.jsonl"
    write(answers, hallusion_rows("12"))
    manifest(answers, benchmark="hallusionbench", items=2)
    told = refused(answers, "hallusionbench")
    assert "1 questions lack the row of their figure 0 (first: VS_chart_0_0_0); vlmevalkit and lmms score" in told
    accept(answers, "hallusionbench", "--scorer", "vlmevalkit")
    write(answers, hallusion_rows("012"))
    manifest(answers, benchmark="hallusionbench", items=3)
    accept(answers, "hallusionbench")
    told = refused(write(answers, hallusion_rows("0")), "hallusionbench", "--scorer", "lmms", "--allow_partial")
    assert "none of its 1 rows is one that scorer lmms counts" in told


def test_files_of_other_rows_are_not_compared(tmp_path):
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    write(files[0], rows_of("scienceqa", 4))
    write(files[1], rows_of("scienceqa", 6)[1:])
    for path, count in zip(files, (4, 5), strict=True):
        manifest(path, benchmark="scienceqa", items=count)
    told = refused(files[0], "scienceqa", "--answers_file", str(files[1]))
    assert "must hold the same rows: 1 are only in the first (id=0) and 2 are only in the second (id=4; id=5)" in told
    found = score(tmp_path, "scienceqa", rows_of("scienceqa", 4), rows_of("scienceqa", 6)[1:])
    assert [run["scored"] for run in found["runs"]] == [3, 3]
    assert [run["left_out"] for run in found["runs"]] == [1, 2]
    changed = [row | {"answer": "C"} for row in rows_of("scienceqa", 4)]
    told = refused(files[0], "scienceqa", "--answers_file", write(files[1], changed), "--allow_partial")
    assert "field `answer` of id=0 differs; give two runs over the same data" in told
