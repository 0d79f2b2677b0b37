"""eval/report.py: what it finds, which runs it compares, whose numbers it prints, what it refuses."""

import html
import json
import re

import pytest

from eval import metrics, score
from eval.entries import show_entry
from eval.reporting.pairs import compared
from eval.reporting.parts import with_minus
from eval.reporting.results import find_results
from models.errors import InputError
from tests.report_runs import (
    biased,
    draw_canvases,
    even,
    make_report,
    probe_rows,
    study_rows,
    write_pair,
    write_rotary,
    write_run,
)

OFF, ON = probe_rows(biased), probe_rows(even)


def words(page):
    """The text of a page, without its tags and pictures."""
    text = re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(text).split())


def pairs(folder):
    """The runs that are compared, by file names."""
    return [[run.path.name for run in one.runs] for one in compared(find_results(folder).runs)]


def test_the_page_has_the_numbers_of_the_scorer(tmp_path, capsys):
    write_pair(tmp_path, OFF, ON)
    text = words(make_report(tmp_path))
    files = ["--results_file", str(tmp_path / "one.jsonl"), "--results_file", str(tmp_path / "another.jsonl")]
    metrics.main([*files, "--output_json", str(tmp_path / "numbers.json"), "--bootstrap", "200"])
    found = json.loads((tmp_path / "numbers.json").read_text())
    for place, column in enumerate([*found["runs"], found["comparison"]]):
        for name in ("mean", "variance", "gap", "balanced_accuracy", "flip"):
            assert with_minus(show_entry(column["numbers"][name], signed=place == 2)) in text, name
    test = found["comparison"]["mcnemar"]["positives"]
    assert f"positives {test['only_first_correct']} {test['only_second_correct']} {test['p']:.3g}" in text
    sentence = "With BaPA bus-7b answers more evenly over positions (variance over cells less noise −"
    assert sentence in text
    assert sentence in capsys.readouterr().out
    assert (tmp_path / "page.html").read_text() == make_report(tmp_path), "the same results give the same page"


def test_flag_and_model_are_those_of_the_manifest_not_of_names(tmp_path):
    write_run(tmp_path / "balance-true.jsonl", False, OFF)
    write_run(tmp_path / "balance-false.jsonl", True, ON, model="copy/bus-7b")
    assert pairs(tmp_path) == [["balance-true.jsonl", "balance-false.jsonl"]]


def test_two_trainings_of_one_model_are_compared_if_it_is_clear_which(tmp_path):
    for folder in ("x", "y"):
        write_run(tmp_path / folder / "off.jsonl", False, OFF, model=f"{folder}-off", weights=f"{folder}0")
        write_run(tmp_path / folder / "on.jsonl", True, ON, model=f"{folder}-on", weights=f"{folder}1")
    assert pairs(tmp_path) == [["off.jsonl", "on.jsonl"]] * 2
    page = words(make_report(tmp_path))
    assert "x-off and x-on" in page
    assert "Two checkpoints (BaPA off: /checkpoints/x-off, BaPA on: /checkpoints/x-on)" in page
    (tmp_path / "y/on.jsonl").rename(tmp_path / "x/third.jsonl")
    (tmp_path / "y/on.jsonl.manifest.json").rename(tmp_path / "x/third.jsonl.manifest.json")
    assert sorted(map(len, pairs(tmp_path))) == [1, 1, 1, 1], "not clear which two of x belong together"


def test_other_models_are_not_compared(tmp_path):
    write_run(tmp_path / "off.jsonl", False, OFF)
    other = {"config.json": "1 bytes, 2", "model.safetensors": "77 bytes, 9"}
    write_run(tmp_path / "on.jsonl", True, ON, model="train-9b", model_files=other)
    assert pairs(tmp_path) == [["off.jsonl"], ["on.jsonl"]]
    page = words(make_report(tmp_path))
    assert "bus-7b: only BaPA off was measured" in page
    assert "train-9b: only BaPA on was measured" in page


def test_other_questions_are_not_compared(tmp_path):
    write_run(tmp_path / "off.jsonl", False, OFF)
    write_run(tmp_path / "on.jsonl", True, probe_rows(even, captions=11), limit=198)
    page = words(make_report(tmp_path))
    assert "shown apart, not compared" in page
    assert "Partial: BaPA on: cut with --limit 198" in page
    assert "12 captions, 216 questions" in page
    assert "11 captions, 198 questions" in page


def test_other_pictures_are_refused(tmp_path):
    write_pair(tmp_path, OFF, [ON[0] | {"image_sha256": "other"}, *ON[1:]])
    with pytest.raises(
        InputError, match="one.jsonl and .*another.jsonl: the same questions about 1 different pictures"
    ):
        make_report(tmp_path)


