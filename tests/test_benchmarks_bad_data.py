"""Bad data of the benchmarks: one line that names file, place and field."""

import json
from pathlib import Path

import pyarrow.parquet
import pytest

from models.errors import InputError
from tests.benchmark_folders import LAYOUTS, encoded, write_json, write_lines, write_parquet
from tests.benchmark_runs import questions

pytestmark = pytest.mark.usefixtures("table_cache")


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


def llavas_questions(folder, arguments):
    """LLaVA's layout: its own file of questions, the labels in coco/ beside it."""
    arguments[:] = ["--eval_file", folder / "llava_pope_test.jsonl", *arguments[-2:]]
    text = "Is there a dog in the image?\nAnswer the question using a single word or phrase."
    row = {"question_id": 1, "image": "COCO_val2014_1.jpg", "text": text, "category": "random"}
    write_lines(arguments[1], [row])
    (folder / "coco").mkdir()
    for file in folder.glob("coco_pope_*.json"):
        file.rename(folder / "coco" / file.name)


def nine_answers(folder, arguments):
    change(folder / "TextVQA_0.5.1_val.json", lambda whole: {"data": [{**whole["data"][0], "answers": ["x"] * 9}]})


def half_a_file(folder, arguments):
    file = folder / "HallusionBench.json"
    file.write_text(file.read_text()[:-30])


def no_figure(folder, arguments):
    change(folder / "HallusionBench.json", lambda rows: [*rows[:3], {**rows[3], "filename": None}])


def one_shard(folder, arguments):
    file = folder / "vision" / "test-00000-of-00001.parquet"
    file.rename(file.with_name("test-00001-of-00003.parquet"))


def no_bytes(folder, arguments):
    empty = {"bytes": None, "path": None}
    row = {"question_id": "1", "question": "?", "answer": "no", "category": "random", "image": empty}
    write_parquet(folder / "data" / "test-00000-of-00001.parquet", [row])


def latin_1(folder, arguments):
    (folder / "MME_Benchmark" / "color" / "9.txt").write_bytes("Ist es gr\u00fcn?\tYes\nx\tNo\n".encode("latin-1"))


def no_pictures(folder, arguments):
    for path in folder.rglob("*.jpg"):
        path.unlink()


def leads_out(folder, arguments):
    file = folder / "color_data.json"
    file.write_text(file.read_text().replace("color/0.jpg", "../0.jpg"))


def damaged_picture(folder, arguments):
    row = {"answer": ["it"], "bbox": [1.0, 2.0, 3.0, 4.0], "image": {"bytes": b"no picture", "path": None}}
    write_parquet(folder / "data" / "val-00000-of-00001.parquet", [row])


def null_in_a_box(folder, arguments):
    row = {"answer": ["it"], "bbox": [1.0, None, 3.0, 4.0], "image": encoded(1)}
    write_parquet(folder / "data" / "val-00000-of-00001.parquet", [row])


def no_sentence(folder, arguments):
    write_lines(folder / "refcoco_val.jsonl", [{"image": "coco/1.jpg", "bbox": [1, 2, 3, 4]}])


def six_options(folder, arguments):
    file = folder / "llava_test_CQM-A.json"
    file.write_text(file.read_text().replace("D. grey", "D. grey\\nE. pink\\nF. black"))


def number_for_a_picture(folder, arguments):
    text = "Which?\nA. x\nB. y"
    said = [{"from": "human", "value": text}, {"from": "gpt", "value": "A"}]
    write_json(folder / "llava_test_CQM-A.json", [{"id": "0", "image": 5, "conversations": said}])


def no_letter(folder, arguments):
    rows = [{"id": "x", "options": "['a']", "answer": "", "image": encoded(1)}]
    write_parquet(folder / "standard (10 options)" / "test-00000-of-00001.parquet", [{**rows[0], "question": "?"}])


def no_rows(folder, arguments):
    file = folder / "data" / "test-00000-of-00001.parquet"
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(file).slice(0, 0), file)


def missing_column(folder, arguments):
    write_parquet(folder / "data" / "test-00000-of-00001.parquet", [{"question_id": "1", "image": None}], ())


