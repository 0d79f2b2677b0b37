"""eval/<benchmark>.py: each reads the official layout, asks by the protocol, and writes what eval/score.py scores."""

import json
import pickle
import re
import shutil
import signal
from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageDraw, ImageOps

from eval import score
from eval.fields import describe_key
from eval.items import picture_parts
from eval.scorers import refcoco as score_refcoco
from eval.scorers.boxes import resized
from eval.scorers.mme import ROWS
from models.errors import InputError
from tests.benchmark_folders import LAYOUTS, write_lines, write_parquet
from tests.benchmark_runs import ask, command, parsed, questions, script
from tests.killed_runs import killed_after
from tests.probe_runs import manifest_of, read_rows

pytestmark = pytest.mark.usefixtures("table_cache")
CASES = [(name, layout) for name, layouts in LAYOUTS.items() for layout in layouts]
EACH = pytest.mark.parametrize(("name", "layout"), CASES, ids=[layout.__name__ for _, layout in CASES])


@EACH
def test_asks_and_scores_with_the_flag_off_and_on(tiny_folders, tmp_path, capsys, name, layout):
    arguments = layout(tmp_path / "data")
    for flag in ("false", "true"):
        answers = tmp_path / flag / "answers.jsonl"
        assert ask(name, tiny_folders["qwen2_5_vl"], answers, arguments, "--position_balance", flag) == 0
        output = capsys.readouterr().out
        assert f"{name}, scorer official" in output
        assert "not scored" not in output
        assert json.loads(manifest_of(answers).read_text())["position_balance"] == (flag == "true")
        rows = read_rows(answers)
        assert all({"id", "prediction", "prompt"} <= row.keys() for row in rows)
        assert all(("image_sha256" in row) == bool(pictures) for row, pictures in pictured(name, arguments, rows))
    files = [str(tmp_path / flag / "answers.jsonl") for flag in ("false", "true")]
    for scorer in score.BENCHMARKS[name].scorers:
        options = ["--answers_file", files[0], "--answers_file", files[1], "--labels", "off", "on", "--allow_partial"]
        score.main([name, *options, "--scorer", scorer, "--bootstrap", "20"])
        assert "on - off" in capsys.readouterr().out


@pytest.mark.parametrize("name", LAYOUTS)
def test_crosses_processes(name):
    """Loader processes may be spawned."""
    assert pickle.dumps(script(name).BENCHMARK)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_line_that_is_lost_is_named(tiny_folders, tmp_path, capsys, name):
    """By all that tells an item from the others, in the answers and in the scores alike."""
    answers = tmp_path / "answers.jsonl"
    assert ask(name, tiny_folders["qwen2_5_vl"], answers, LAYOUTS[name][0](tmp_path / "data")) == 0
    lines = answers.read_text().splitlines(keepends=True)
    answers.write_text("".join(lines[1:]))
    rules = score.BENCHMARKS[name]
    assert script(name).BENCHMARK.key == rules.key
    lost = describe_key(json.loads(lines[0]), rules.key)
    with pytest.raises(InputError, match=re.escape(f"1 of {len(lines)} rows are missing ({lost})")):
        score.main([name, "--answers_file", str(answers)])
    score.main([name, "--answers_file", str(answers), "--allow_partial", "--bootstrap", "0"])
    assert "PARTIAL, not to be compared: 1 of" in capsys.readouterr().out


