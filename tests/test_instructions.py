"""Instruction data: both forms come out as one, as a stream, and what is malformed is named."""

import json
import os
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

import data.instructions
from data.instructions import dataset_of, find_image, find_images, read_samples
from models.errors import InputError
from tests.captioned_pictures import PHOTOS

LLAVA = {
    "id": "000000033471",
    "image": "coco/train2017/000000033471.jpg",
    "conversations": [
        {"from": "human", "value": "<image>\nWhat colour is the bus?"},
        {"from": "gpt", "value": "Red."},
        {"from": "human", "value": "And the sky?"},
        {"from": "gpt", "value": "Blue."},
    ],
}
MESSAGES = {
    "messages": [{"role": "user", "content": "<image>Who?<image>"}, {"role": "assistant", "content": "Two cats."}],
    "images": ["a.jpg", "/b/c.png"],
}


def write(path: Path, samples: list, lines: bool = False) -> Path:
    content = "\n".join(map(json.dumps, samples)) if lines else json.dumps(samples)
    path.write_text(content, encoding="utf-8")
    return path


def read(tmp_path: Path, *samples: object) -> list[dict]:
    return list(read_samples(write(tmp_path / "samples.json", list(samples))))


def turns(*texts: str) -> list[dict]:
    return [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(texts)]


def contents(sample: dict) -> list[str]:
    return [message["content"] for message in sample["messages"]]


@pytest.mark.parametrize("lines", [False, True])
def test_both_forms_in_one_file_come_out_as_one(lines, tmp_path):
    path = write(tmp_path / "samples.json", [LLAVA, MESSAGES], lines)
    first, second = read_samples(path)
    assert first == {
        "id": "000000033471",
        "index": 0,
        "images": ["coco/train2017/000000033471.jpg"],
        "messages": [
            {"role": "user", "content": "<image>\nWhat colour is the bus?"},
            {"role": "assistant", "content": "Red."},
            {"role": "user", "content": "And the sky?"},
            {"role": "assistant", "content": "Blue."},
        ],
    }
    assert second == {"id": "1", "index": 1, "images": ["a.jpg", "/b/c.png"], "messages": MESSAGES["messages"]}


def test_sharegpt_names_system_turns_and_typed_parts(tmp_path):
    sharegpt = {"conversations": turns("Look: <image> here", "Yes"), "images": ["a.jpg"], "system": "Be short."}
    parts = [{"type": "image"}, {"type": "text", "text": "Who?"}, {"type": "image"}]
    typed = {
        "id": 7,
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "Be kind."}]},
            {"role": "user", "content": parts},
            {"role": "assistant", "content": "Cats."},
        ],
        "images": ["a.jpg", "b.jpg"],
    }
    first, second = read(tmp_path, sharegpt, typed)
    assert contents(first) == ["Be short.", "Look: <image> here", "Yes"]
    assert [message["role"] for message in first["messages"]] == ["system", "user", "assistant"]
    assert contents(second) == ["Be kind.", "<image>Who?<image>", "Cats."]
    assert second["id"] == "7"


@pytest.mark.parametrize("image", [{}, {"image": None}, {"image": []}, {"images": []}])
def test_samples_without_an_image(image, tmp_path):
    (sample,) = read(tmp_path, {"conversations": turns("Hi", "Hello"), **image})
    assert (sample["images"], contents(sample)) == ([], ["Hi", "Hello"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<image>\nWhat?", "<image>\nWhat?"),
        ("What?\n<image>", "<image>\nWhat?"),
        (" What <image> is it? ", "<image>\nWhat  is it?"),
        ("<image>", "<image>"),
    ],
)
def test_the_mark_of_a_single_image_goes_to_the_front_as_in_llava(text, expected, tmp_path):
    (sample,) = read(tmp_path, {"image": "a.jpg", "conversations": turns(text, "A")})
    assert contents(sample) == [expected, "A"]
    (untouched,) = read(tmp_path, {"image": ["a.jpg", "b.jpg"], "conversations": turns("x <image> y <image>", "A")})
    assert contents(untouched) == ["x <image> y <image>", "A"]