@pytest.mark.parametrize(
    ("name", "number", "breaking", "message"),
    [
        ("scienceqa", 0, broken_scienceqa, "entry 1: field `conversations` is"),
        ("mmmu_pro", 0, broken_options, "row 0: field `options` is not a list"),
        ("mmmu_pro", 0, no_such_image, "row 0: the text has a place for image_3"),
        ("mmmu_pro", 0, truncated, "vision/test-00000-of-00001.parquet: damaged"),
        ("mmmu_pro", 0, no_letter, "row 0: field `answer` is ''; a capital letter is expected"),
        ("mme", 0, latin_1, "9.txt: cannot be read as UTF-8 text"),
        ("mme", 1, no_pictures, "holds none of the images that its list of questions names"),
        ("mme", 1, leads_out, r"line 1: image `../0.jpg` lies outside --path_to_mme"),
        ("pope", 0, no_pictures, "--img_path .*: holds none of the images that .*coco_pope_random.json names"),
        ("pope", 1, no_bytes, "row 0: no picture in `image`"),
        ("pope", 1, no_rows, "has no rows"),
        ("scienceqa", 0, six_options, "entry 1: field `choices` is 6"),
        ("scienceqa", 0, number_for_a_picture, "entry 1: field `image` is '5'; the name of a file is expected"),
        ("mme", 0, one_line, "9.txt: 1 lines; two questions a picture"),
        ("pope", 0, odd_label, "coco_pope_popular.json, line 2: field `label` is 'maybe'"),
        (
            "pope",
            0,
            llavas_questions,
            "llava_pope_test.jsonl, line 1: field `label` is missing: LLaVA's file has the questions alone; give those "
            "with labels, --eval_file .*/coco/coco_pope_random.json .*/coco/coco_pope_popular.json .*adversarial.json$",
        ),
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
    ("number", "breaking", "message"),
    [
        (0, damaged_picture, "row 0: its picture cannot be opened"),
        (0, null_in_a_box, r"row 0: field `bbox` is \[1.0, None"),
        (1, no_sentence, "line 1: field `sent` is missing"),
    ],
)
def test_bad_boxes_are_named_in_one_line(tiny_folders, tmp_path, number, breaking, message):
    arguments = LAYOUTS["refcoco"][number](tmp_path)
    breaking(tmp_path, arguments)
    with pytest.raises(InputError, match=message) as error:
        questions("refcoco", arguments, "--model_path", tiny_folders["qwen2_5_vl"])
    assert "\n" not in str(error.value)


def test_missing_shards_are_named(tmp_path):
    arguments = LAYOUTS["mmmu_pro"][0](tmp_path)
    with pytest.raises(InputError, match="--dataset_revision abc: .* is a folder"):
        questions("mmmu_pro", arguments, "--dataset_revision", "abc")
    one_shard(tmp_path, arguments)
    with pytest.raises(InputError, match="vision/test-00000-of-00003.parquet: missing, of 3 files"):
        questions("mmmu_pro", arguments)


def test_a_configurations_own_folder_is_not_taken_for_another(tmp_path):
    LAYOUTS["mmmu_pro"][0](tmp_path)
    inner = ["--dataset_path", tmp_path / "standard (10 options)", "--dataset_variant"]
    assert len(questions("mmmu_pro", [*inner, "standard (10 options)"])[0]) == 2
    with pytest.raises(InputError, match=r"has no folder `standard \(4 options\)`; give the one that holds it"):
        questions("mmmu_pro", [*inner, "standard (4 options)"])


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("scienceqa", [], "give --eval_file with --img_path, or --dataset_path alone"),
        ("pope", ["--dataset_path", "x/y", "--img_path", "z"], "give --eval_file with --img_path, or"),
        ("chartqa", ["--dataset_path", "no/such"], "no such folder, and the hub does not give it"),
        ("docvqa", ["--dataset_path", "/no/such/folder"], "no such folder, nor an id of the hub"),
        ("mme", ["--path_to_mme", "/no/such/folder"], "--path_to_mme /no/such/folder: no such folder"),
    ],
)
def test_missing_data_is_named(name, arguments, message):
    with pytest.raises(InputError, match=message):
        questions(name, arguments)