def pictured(name: str, arguments: list, rows: list[dict]) -> list[tuple[dict, list]]:
    benchmark, args = parsed(name, arguments)
    return [(row, picture_parts(benchmark.messages(row, args))) for row in rows]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_killed_run_goes_on(talkative_folders, tmp_path, capsys, name):
    """By the real script in a process of its own, killed with SIGKILL between two answers, then run again."""
    model, arguments = talkative_folders["qwen2_5_vl"], LAYOUTS[name][0](tmp_path / "data")
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    options = ("--batch_size", 1, "--position_balance", "true")
    assert ask(name, model, whole, arguments, *options) == 0
    count = len(read_rows(whole))
    words = command(model, broken, arguments, *options)
    assert killed_after(count // 2, Path("eval", f"{name}.py"), words) == -signal.SIGKILL
    assert not broken.exists()
    assert len(read_rows(tmp_path / "broken.jsonl.part-0")) == count // 2 >= 1
    capsys.readouterr()
    assert ask(name, model, broken, arguments, *options) == 0
    assert f"{count - count // 2} new, {count // 2} resumed, 0 errors" in capsys.readouterr().out
    assert broken.read_bytes() == whole.read_bytes()
    assert manifest_of(broken).read_bytes() == manifest_of(whole).read_bytes()
    assert not list(tmp_path.glob("broken.jsonl.part-*"))


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


@pytest.mark.parametrize(
    ("prompt", "ending"),
    [
        ("official", ""),
        ("vlmevalkit", " Please answer yes or no."),
        ("paper", "\nThe answer should only contain 'Yes' or 'No', without reasoning process."),
    ],
)
def test_hallusionbenchs_wordings(tmp_path, prompt, ending):
    _, parts = questions("hallusionbench", LAYOUTS["hallusionbench"][0](tmp_path), "--prompt", prompt)
    assert parts[7] == [(70, 60), f"Is it 1?{ending}"]


@pytest.mark.parametrize(
    ("prompt", "ending"),
    [
        ("lmms", "\nAnswer the question with a single word."),
        ("vlmevalkit", "\nAnswer the question using a single word or phrase."),
    ],
)
def test_chartqas_wordings_and_halves(tmp_path, prompt, ending):
    items, parts = questions("chartqa", LAYOUTS["chartqa"][0](tmp_path / "table"), "--prompt", prompt)
    assert [part[1] for part in parts] == [f"How many?{ending}"] * 3
    assert [item["type"] for item in items] == ["human_test", "augmented_test", "human_test"]
    assert [part[0] for part in parts] == [(70, 60), (70, 61), (70, 62)], "each row its own picture"
    arguments = LAYOUTS["chartqa"][1](tmp_path / "files")
    items, parts = questions("chartqa", arguments, "--prompt", prompt)
    assert [item["id"] for item in items] == [f"{half}_test_{n}" for half in ("human", "augmented") for n in (0, 1)]
    assert [part[1].removesuffix(ending) for part in parts] == ["How many?", "Who?"] * 2
    with pytest.raises(InputError, match="--eval_file: two files of one half"):
        questions("chartqa", [arguments[0], arguments[1], arguments[1], *arguments[3:]])


def test_docvqas_question_ends_with_lmms_evals_request(tmp_path):
    _, parts = questions("docvqa", LAYOUTS["docvqa"][0](tmp_path))
    request = "Which date?\nAnswer the question using a single word or phrase."
    assert parts == [[(70, 60), request], [(70, 61), request]]


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
    assert pictures == [(70, 62), (70, 62), (56, 90)]
    assert [part[1] for part in parts[2:]] == [(70, 67), (70, 68)]
    assert items[0]["options"][9] == "option 9"
    assert parts[0][0].count("\nJ. option 9\n") == 1
    standard = questions("mmmu_pro", arguments, "--mode", "cot", "--dataset_variant", "standard (10 options)")[1][1][0]
    assert standard.endswith(
        "B. none\nAnswer the preceding multiple choice question. The last line of your response should be of the "
        "following format: 'Answer: $LETTER' (without quotes) where LETTER is one of options. Think step by step "
        "before answering."
    )
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


def test_mme_asks_all_fourteen_subtasks_unless_told(tmp_path):
    path = LAYOUTS["mme"][0](tmp_path)[:2]
    with pytest.raises(InputError, match="no folder existence and no existence_data.json; name others by --subtasks"):
        questions("mme", path)
    for subtask in set(ROWS) - {"color", "artwork"}:
        shutil.copytree(tmp_path / "MME_Benchmark" / "color", tmp_path / "MME_Benchmark" / subtask)
    items, _ = questions("mme", path)
    assert [item["subtask"] for item in items[::4]] == [*ROWS]


def test_the_papers_names_of_options_are_taken(tmp_path):
    folder = LAYOUTS["mmmu_pro"][0](tmp_path)[1]
    _, args = parsed("mmmu_pro", ["--dataset_repo_id", folder, "--model", "m2"])
    assert (args.dataset_path, args.model_path) == (str(folder), "m2")


def test_pope_takes_the_split_from_the_files_name(tmp_path):
    items, parts = questions("pope", LAYOUTS["pope"][0](tmp_path))
    assert [item["category"] for item in items] == ["random", "random", "popular", "popular"]
    assert parts[0][1] == "Is there a dog in the image?\nAnswer the question using a single word or phrase."
    _, parts = questions("pope", LAYOUTS["pope"][1](tmp_path / "table"), "--prompt", "bare")
    assert parts == [[(70, 60), "Is there a dog in the image?"], [(70, 61), "Is there a dog in the image?"]]


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
    replies = [row["prediction"] for row in read_rows(tmp_path / "a.jsonl")]
    assert submission == [{"questionId": number, "answer": reply} for number, reply in enumerate(replies)]
    folder = tmp_path / "DocVQA"
    shutil.move(folder / "test-00000-of-00001.parquet", folder / "validation-00000-of-00001.parquet")
    with pytest.raises(InputError, match="row 0: field `answers` is not a list of texts; of questions without any"):
        questions("docvqa", arguments)


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


# Whose size changes: only there it can tell that a box is of the upright picture.
TURNED = [("upright size", orientation) for orientation in (5, 6, 7, 8)]
STORED = [(said, orientation) for said in ("nothing", "stored size", "table") for orientation in range(1, 9)]


@pytest.mark.parametrize(("said", "orientation"), TURNED + STORED)
def test_a_perfect_box_about_a_picture_that_exif_turns_has_iou_1(tiny_folders, tmp_path, orientation, said):
    """The perfect box is found in the pixels that the processor makes for the model."""
    drawn = Image.new("RGB", (560, 280), "white")
    ImageDraw.Draw(drawn).rectangle((336, 28, 503, 223), fill="red")
    exif = Image.Exif()
    exif[0x0112] = orientation
    drawn.save(tmp_path / "1.png", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(tmp_path / "1.png"))
    gold, size = [336, 28, 504, 224], drawn.size
    if said == "upright size":
        gold, size = list(ImageChops.invert(upright.getchannel("G")).getbbox()), upright.size
    row = {"image": "1.png", "sent": "red", "bbox": gold}
    row |= {} if said == "nothing" else {"width": size[0], "height": size[1]}
    arguments = ["--eval_file", write_lines(tmp_path / "refcoco_val.jsonl", [row]), "--img_path", tmp_path]
    if said == "table":
        picture = {"bytes": (tmp_path / "1.png").read_bytes(), "path": None}
        row = {"answer": ["red"], "bbox": [336.0, 28.0, 168.0, 196.0], "image": picture}
        write_parquet(tmp_path / "table" / "data" / "val-00000-of-00001.parquet", [row])
        arguments = ["--dataset_path", tmp_path / "table"]
    more = ("--model_path", tiny_folders["qwen2_5_vl"], "--max_pixels", 560 * 280 // 4)
    ((item,), _) = questions("refcoco", arguments, *more)
    assert item["image_size"] == [*upright.size]
    seen = upright.resize(resized(*upright.size, item["min_pixels"], item["max_pixels"]), Image.Resampling.BOX)
    box = ImageChops.invert(seen.getchannel("G")).point(lambda value: 255 * (value > 127)).getbbox()
    verdict = score_refcoco.official(item | {"prediction": json.dumps({"bbox_2d": box})}, None)
    assert verdict.extra["iou"] > 0.97


def test_a_size_that_is_not_the_pictures_is_refused(tiny_folders, tmp_path):
    arguments = LAYOUTS["refcoco"][1](tmp_path)
    row = {"image": "coco/1.jpg", "sent": "it", "bbox": [5, 10, 25, 40], "width": 90, "height": 120}
    write_lines(tmp_path / "refcoco_val.jsonl", [row])
    with pytest.raises(
        InputError, match="line 1: fields `width` and `height` say 90 x 120, its picture has 120 x 90 px"
    ):
        questions("refcoco", arguments, "--model_path", tiny_folders["qwen2_5_vl"])


def test_the_audit_asks_in_four_ways_and_scores_in_three(tiny_folders, tmp_path, capsys, monkeypatch):
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

    # LLaVA's own processors would take the letters for the place of a picture that is missing.
    assert ask("scienceqa", tiny_folders["llava"], tmp_path / "l.jsonl", arguments, "--audit") == 0
    assert "<image>\nContext" in read_rows(tmp_path / "l-kept-own.jsonl")[0]["prompt"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="--audit: runs in one process"):
        ask("scienceqa", tiny_folders["llava"], tmp_path / "l.jsonl", arguments, "--audit")
    monkeypatch.delenv("WORLD_SIZE")
    with pytest.raises(InputError, match="--prompt: --audit sets it itself"):
        ask("scienceqa", tiny_folders["llava"], tmp_path / "l.jsonl", arguments, "--audit", "--prompt", "paper")


def test_links_within_the_folder_may_lead_to_coco(tmp_path):
    arguments = LAYOUTS["crpe"][0](tmp_path / "crpe")
    shutil.move(tmp_path / "crpe" / "coco", tmp_path / "elsewhere")
    (tmp_path / "crpe" / "coco").symlink_to(tmp_path / "elsewhere")
    assert len(questions("crpe", arguments)[1]) == 8