def test_settings_that_differ_are_told(tmp_path):
    write_run(tmp_path / "off.jsonl", False, OFF, dtype="float32")
    write_run(tmp_path / "on.jsonl", True, ON, dtype="bfloat16")
    page = words(make_report(tmp_path))
    assert 'The runs differ in more than the flag: dtype: "float32" -> "bfloat16".' in page
    assert "config.json differs between the runs" in page


def test_models_of_one_name_are_told_apart(tmp_path):
    for folder, weights in (("a", "1"), ("b", "2")):
        write_pair(tmp_path / folder, OFF, ON, model=f"{folder}/bus", weights=weights)
    page = make_report(tmp_path)
    assert "<h2>/checkpoints/a/bus</h2>" in page
    assert "<h2>/checkpoints/b/bus</h2>" in page


def test_studies_stand_with_their_model(tmp_path):
    write_pair(tmp_path, OFF, ON)
    for benchmark in ("perception", "information_flow of probe"):
        write_pair(tmp_path / benchmark, study_rows(benchmark), study_rows(benchmark), benchmark=benchmark)
    write_run(tmp_path / "s.jsonl", False, study_rows("similarity"), benchmark="similarity", pooling="max")
    write_rotary(tmp_path / "positions.json")
    page = make_report(tmp_path)
    headings = re.findall("<h[23]>(.*?)</h[23]>", page)
    assert headings == ["bus-7b", "Spatial probe", "Understanding", "Perception", "Information flow", "Positions alone",
                        "Runs"]  # fmt: skip
    text = words(page)
    assert "BaPA off: own caption 25.00" in text
    assert "mean of all cells (chance 11.1)" in text
    assert "normalised entropy 0." in text
    assert "base 4 2×2 1.50 0.00 2.50 2.50" in text
    pictures = re.findall("<img [^>]*>", page)
    assert len(pictures) == 3 + 4 + 2 + 2 + 3 + 2, "probe, similarity, perception, flow, its layers, positions"
    assert "200 resamples of captions (probe) or pictures (benchmarks), seed 0." in text
    assert "Entropy and raster correlation: basic intervals" in text
    assert "basic" not in words(make_report(tmp_path, "--bootstrap", "0"))
    assert all(re.search(r' alt="[^"]{20,}"', picture) for picture in pictures)


def test_a_study_with_errors_in_one_run_is_shown_apart(tmp_path):
    on = study_rows("perception")
    on[3] = {name: on[3][name] for name in ("id", "image", "position", "answer")} | {"error": "broken"}
    asked = {"items_sha256": "same", "questions_sha256": "same", "benchmark": "perception"}
    write_pair(tmp_path, study_rows("perception"), on, **asked)
    assert len(pairs(tmp_path)) == 1
    page = words(make_report(tmp_path))
    assert page.count("Not compared: ") == 2
    assert "3 captions, 1 errors (left out)" in page


def test_cells_without_data_are_told_in_words(tmp_path):
    rows = [row for row in study_rows("perception") if row["position"] not in ("left", "bottom_right")]
    write_run(tmp_path / "one.jsonl", False, rows, benchmark="perception")
    assert 'one for each cell of the target; no data: left, bottom right"' in make_report(tmp_path)


def test_benchmarks(tmp_path):
    files = []
    question = {"category": "random", "question": "A cat?", "answer": "yes", "position": ""}
    for label, right in (("off", 3), ("on", 5)):
        rows = [
            question | {"id": number, "image": f"{number}.jpg", "prediction": "Yes" if number < right else "No"}
            for number in range(6)
        ]
        path = write_run(tmp_path / f"{label}.jsonl", label == "on", rows, benchmark="pope")
        files += ["--answers_file", str(path)]
    with pytest.raises(InputError, match="no finished results"):
        make_report(tmp_path)
    scores = tmp_path / "scores.json"
    score.main(["pope", *files, "--labels", "off", "on", "--allow_partial", "--output_json", str(scores)])
    text = words(make_report(tmp_path))
    assert "pope, scorer official" in text
    assert re.search(r"pooled accuracy 50\.00 \[.*?\] 83\.33 \[.*?\] \+33\.33", text)
    assert "without a score" not in text
    write_run(tmp_path / "more.jsonl", True, [{"image": "a", "position": ""}], benchmark="mme")
    assert "more.jsonl : answers to mme without a score" in words(make_report(tmp_path))
    scores.write_text(json.dumps(json.loads(scores.read_text()) | {"runs": [{"label": "off"}]}))
    with pytest.raises(InputError, match="scores.json: not as eval/score.py writes it"):
        make_report(tmp_path)