def test_an_answer_without_a_question_and_a_question_without_an_answer_are_dropped_in_llavas_form_only(tmp_path):
    conversation = [{"from": "gpt", "value": "lost"}, *turns("Q", "A", "and?")]
    (sample,) = read(tmp_path, {"conversations": conversation})
    assert contents(sample) == ["Q", "A"]
    with pytest.raises(InputError, match="a turn of the assistant where the user's is due"):
        read(tmp_path, {"conversations": conversation, "images": []})
    with pytest.raises(InputError, match="ends with a question"):
        read(tmp_path, {"messages": [{"role": "user", "content": "Q"}]})


def changed(**fields) -> dict:
    return {**LLAVA, **fields}


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ("text", "sample 1: a str, not a JSON object; mend or remove it"),
        (changed(id=[1]), 'sample 1: field "id" is a list; give a string or an integer'),
        (changed(id=True), 'sample 1: field "id" is a bool;'),
        (changed(video="a.mp4"), '(id 000000033471): field "video": only images and text are read'),
        (changed(images=["a.jpg"]), 'fields "image" and "images" are both given; keep one'),
        (changed(image={"bytes": "x"}), 'field "image" is no path or list of paths'),
        (changed(image=""), 'field "image" is no path or list of paths'),
        (changed(image=[1]), 'field "image" is no path or list of paths'),
        ({"id": "a"}, '(id a): fields "conversations" and "messages" are both missing'),
        (changed(messages=MESSAGES["messages"]), 'fields "conversations" and "messages" are both given; keep one'),
        (changed(conversations=[]), 'field "conversations" is empty; give a list of turns'),
        (changed(conversations="Hi"), 'field "conversations" is a str; give a list of turns'),
        (changed(conversations=["Hi"]), 'field "conversations", turn 0 is a str; give an object'),
        (changed(conversations=[{"from": "bot", "value": ""}]), "turn 0 is from 'bot'; known are system, human,"),
        (changed(conversations=[{"value": ""}]), "turn 0 is from None; known are"),
        (
            changed(conversations=[*turns("<image>"), {"from": "gpt"}]),
            "turn 1 has no text but a NoneType; give a string",
        ),
        (changed(conversations=[{"from": "human", "value": [{"type": "video"}]}]), "turn 0 has an unknown part; known"),
        (changed(conversations=[{"from": "human", "value": ["x"]}]), "turn 0 has an unknown part; known"),
        (changed(system=3), 'field "system" is a int; give text'),
        (changed(conversations=turns("<image><image>", "a", "<image>", "b")), "3 <image> marks for 1 images"),
        (changed(conversations=turns("What?", "a")), "0 <image> marks for 1 images; give one mark for each image"),
        (changed(conversations=turns("<image><image>", "a")), "2 <image> marks for 1 images"),
        (changed(image=None), "1 <image> marks for 0 images"),
        (changed(conversations=turns("What?", "<image>")), "<image> in a turn that is not the user's"),
        (
            changed(conversations=turns("a", "b") + turns("c", "d")[1:]),
            "a turn of the assistant where the user's is due",
        ),
        (changed(conversations=[*turns("a"), *turns("b", "c")]), "a turn of the user where the assistant's is due"),
        (changed(conversations=[*turns("a", "b"), {"from": "system", "value": "c"}]), "a turn of the system where"),
        (changed(conversations=[{"from": "gpt", "value": "a"}]), "no question with an answer"),
        (changed(conversations=[{"from": "system", "value": "a"}]), "no question with an answer"),
    ],
)
def test_a_malformed_sample_is_one_line_with_its_place_or_is_passed_on(sample, message, tmp_path):
    path = write(tmp_path / "samples.json", [LLAVA, sample, LLAVA])
    with pytest.raises(InputError, match=re.escape(message)) as error:
        list(read_samples(path))
    assert str(error.value).startswith(f"{path}, sample 1")
    assert "\n" not in str(error.value)
    told = []
    assert [good["index"] for good in read_samples(path, told.append)] == [0, 2]
    assert [str(problem) for problem in told] == [str(error.value)]


