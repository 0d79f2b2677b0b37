"""eval/probe.py: the paper's question, and which files it takes."""

import argparse
import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from data import build_probe
from eval import metrics
from eval.items import PictureError, longest_first, open_picture
from eval.probe import load_items, messages
from models.errors import InputError
from models.tiny import FAMILIES
from tests.probe_runs import read_rows, run_here, write_probe, write_rows

MINIATURE = Path(__file__).parent.parent / "models/miniature"


@pytest.fixture
def probe(tmp_path):
    return write_probe(tmp_path / "probe", captions=1)


def load(probe):
    return load_items(argparse.Namespace(eval_file=probe / "probe.jsonl", img_path=probe / "images"))


def change(probe, line, **fields):
    """Change fields of one line (counted from 1); a field set to None is removed."""
    rows = read_rows(probe / "probe.jsonl")
    changed = rows[line - 1] | fields
    rows[line - 1] = {field: value for field, value in changed.items() if value is not None}
    write_rows(probe / "probe.jsonl", rows)


def test_the_question_is_the_papers():
    item = {"image": "3.jpg", "caption": "a {red} bus"}
    (turn,) = messages(item, argparse.Namespace(img_path=Path("canvases")))
    assert turn["role"] == "user"
    assert turn["content"] == [
        {"type": "image", "path": Path("canvases/3.jpg")},
        {
            "type": "text",
            "text": "Determine if there is a sub-image in the given image that matches the text following.\n"
            "Text: a {red} bus\nThe answer should only contain 'Yes' or 'No', without reasoning process.\n",
        },
    ]


def test_the_papers_file_is_read_as_it_is(probe, tiny_folders, tmp_path):
    """Its ids are numbers that repeat over the cells, its name may end in .json."""
    rows = [row | {"id": 7} for row in read_rows(probe / "probe.jsonl")]
    write_rows(probe / "probe.json", rows)
    answers = tmp_path / "answers.jsonl"
    assert run_here(tiny_folders["llava"], probe, answers, "--eval_file", probe / "probe.json") == 0
    assert [(row["id"], row["position"]) for row in read_rows(answers)] == [(7, row["position"]) for row in rows]


def test_an_answers_file_can_be_asked_again(probe, tiny_folders, tmp_path):
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    assert run_here(tiny_folders["llava"], probe, first) == 0
    assert run_here(tiny_folders["llava"], probe, second, "--eval_file", first) == 0
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("field", ["id", "image", "caption", "position", "answer"])
def test_a_missing_field_is_named_with_its_line(probe, field):
    change(probe, 4, **{field: None})
    with pytest.raises(InputError, match=rf"probe.jsonl, line 4: field `{field}` is missing"):
        load(probe)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"position": "middle"}, "unknown position `middle`"),
        ({"answer": "maybe"}, "answer `maybe` is neither Yes nor No"),
        ({"caption": 5}, "field `caption` is 5; str is expected"),
        ({"id": [1]}, r"field `id` is \[1\]; str or int is expected"),
        ({"image": "../probe.jsonl"}, "lies outside --img_path"),
        ({"image": "/etc/passwd"}, "lies outside --img_path"),
        ({"image": "link.jpg"}, "lies outside --img_path"),
        ({"image": "../images2/x.jpg"}, "lies outside --img_path"),
        ({"image": "a\0b.jpg"}, 'field "image" holds'),
        ({"caption": "half \ud83d"}, 'field "caption" holds'),
        ({"source": [{"note\0": 1}]}, 'field "source" holds'),
    ],
)
def test_a_wrong_value_is_named_with_its_line(probe, fields, message):
    os.symlink(probe / "probe.jsonl", probe / "images" / "link.jpg")
    change(probe, 2, **fields)
    with pytest.raises(InputError, match=rf"probe.jsonl, line 2: .*{message}"):
        load(probe)


def test_a_folder_of_canvases_may_itself_be_a_link(probe):
    (probe / "images").rename(probe / "elsewhere")
    os.symlink(probe / "elsewhere", probe / "images")
    assert len(load(probe)) == 9


def test_both_lines_of_a_doubled_item_are_named(probe):
    rows = read_rows(probe / "probe.jsonl")
    text = (probe / "probe.jsonl").read_text().replace("\n", "\n\n", 1)  # a blank line shifts the numbers
    (probe / "probe.jsonl").write_text(text)
    with open(probe / "probe.jsonl", "a") as file:
        file.write((probe / "probe.jsonl").read_text().splitlines()[0] + "\n")
    with pytest.raises(InputError, match=rf"line 11: one item twice \(id={rows[0]['id']}, position=top_left.*line 1; "):
        load(probe)


