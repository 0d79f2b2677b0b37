"""eval/<benchmark>.py: each reads the official layout, asks by the protocol, and writes what eval/score.py scores."""

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eval import score
from eval.harness import Benchmark
from eval.items import open_picture, picture_parts
from models.errors import InputError
from tests.benchmark_folders import LAYOUTS, write_json, write_parquet
from tests.probe_runs import read_rows

CASES = [(name, layout) for name, layouts in LAYOUTS.items() for layout in layouts]
EACH = pytest.mark.parametrize(("name", "layout"), CASES, ids=[layout.__name__ for _, layout in CASES])


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Tables are converted into a folder that goes with the tests."""
    import datasets

    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")
    yield
    datasets.config.HF_DATASETS_CACHE = before


def script(name: str):
    return importlib.import_module(f"eval.{name}")


def ask(name: str, model: Path, answers: Path, arguments: list, *more) -> int:
    command = ["--model_path", model, "--answers_file", answers, "--max_new_tokens", 6, "--num_workers", 0]
    return script(name).main([str(part) for part in (*command, *arguments, *more)])


def parsed(name: str, arguments: list, *more) -> tuple[Benchmark, argparse.Namespace]:
    from eval.arguments import build_parser

    benchmark = script(name).BENCHMARK
    parser = build_parser("", 128)
    benchmark.add_arguments(parser)
    given = ["--model_path", "m", "--answers_file", "a", *arguments, *more]
    return benchmark, parser.parse_args([str(part) for part in given])


def questions(name: str, arguments: list, *more) -> tuple[list[dict], list[list]]:
    """The items, and of each prompt its parts in order: texts, and sizes of pictures."""
    benchmark, args = parsed(name, arguments, *more)
    items = benchmark.load_items(args)
    contents = [turn["content"] for item in items for turn in benchmark.messages(item, args)]
    return items, [
        [part["text"] if part["type"] == "text" else open_picture(part)[0].size for part in content]
        for content in contents
    ]


@EACH
def test_asks_and_scores_with_the_flag_off_and_on(tiny_folders, tmp_path, capsys, name, layout):
    arguments = layout(tmp_path / "data")
    for flag in ("false", "true"):
        answers = tmp_path / flag / "answers.jsonl"
        assert ask(name, tiny_folders["qwen2_5_vl"], answers, arguments, "--position_balance", flag) == 0
        output = capsys.readouterr().out
        assert f"{name}, scorer official" in output
        assert "not scored" not in output
        rows = read_rows(answers)
        assert all({"id", "prediction", "prompt"} <= row.keys() for row in rows)
        assert all(("image_sha256" in row) == bool(pictures) for row, pictures in pictured(name, arguments, rows))
    files = [str(tmp_path / flag / "answers.jsonl") for flag in ("false", "true")]
    for scorer in score.BENCHMARKS[name].scorers:
        options = ["--answers_file", files[0], "--answers_file", files[1], "--labels", "off", "on", "--allow_partial"]
        score.main([name, *options, "--scorer", scorer, "--bootstrap", "20"])
        assert "on - off" in capsys.readouterr().out


def pictured(name: str, arguments: list, rows: list[dict]) -> list[tuple[dict, list]]:
    benchmark, args = parsed(name, arguments)
    return [(row, picture_parts(benchmark.messages(row, args))) for row in rows]


@pytest.mark.parametrize("name", ["mme", "mmmu_pro"])
def test_a_killed_run_goes_on(tiny_folders, tmp_path, name):
    """By the real script: killed with SIGKILL after its first answers, then run again."""
    arguments = LAYOUTS[name][0](tmp_path / "data")
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    assert ask(name, tiny_folders["llava"], whole, arguments, "--batch_size", 1) == 0
    parts = ["--model_path", tiny_folders["llava"], "--answers_file", broken, "--max_new_tokens", 6, *arguments]
    command = [sys.executable, f"eval/{name}.py", *map(str, parts), "--batch_size", "1", "--num_workers", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    part = tmp_path / "broken.jsonl.part-0"
    while not (part.exists() and part.read_bytes().count(b"\n")) and process.poll() is None:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not broken.exists(), "killed too late to test anything"
    assert ask(name, tiny_folders["llava"], broken, arguments, "--batch_size", 1) == 0
    assert broken.read_bytes() == whole.read_bytes()


def test_scienceqa_removes_the_placeholder_and_the_papers_wording_keeps_it(tmp_path):
    arguments = LAYOUTS["scienceqa"][0](tmp_path)
    items, parts = questions("scienceqa", arguments)
    assert [item["id"] for item in items] == ["0", "2"]
    assert parts[0] == [
        (70, 60),
        "Context: A. is a letter.\nWhich colour is 0?\nA. red\nB. green\nC. blue\nD. grey\n"
        "Answer with the option's letter from the given choices directly.",
    ]
    assert (items[1]["answer"], items[1]["choices"], items[1]["options"]) == ("C", 4, ["red", "green", "blue", "grey"])
    assert questions("scienceqa", arguments, "--prompt", "paper")[1][0][1] == f"<image>\n{parts[0][1]}"
    items, parts = questions("scienceqa", arguments, "--all_questions", "--prompt", "paper")
    assert [len(part) for part in parts] == [2, 1, 2]
    assert parts[1][0].startswith("Context:")


def test_scienceqas_table_gives_the_text_of_the_file(tmp_path):
    items, parts = questions("scienceqa", LAYOUTS["scienceqa"][1](tmp_path))
    assert parts[0][1] == (
        "Context: It is warm.\nWhich colour is 0?\nA. red\nB. green\nC. blue\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert parts[1][1].startswith("Which colour is 1?\nA. red")
    assert [item["answer"] for item in items] == ["A", "B"]


def test_crpe_asks_all_files_as_they_are(tmp_path):
    items, parts = questions("crpe", LAYOUTS["crpe"][0](tmp_path))
    assert [item["category"] for item in items] == ["exist"] * 4 + ["subject"] * 4
    assert [item["answer"] for item in items] == [*"ABCDABCD"]
    assert parts[0][1] == items[0]["text"]
    (_, text) = questions("crpe", LAYOUTS["crpe"][0](tmp_path), "--prompt", "lmms")[1][0]
    assert text == (
        f"{items[0]['text']}\nPlease answer directly with only the letter of the correct option and nothing else."
    )


def test_hallusionbench_asks_without_a_figure_too(tmp_path):
    items, parts = questions("hallusionbench", LAYOUTS["hallusionbench"][0](tmp_path), "--prompt", "paper")
    assert len(items) == 8
    assert [len(part) for part in parts] == [1, 1, 2, 2, 2, 2, 2, 2]
    assert parts[1] == ["Is it 1?\nThe answer should only contain 'Yes' or 'No', without reasoning process."]
    assert len({item["id"] for item in items}) == 8


def test_mmmu_pro_gives_pictures_in_the_order_of_their_markers(tmp_path):
    arguments = LAYOUTS["mmmu_pro"][0](tmp_path)
    items, parts = questions("mmmu_pro", arguments)
    assert [item["variant"] for item in items] == ["standard (10 options)"] * 2 + ["vision"] * 2
    text, *pictures = parts[1]
    assert text == (
        "What do [image] and [image] show?\nA. [image]\nB. none\n"
        "Answer with the option letter from the given choices directly."
    )
    assert pictures == [(70, 60), (70, 60), (56, 90)]
    assert items[0]["options"][9] == "option 9"
    assert parts[0][0].count("\nJ. option 9\n") == 1
    assert parts[2][0].endswith("where LETTER is one of options.")
    _, thoughtful = questions("mmmu_pro", arguments, "--mode", "cot", "--dataset_variant", "vision")
    assert thoughtful[0][0].startswith(
        "Write out the multiple-choice question in the image and then solve it. The last"
    )
    assert thoughtful[0][0].endswith("Think step by step before answering.")


def test_mme_reads_flat_and_nested_folders_and_the_papers_lines(tiny_folders, tmp_path):
    arguments = LAYOUTS["mme"][0](tmp_path / "official")
    items, parts = questions("mme", arguments)
    assert [(item["subtask"], item["image"], item["answer"]) for item in items[:4]] == [
        ("color", "10.jpg", "Yes"),
        ("color", "10.jpg", "No"),
        ("color", "9.jpg", "Yes"),
        ("color", "9.jpg", "No"),
    ]
    assert items[4]["file"] == "artwork/images/toy_dataset/10.jpg"
    assert parts[0] == [(70, 60), "Is color 10 warm? Please answer yes or no."]
    _, asked = questions("mme", arguments, "--prompt", "lmms")
    assert asked[0][1] == "Is color 10 warm?\nAnswer the question using a single word or phrase."
    assert ask("mme", tiny_folders["llava"], tmp_path / "answers.jsonl", arguments) == 0
    lines = (tmp_path / "answers.jsonl.eval_tool" / "artwork.txt").read_text().splitlines()
    assert [line.split("\t")[::2] for line in lines[:2]] == [["10.jpg", "Yes"], ["10.jpg", "No"]]
    assert all(line.count("\t") == 3 for line in lines)
    assert len(questions("mme", LAYOUTS["mme"][1](tmp_path / "paper"))[0]) == 4


def test_pope_takes_the_split_from_the_files_name(tmp_path):
    items, parts = questions("pope", LAYOUTS["pope"][0](tmp_path))
    assert [item["category"] for item in items] == ["random", "random", "popular", "popular"]
    assert parts[0][1] == "Is there a dog in the image?\nAnswer the question using a single word or phrase."


def test_textvqa_with_and_without_ocr(tmp_path):
    arguments = LAYOUTS["textvqa"][0](tmp_path)
    text = "what does the sign say?\nReference OCR token: STOP\nAnswer the question using a single word or phrase."
    for seen in ("000", "001"):
        with open(tmp_path / "ocr.jsonl", "a") as file:
            file.write(json.dumps({"question_id": seen, "image": f"{seen}.jpg", "text": text.capitalize()}) + "\n")
    assert questions("textvqa", arguments)[1][0][1] == text.replace("Reference OCR token: STOP\n", "")
    assert questions("textvqa", arguments, "--prompt", "lmms")[1][0][1].startswith("What does")
    assert questions("textvqa", arguments, "--ocr_file", tmp_path / "ocr.jsonl")[1][1][1] == text.capitalize()


def test_docvqas_test_split_is_written_for_the_server(tiny_folders, tmp_path, capsys):
    arguments = LAYOUTS["docvqa"][0](tmp_path)
    assert ask("docvqa", tiny_folders["llava"], tmp_path / "a.jsonl", arguments, "--split", "test") == 0
    assert "no public answers" in capsys.readouterr().out
    submission = json.loads((tmp_path / "a.jsonl.submission.json").read_text())
    assert [row["questionId"] for row in submission] == ["0", "1"]
    assert all(isinstance(row["answer"], str) for row in submission)


def test_refcoco_says_what_the_models_numbers_mean(tiny_folders, tmp_path):
    arguments = LAYOUTS["refcoco"][0](tmp_path)
    items, parts = questions("refcoco", arguments, "--model_path", tiny_folders["qwen2_5_vl"], "--max_pixels", 7840)
    assert [item["id"] for item in items] == ["0_0", "0_1", "1_0", "1_1"]
    assert items[0]["answer"] == [5, 10, 25, 40.5]
    assert (items[0]["image_size"], items[0]["coordinates"], items[0]["max_pixels"]) == (
        [120, 90],
        "resized_pixels",
        7840,
    )
    assert parts[0][1].endswith('as JSON, {"bbox_2d": [left, top, right, bottom]}, in pixels.')
    with pytest.raises(InputError, match="--coordinates: the processor of .* scales to sizes of its own"):
        questions("refcoco", arguments, "--model_path", tiny_folders["llava"])
    more = ("--model_path", tiny_folders["llava"], "--coordinates", "normalized_1", "--prompt", "plain")
    items, parts = questions("refcoco", arguments, *more)
    assert items[0]["max_pixels"] is None
    assert parts[1][1] == "Please provide the bounding box coordinate of the region this sentence describes: it."


def test_the_audit_asks_in_four_ways_and_scores_in_three(tiny_folders, tmp_path, capsys):
    arguments = LAYOUTS["scienceqa"][0](tmp_path)
    larger = ("--audit", "--max_pixels", 802816)  # than a tiny checkpoint takes
    assert ask("scienceqa", tiny_folders["qwen2_5_vl"], tmp_path / "a.jsonl", arguments, *larger) == 0
    cells = json.loads((tmp_path / "a.jsonl.audit.json").read_text())["cells"]
    ways = {(cell["placeholder"], cell["min_pixels"], cell["scorer"]) for cell in cells}
    assert len(ways) == len(cells) == 12
    prompts = {}
    for placeholder in ("kept", "removed"):
        for pixels in (3136, 200704):
            answers = tmp_path / f"a-{placeholder}-{pixels}.jsonl"
            prompts[placeholder] = read_rows(answers)[0]["prompt"]
            assert json.loads((tmp_path / f"{answers.name}.manifest.json").read_text())["min_pixels"] == pixels
    assert "<image>\nContext" in prompts["kept"]
    assert "<image>" not in prompts["removed"]
    assert "least pixels" in capsys.readouterr().out

    # LLaVA's own processors take the second place for a picture that is missing.
    assert ask("scienceqa", tiny_folders["llava"], tmp_path / "l.jsonl", arguments, "--audit") == 1
    assert "all questions are errors" in capsys.readouterr().out
    with pytest.raises(InputError, match="--prompt: --audit sets it itself"):
        ask("scienceqa", tiny_folders["llava"], tmp_path / "l.jsonl", arguments, "--audit", "--prompt", "paper")


def change(path: Path, changed) -> None:
    """Change the parsed JSON of a file."""
    content = json.loads(path.read_text())
    write_json(path, changed(content))


def broken_scienceqa(folder, arguments):
    change(folder / "llava_test_CQM-A.json", lambda rows: [{**rows[0], "conversations": "Which?"}])


def broken_options(folder, arguments):
    rows = [{"id": "x", "question": "?", "options": "A or B", "answer": "A", "subject": "Art", "image_1": None}]
    write_parquet(folder / "standard (10 options)" / "test-00000-of-00001.parquet", rows, ())


def no_such_image(folder, arguments):
    rows = [{"id": "x", "question": "<image 3>?", "options": "['a']", "answer": "A", "image_1": None}]
    write_parquet(folder / "standard (10 options)" / "test-00000-of-00001.parquet", rows, ())


def truncated(folder, arguments):
    file = folder / "vision" / "test-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:-20])


def one_line(folder, arguments):
    (folder / "MME_Benchmark" / "color" / "9.txt").write_text("Is it?\tYes\n")


def odd_label(folder, arguments):
    file = folder / "coco_pope_popular.json"
    file.write_text(file.read_text().replace('"no"', '"maybe"'))


def nine_answers(folder, arguments):
    change(folder / "TextVQA_0.5.1_val.json", lambda whole: {"data": [{**whole["data"][0], "answers": ["x"] * 9}]})


def half_a_file(folder, arguments):
    file = folder / "HallusionBench.json"
    file.write_text(file.read_text()[:-30])


def no_figure(folder, arguments):
    change(folder / "HallusionBench.json", lambda rows: [*rows[:3], {**rows[3], "filename": None}])


def missing_column(folder, arguments):
    write_parquet(folder / "data" / "test-00000-of-00001.parquet", [{"question_id": "1", "image": None}], ())


@pytest.mark.parametrize(
    ("name", "number", "breaking", "message"),
    [
        ("scienceqa", 0, broken_scienceqa, "entry 1: field `conversations` is"),
        ("mmmu_pro", 0, broken_options, "row 0: field `options` is not a list"),
        ("mmmu_pro", 0, no_such_image, "row 0: the text has a place for image_3"),
        ("mmmu_pro", 0, truncated, "vision/test-00000-of-00001.parquet: damaged"),
        ("mme", 0, one_line, "9.txt: 1 lines; two questions a picture"),
        ("pope", 0, odd_label, "coco_pope_popular.json, line 2: field `answer` is 'maybe'"),
        ("pope", 1, missing_column, "no column `image` of pictures"),
        ("textvqa", 0, nine_answers, "entry 1: field `answers` is not the list of ten answers"),
        ("hallusionbench", 0, half_a_file, "HallusionBench.json: not JSON"),
        ("hallusionbench", 0, no_figure, "entry 4: field `filename` is None, but visual_input is 2"),
    ],
)
def test_bad_data_is_named_in_one_line(tmp_path, name, number, breaking, message):
    arguments = LAYOUTS[name][number](tmp_path)
    breaking(tmp_path, arguments)
    with pytest.raises(InputError, match=message) as error:
        questions(name, arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("scienceqa", [], "give --eval_file with --img_path, or --dataset_path alone"),
        ("pope", ["--dataset_path", "x/y", "--img_path", "z"], "give --eval_file with --img_path, or"),
        ("docvqa", ["--dataset_path", "/no/such/folder"], "no such folder, nor an id of the hub"),
        ("mme", ["--path_to_mme", "/no/such/folder"], "--path_to_mme /no/such/folder: no such folder"),
    ],
)
def test_missing_data_is_named(name, arguments, message):
    with pytest.raises(InputError, match=message):
        questions(name, arguments)