def test_half_a_surrogate_pair_is_malformed(tmp_path):
    path = write(tmp_path / "x.jsonl", [{"conversations": turns("\ud83d", "a")}], lines=True)
    with pytest.raises(InputError, match=r"sample 0: field .conversations\[0\].value. holds half a character"):
        list(read_samples(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "samples.json: empty"),
        ("[]", "samples.json: an empty array"),
        (
            json.dumps([LLAVA, LLAVA])[:-40],
            "samples.json: broken JSON behind sample 0, character .*Unterminated string",
        ),
        (json.dumps([LLAVA]) + "x", "samples.json: broken JSON behind sample 0, character .*Extra data"),
        ("[nil", "samples.json: broken JSON before the first sample ends, character 1"),
        (json.dumps(LLAVA) + "\n{", "samples.json, line 2: not JSON"),
    ],
)
def test_a_broken_file_is_told_with_its_place_whatever_is_skipped(content, message, tmp_path):
    path = tmp_path / "samples.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as error:
        list(read_samples(path, on_malformed=lambda problem: None))
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(InputError, match="none.json: no such file"):
        list(read_samples(tmp_path / "none.json"))
    with pytest.raises(InputError, match="a folder; give a file"):
        list(read_samples(tmp_path))


@pytest.mark.parametrize("lines", [False, True])
def test_a_large_file_is_a_stream(lines, tmp_path):
    path = write(tmp_path / "large", [changed(conversations=turns("<image>" + "x" * 2000, "y"))] * 4000, lines)
    tracemalloc.start()
    assert sum(1 for _ in read_samples(path)) == 4000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert path.stat().st_size > 8_000_000
    assert peak < 1_000_000


@pytest.fixture
def folder(tmp_path) -> Path:
    images = tmp_path / "ocr_vqa" / "images"
    images.mkdir(parents=True)
    content = (PHOTOS / "cat.jpg").read_bytes()
    for name in ("a.jpg", "b.PNG", "c.gif", "d.jpeg", "e.txt", "f.tiff", "f.png", "two.dots.gif"):
        (images / name).write_bytes(content)
    (images / "g.jpg").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a.jpg", "a.jpg"),
        ("a.png", "a.jpg"),
        ("b.jpg", "b.PNG"),
        ("c.jpg", "c.gif"),
        ("d.jpg", "d.jpeg"),
        ("f.jpg", "f.png"),
        ("two.dots.jpg", "two.dots.gif"),
        ("e.jpg", None),
        ("g.jpg", None),
        ("none.jpg", None),
        ("A.jpg", None),
        ("\0.jpg", None),
        ("x" * 300 + ".jpg", None),
        ("\ud83d.jpg", None),
    ],
)
def test_an_image_is_found_under_another_ending(name, found, folder):
    expected = None if found is None else folder / "ocr_vqa" / "images" / found
    assert find_image(folder, f"ocr_vqa/images/{name}") == expected
    assert find_image(folder, str(folder / "ocr_vqa" / "images" / name)) == expected
    assert find_image("/elsewhere", str(folder / "ocr_vqa" / "images" / name), follow_paths=True) == expected
    assert find_image(folder, f"nowhere/{name}") is None


@pytest.mark.parametrize("name", ["../a.jpg", "ocr_vqa/../../a.jpg", "/etc/hostname", "{folder}x/a.jpg"])
def test_an_image_out_of_the_folder_is_refused(name, folder):
    name = name.format(folder=folder)
    with pytest.raises(
        InputError, match=re.escape(f"here: image {name!r} lies outside {folder}; mend the name, or give")
    ):
        find_images(folder, ["ocr_vqa/images/a.jpg", name], "here")


def test_a_folder_of_pictures_may_be_a_link(folder, tmp_path):
    (tmp_path / "playground").mkdir()
    (tmp_path / "playground" / "ocr_vqa").symlink_to(folder / "ocr_vqa")
    assert find_image(tmp_path / "playground", "ocr_vqa/images/a.png").read_bytes() == (PHOTOS / "cat.jpg").read_bytes()


def test_a_folder_with_many_missing_is_listed_once_and_one_with_all_never(folder, monkeypatch):
    listed = []
    listdir = os.listdir
    monkeypatch.setattr(data.instructions.os, "listdir", lambda path: listed.append(path) or listdir(path))
    for _ in range(100):
        assert find_image(folder, "ocr_vqa/images/a.jpg")
    assert listed == []
    for number in range(100):
        assert find_image(folder, f"ocr_vqa/images/none{number}.jpg") is None
    assert listed == [folder / "ocr_vqa" / "images"]