def test_negatives_share_position_and_picture(probe):
    rows = read_rows(probe / "probe.jsonl")
    write_rows(probe / "probe.jsonl", rows + [row | {"answer": "No"} for row in rows])
    assert len(load(probe)) == 18


def test_cells_of_two_grids(probe):
    change(probe, 1, position="row4_col4")
    with pytest.raises(InputError, match="grids of different sizes"):
        load(probe)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("{}\n", "line 1: field `id`"),
        ("[1]\n", "entry 1: a int; a JSON array of objects"),
        ("x", "line 1"),
    ],
)
def test_files_that_are_no_probe(probe, text, message):
    (probe / "probe.jsonl").write_text(text)
    with pytest.raises(InputError, match=message):
        load(probe)


def test_a_wrong_folder_of_canvases(probe):
    shutil.move(probe / "images", probe / "pictures")
    with pytest.raises(InputError, match="no such folder"):
        load(probe)
    (probe / "images").mkdir()
    with pytest.raises(InputError, match="holds none of the images"):
        load(probe)


def test_pictures_are_opened_upright_and_rgb(tmp_path):
    picture = Image.new("L", (40, 20))
    exif = picture.getexif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    picture.save(tmp_path / "turned.jpg", exif=exif)
    opened, _ = open_picture({"type": "image", "path": tmp_path / "turned.jpg"})
    assert (opened.size, opened.mode) == ((20, 40), "RGB")
    with pytest.raises(PictureError, match=r"^none.png: No such file or directory$"):
        open_picture({"type": "image", "path": tmp_path / "none.png"})


def test_the_longest_prompts_come_first(tmp_path):
    for name, size in (("small", (10, 10)), ("wide", (90, 10)), ("tall", (10, 91))):
        Image.new("RGB", size).save(tmp_path / f"{name}.png")

    def prompt(text, *pictures):
        parts = [{"type": "image", "path": tmp_path / f"{name}.png"} for name in pictures]
        return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]

    prompts = [
        prompt("a long text without any picture"),
        prompt("x", "small"),
        prompt("xy", "small"),
        prompt("x", "wide"),
        prompt("x", "tall"),
        prompt("x", "small", "small"),
        prompt("x", "missing"),
    ]
    assert longest_first(prompts) == [5, 4, 3, 2, 1, 6, 0]


@pytest.fixture(scope="module")
def bundled(tmp_path_factory):
    """The probe of the bundled pictures, with negatives."""
    folder = tmp_path_factory.mktemp("bundled") / "probe"
    photos = Path(__file__).parent.parent / "data/samples/photos"
    build_probe.main(f"--source {photos} --num_captions 13 --negatives 1.0 --output_dir {folder}".split())
    return folder


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("flag", ["false", "true"])
def test_all_families_run_the_bundled_probe(tiny_folders, bundled, tmp_path, family, flag):
    answers = tmp_path / "answers.jsonl"
    few = ("--limit", 90, "--max_new_tokens", 2)  # the whole takes long; the test of README's commands runs it
    assert run_here(tiny_folders[family], bundled, answers, "--position_balance", flag, *few) == 0
    rows = read_rows(answers)
    assert len(rows) == 90
    assert all(isinstance(row["prediction"], str) for row in rows)
    metrics.main(["--results_file", str(answers), "--output_json", str(tmp_path / "numbers.json"), "--bootstrap", "0"])
    assert json.loads((tmp_path / "numbers.json").read_text())["runs"][0]["scored"] == len(rows)


@pytest.mark.parametrize("flag", ["false", "true"])
def test_one_token_says_what_the_whole_reply_says(bundled, tmp_path, flag):
    """Scored from one pass over the prompt: no second one where Yes and No are a token each."""
    verdicts = {}
    for count in (1, 128):
        answers, numbers = tmp_path / f"{count}.jsonl", tmp_path / f"{count}.json"
        limits = ("--limit", 40, "--max_new_tokens", count, "--position_balance", flag)
        assert run_here(MINIATURE, bundled, answers, *limits) == 0
        metrics.main(["--results_file", str(answers), "--output_json", str(numbers), "--bootstrap", "0"])
        found = json.loads(numbers.read_text())["runs"][0]
        verdicts[count] = [row["prediction"] for row in read_rows(answers)], found["numbers"]
        assert not any("truncated" in row for row in read_rows(answers))  # one token was asked for
    assert verdicts[1] == verdicts[128]
    assert len(set(verdicts[1][0])) == 2