def test_replies_that_changed_are_shown_with_the_canvas_that_was_asked_about(tmp_path):
    off, on = probe_rows(biased), probe_rows(even)
    draw_canvases(tmp_path / "canvases", off)
    for mine, other in zip(on, off, strict=True):
        mine["image_sha256"] = other["image_sha256"]
    (tmp_path / "results/a").mkdir(parents=True)
    for row in off:  # of the same names, but other pictures
        (tmp_path / "results/a" / row["image"]).write_bytes(b"another picture")
    write_pair(tmp_path / "results", off, on)
    page = make_report(tmp_path / "results", "--img_path", str(tmp_path / "canvases"), "--examples", "4")
    assert "Of 216 questions, 18 are answered rightly with BaPA off alone and 30 with BaPA on alone." in words(page)
    assert page.count('<article class="example">') == page.count("image/jpeg") == page.count('class="target"') == 4
    assert page.count('<div class="right"><dt>BaPA off') == page.count('<div class="right"><dt>BaPA on') == 2
    assert "4 of their canvases were not found" in make_report(tmp_path / "results", "--examples", "4")
    assert "<article" not in make_report(tmp_path / "results", "--examples", "0")


def test_unfinished_runs_are_named_and_left_out(tmp_path):
    write_pair(tmp_path, OFF, ON)
    unfinished = tmp_path / "another.jsonl"
    unfinished.rename(tmp_path / "another.jsonl.part-0")
    page = words(make_report(tmp_path))
    assert "only BaPA off was measured" in page
    assert "another.jsonl : unfinished run of probe, bus-7b, BaPA on (216 rows, 216 items)" in page
    unfinished.write_text("".join(json.dumps(row) + "\n" for row in ON[:50]))
    (tmp_path / "another.jsonl.part-0").unlink()
    assert "BaPA on (50 rows, 216 items)" in words(make_report(tmp_path))
    (tmp_path / "one.jsonl").unlink()
    with pytest.raises(InputError, match="no finished results there .*one.jsonl: unfinished run"):
        make_report(tmp_path)


@pytest.mark.parametrize("name", ["package.json", "app.manifest.json"])
def test_broken_json_of_others_is_named_and_left_out(name, tmp_path):
    write_pair(tmp_path, OFF, ON)
    (tmp_path / name).write_bytes(b'\xff{"a": ')
    page = words(make_report(tmp_path))
    assert "With BaPA bus-7b answers" in page
    assert f"{name} : byte 0 (0xff) is not UTF-8" in page


def test_answers_without_a_manifest_are_named(tmp_path):
    write_pair(tmp_path, OFF, ON)
    (tmp_path / "loose.jsonl").write_text((tmp_path / "one.jsonl").read_text())
    (tmp_path / "captions.jsonl").write_text('{"caption": "a cat"}\n')
    page = words(make_report(tmp_path))
    assert "loose.jsonl : no manifest beside it" in page
    assert "captions.jsonl" not in page


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("one.jsonl.manifest.json", "{", "one.jsonl.manifest.json: not JSON"),
        ("one.jsonl.manifest.json", '{"benchmark": "probe", "items_sha256": ""}', "field `items` is missing"),
        ("one.jsonl", "{\n" * 216, "one.jsonl, line 1: not JSON"),
        ("rotary.json", '{"model_path": "m", "found": 3, "image_tokens": 1, "text_tokens": 1}', "rotary.json: not as"),
    ],
)
def test_damaged_results_are_refused_and_the_old_page_is_kept(file, content, message, tmp_path):
    write_pair(tmp_path, OFF, ON)
    (tmp_path / file).write_text(content)
    (tmp_path / "page.html").write_text("old")
    with pytest.raises(InputError, match=message):
        make_report(tmp_path)
    assert (tmp_path / "page.html").read_text() == "old"


def test_bad_arguments(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        make_report(tmp_path / "none")
    with pytest.raises(InputError, match=r"no finished results there \(answers"):
        make_report(tmp_path)
    write_pair(tmp_path, OFF, ON)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for output in ("one.jsonl", "one.jsonl.manifest.json", "report"):
        with pytest.raises(InputError, match="must end in .html"):
            make_report(tmp_path, "--output", str(tmp_path / output))
    with pytest.raises(InputError, match="report.html: cannot be written"):
        make_report(tmp_path, "--output", str(tmp_path / "one.jsonl" / "report.html"))
    for arguments in (("--examples", "-1"), ("--bootstrap", "-1"), ("--img_path", "/none"), ("--scorer", "x")):
        with pytest.raises(InputError, match=arguments[0]):
            make_report(tmp_path, *arguments)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