@pytest.mark.parametrize(
    ("name", "dataset"),
    [
        ("coco/train2017/000.jpg", "coco/train2017"),
        ("/data/playground/vg/VG_100K_2/1.jpg", "vg/VG_100K_2"),
        ("vg/VG_100K/1.jpg", "vg/VG_100K"),
        ("mycoco/train2017/1.jpg", "mycoco/train2017"),
        ("00453/004539375.jpg", "."),
        ("scienceqa/images/train/12/image.png", "scienceqa/images/train"),
        ("2/07/image.png", "."),
        ("web-celebrity/images/1.png", "web-celebrity/images"),
        ("1.jpg", "."),
        (None, "text only"),
    ],
)
def test_the_data_set_of_an_image(name, dataset):
    assert dataset_of(name) == dataset


def test_reading_needs_neither_torch_nor_transformers():
    code = "import data.instructions, sys; sys.exit(bool({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent).returncode == 0


@pytest.mark.parametrize("as_lines", [True, False])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"id": 1, "id": 2}', '"id" is there twice'),
        ('{"x": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested deeper than 100 levels|broken JSON"),
        ('{"id": ' + "1" * 5000 + "}", "thousands of digits|beyond the range|broken JSON"),
    ],
)
def test_values_that_crash_readers_are_told_alike_in_arrays_and_lines(text, message, as_lines, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(text if as_lines else f"[{text}]")
    with pytest.raises(InputError, match=rf"x\.json(, (line 1|sample 0))?: .*({message})"):
        list(read_samples(path))


@pytest.mark.parametrize("as_lines", [True, False])
def test_a_byte_order_mark_is_no_content(as_lines, tmp_path):
    path = write(tmp_path / "x.json", [LLAVA, LLAVA], lines=as_lines)
    plain = list(read_samples(path))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert list(read_samples(path)) == plain
    assert len(plain) == 2


def said(*texts: str, **last) -> list[dict]:
    """Turns of messages; `last` are fields of the last one."""
    made = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]
    return [*made[:-1], made[-1] | last]


@pytest.mark.parametrize("flag", [{"loss": False}, {"weight": 0}])
def test_answers_that_are_not_to_be_learnt_keep_their_flag(flag, tmp_path):
    (sample,) = read(tmp_path, {"messages": [*said("q", "no", **flag), *said("r", "yes", loss=True)]})
    assert [turn.get("supervised") for turn in sample["messages"]] == [None, False, None, None]
    assert contents(sample) == ["q", "no", "r", "yes"]


def test_a_system_prompt_of_any_name_is_the_system_turn(tmp_path):
    for name in ("system", "system_prompt"):
        (sample,) = read(tmp_path, {name: "Answer in French.", "conversations": turns("hello?", "bonjour")})
        assert sample["messages"][0] == {"role": "system", "content": "Answer in French."}


def test_images_are_read_where_rows_and_typed_parts_name_them(tmp_path):
    named = [{"type": "image", "image": "x.jpg"}, {"type": "text", "text": "q?"}]
    typed = {"messages": [{"role": "user", "content": named}, *said("", "a")[1:]]}
    row = {"messages": said("<image>q?", "a"), "images": [{"bytes": None, "path": "x.jpg"}]}
    for sample in read(tmp_path, typed, typed | {"images": ["x.jpg"]}, row):
        assert (sample["images"], contents(sample)) == (["x.jpg"], ["<image>q?", "a"])


OBJECTS = {"ref": ["cat"], "bbox": [[1, 2, 3, 4]]}


def boxed(**changes) -> dict:
    return {"messages": said("<image>Find <ref-object>", "<bbox>"), "images": ["x.jpg"], "objects": OBJECTS | changes}


def test_boxes_are_kept_with_what_they_are_of(tmp_path):
    plain, shares = read(tmp_path, boxed(), boxed(bbox_type="norm1", bbox=[[0.1, 0.2]], image_id=[0]))
    assert plain["objects"] == OBJECTS | {"bbox_type": "real", "image_id": [0]}
    assert shares["objects"] == {"ref": ["cat"], "bbox": [[0.1, 0.2]], "bbox_type": "norm1", "image_id": [0]}


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"messages": said("q", "bad"), "label": False}, 'field "label": samples of preferences'),
        ({"messages": said("q", "good"), "label": True}, 'field "label": samples of preferences'),
        ({"messages": said("q", "a"), "label": 3}, 'field "label": what is predicted here'),
        ({"conversations": turns("q", "a"), "images": [], "kto_tag": False}, 'field "kto_tag": samples of preferences'),
        ({"messages": said("q", "a"), "rejected_response": "bad"}, 'field "rejected_response": samples of'),
        ({"messages": said("q", "a"), "rejected_messages": said("q", "b")}, 'field "rejected_messages": samples of'),
        ({"conversations": turns("q", "a"), "chosen": "a", "rejected": "b"}, 'field "rejected": samples of'),
        ({"messages": said("q", "a"), "tools": "[]"}, 'field "tools": only images and text'),
        ({"messages": said("q", "a"), "history": [["a", "b"]]}, 'field "history": turns before the others'),
        ({"messages": said("q", "a"), "loss_scale": 0.5}, 'field "loss_scale": weights of the loss'),
        ({"messages": said("q", "a", loss=0.5)}, 'turn 1: field "loss" is 0.5; True or False is expected'),
        ({"messages": said("q", "a", loss="no")}, "turn 1: field \"loss\" is 'no'; True or False is expected"),
        ({"messages": said("q", "a", weight=0.5)}, 'turn 1: field "weight" is 0.5; 1 or 0 is expected'),
        ({"messages": said("q", "a", train=False)}, 'turn 1: field "train": is not read; use "loss"'),
        ({"messages": said("q", "a", tool_calls=[{}])}, 'turn 1: field "tool_calls": only images and text'),
        ({"messages": said("q", "a", reasoning_content="Hm")}, 'turn 1: field "reasoning_content": is not written'),
        (
            {"messages": [{"role": "user", "content": "q", "loss": True}, *said("q", "a")[1:]]},
            "a turn of the user; only",
        ),
        ({"messages": said("q", "a", loss=False)}, "no answer is to be learnt; remove the sample"),
        ({"conversations": turns("q", "a"), "system": "x", "system_prompt": "y"}, '"system_prompt" differ; keep one'),
        ({"conversations": turns("q", "a"), "system_prompt": 1}, 'field "system_prompt" is a int; give text'),
        ({"conversations": turns("<img>x.jpg</img> q", "a")}, "an image in a tag <img>"),
        ({"messages": said("<image>q", "a"), "images": [{"bytes": "x", "path": None}]}, 'field "images" is no path'),
        (boxed(bbox=[]), "1 <bbox> marks for 0 of its entries"),
        (boxed(ref=["cat", "dog"]), "1 <ref-object> marks for 2 of its entries"),
        (boxed(bbox=[[1, 2, 3]]), "bbox is no list of [x, y] and [left, top, right, bottom]"),
        (boxed(bbox=[[3, 2, 1, 4]]), "bbox is no list of [x, y] and [left, top, right, bottom]"),
        (boxed(bbox_type="norm1000"), "bbox_type is 'norm1000'; real (pixels) or norm1"),
        (boxed(image_id=[1]), "image_id 1 is no number of one of the 1 images"),
        (boxed(depth=[1]), "an object with ref, bbox, bbox_type and image_id is expected"),
    ],
)
def test_fields_that_change_the_meaning_are_never_dropped_silently(sample, message, tmp_path):
    with pytest.raises(InputError, match=re.escape(message)) as error:
        read(tmp_path, {"id": "x", "messages": None, "conversations": None} | sample)
    assert "samples.json, sample 0 (id x): " in str(error.value)


def test_empty_fields_of_other_forms_and_remarks_are_let_be(tmp_path):
    empty = {"tools": "", "videos": [], "rejected": None, "objects": {"ref": [], "bbox": []}, "label": "bus"}
    (sample,) = read(tmp_path, {"messages": said("q", "a", loss=None), "channel": "web", **empty})
    assert sample == {"id": "0", "index": 0, "images": [], "messages": said("q", "a")}
