"""Drawing instruction samples: what is chosen, what is written, what is refused, and what a kill leaves."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import datasets
import pytest
from PIL import Image

from data.instruction_formats import typed_parts
from data.instructions import read_samples
from data.sample_folder import publish
from data.sample_instructions import main
from models.errors import InputError
from tests.captioned_pictures import PHOTOS, read_tree

SCRIPT = Path(__file__).parent.parent / "data" / "sample_instructions.py"
FILES = ["dataset_info.json", "llava.json", "manifest.json", "sharegpt.json", "trl.json"]
NAMES = {
    "coco/train2017": ["000001.jpg", "000002.jpg", "000003.jpg"],
    "gqa/images": ["2.jpg"],
    "ocr_vqa/images": ["0001.jpg", "0002.jpg"],
    "textvqa/train_images": ["a.jpg"],
    "vg/VG_100K": ["7.jpg"],
    "vg/VG_100K_2": ["8.jpg", "9.jpg"],
}
PICTURES = [f"{folder}/{name}" for folder, names in NAMES.items() for name in names]


def conversation(number: int, image: bool = True) -> list[dict]:
    question = f"<image>\nQuestion {number}?" if image else f"Question {number}?"
    return [{"from": "human", "value": question}, {"from": "gpt", "value": f"Answer {number}: café."}]


def llava_samples(count: int) -> list[dict]:
    """Every fifth is text only, as the ShareGPT part of the 665k mix is."""
    samples = []
    for number in range(count):
        image = {"image": PICTURES[(number + number // 5) % len(PICTURES)]} if number % 5 else {}
        samples.append({"id": f"id{number}", **image, "conversations": conversation(number, bool(image)), "n": 1.5})
    return samples


def write(path: Path, samples: list) -> Path:
    path.write_text(json.dumps(samples), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """LLaVA's layout with the bundled photographs; the second picture of ocr_vqa is a GIF, and none is missing."""
    root = tmp_path_factory.mktemp("playground")
    photos = sorted(PHOTOS.glob("*.jpg"))
    for number, name in enumerate(PICTURES):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photos[number % len(photos)], root / name)
    Image.open(root / "ocr_vqa/images/0002.jpg").save(root / "ocr_vqa/images/0002.gif")
    (root / "ocr_vqa/images/0002.jpg").unlink()
    return root


@pytest.fixture(scope="module")
def mix(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("mix") / "mix.json", llava_samples(100))


def sample(mix: Path, folder: Path, out: Path, count: int = 20, *flags: str) -> list[dict]:
    flags = [str(flag) for flag in ("--num_samples", count, *flags)]
    main(["--input", str(mix), "--image_folder", str(folder), "--output_dir", str(out), *flags])
    return json.loads((out / "llava.json").read_text())


def ids(rows: list[dict]) -> list[str]:
    return [row["id"] for row in rows]


def test_the_chosen_are_the_original_objects_with_an_image(mix, folder, tmp_path):
    rows = sample(mix, folder, tmp_path / "out")
    originals = {row["id"]: row for row in llava_samples(100)}
    assert len(rows) == len(set(ids(rows))) == 20
    assert all(row == originals[row["id"]] and "image" in row for row in rows)
    assert sorted(os.listdir(tmp_path / "out")) == FILES
    assert os.listdir(tmp_path) == ["out"]


def test_all_formats_hold_the_same_samples_with_images_as_found(mix, folder, tmp_path):
    rows = sample(mix, folder, tmp_path / "out", 80)
    read = list(read_samples(tmp_path / "out" / "llava.json"))
    shared = json.loads((tmp_path / "out" / "sharegpt.json").read_text())
    assert ids(rows) == ids(read) == ids(shared)
    assert [row["messages"] for row in shared] == [row["messages"] for row in read]
    assert all((folder / name).is_file() for row in shared for name in row["images"])
    renamed = {"ocr_vqa/images/0002.jpg": "ocr_vqa/images/0002.gif"}
    assert [row["images"] for row in shared] == [[renamed.get(row["image"], row["image"])] for row in rows]
    assert {"ocr_vqa/images/0002.gif"} <= {row["images"][0] for row in shared}
    again = list(read_samples(tmp_path / "out" / "sharegpt.json"))
    assert [row["messages"] for row in again] == [row["messages"] for row in read]
    typed = list(read_samples(tmp_path / "out" / "trl.json"))
    assert [row["images"] for row in typed] == [row["images"] for row in shared]
    for row, plain in zip(typed, shared, strict=True):
        assert [turn["content"].replace("<image>", "<image>\n") for turn in row["messages"]] == [
            turn["content"] for turn in plain["messages"]
        ]


def test_samples_in_messages_form_are_put_into_llavas(folder, tmp_path):
    turns = [{"role": "user", "content": "<image>Who?<image>"}, {"role": "assistant", "content": "Cats."}]
    turns = [{"role": "system", "content": "Be short."}, *turns]
    mix = write(tmp_path / "mix.json", [{"messages": turns, "images": [PICTURES[0], "ocr_vqa/images/0002.png"]}])
    (row,) = sample(mix, folder, tmp_path / "out", 1)
    assert row["image"] == [PICTURES[0], "ocr_vqa/images/0002.gif"]
    assert [turn["from"] for turn in row["conversations"]] == ["system", "human", "gpt"]
    assert next(read_samples(tmp_path / "out" / "llava.json"))["messages"] == turns


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("Hi\n", ["Hi\n"]),
        ("", [""]),
        ("<image>", [None]),
        ("<image>\nWho?", [None, "Who?"]),
        ("First <image>\n<image>, then?", ["First ", None, None, ", then?"]),
    ],
)
def test_typed_parts(content, parts):
    expected = [{"type": "image"} if text is None else {"type": "text", "text": text} for text in parts]
    assert typed_parts(content) == expected


def test_llama_factory_finds_its_columns_and_roles(mix, folder, tmp_path):
    """Reads the entry as LLaMA-Factory does: file and columns by name, roles by tag, marks counted in the text."""
    out = tmp_path / "out"
    sample(mix, folder, out, 100, "--include_text_only")
    (name, entry) = json.loads((out / "dataset_info.json").read_text()).popitem()
    assert name == "llava_instruct_100"
    assert entry["formatting"] == "sharegpt"
    rows = datasets.load_dataset(
        "json", data_files=str(out / entry["file_name"]), split="train", cache_dir=str(tmp_path / "cache")
    )
    tags = entry["tags"]
    assert len(rows) == 100
    for row in rows:
        turns = row[entry["columns"]["messages"]]
        assert [turn[tags["role_tag"]] for turn in turns] == [tags["user_tag"], tags["assistant_tag"]]
        text = "".join(turn[tags["content_tag"]] for turn in turns)
        assert text.count("<image>") == len(row[entry["columns"]["images"]])


def test_the_name_in_dataset_info_says_the_size(tmp_path):
    many = [{"id": number, "image": "a.jpg", "conversations": conversation(number)} for number in range(1000)]
    main(["--input", str(write(tmp_path / "m", many)), "--output_dir", str(tmp_path / "out"), "--no_image_check"]
         + ["--num_samples", "1000"])  # fmt: skip
    assert list(json.loads((tmp_path / "out" / "dataset_info.json").read_text())) == ["llava_instruct_1k"]


def test_absolute_images_are_found_from_anywhere(mix, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder.parent)
    rows = sample(mix, Path(folder.name), tmp_path / "out", 20, "--absolute_images")
    for name in ("sharegpt.json", "trl.json"):
        for row in json.loads((tmp_path / "out" / name).read_text()):
            assert Path(row["images"][0]).is_absolute()
            assert Path(row["images"][0]).is_file()
    assert not any(Path(row["image"]).is_absolute() for row in rows)


def test_the_draw_depends_on_seed_and_input_only_and_small_ones_begin_large_ones(mix, folder, tmp_path):
    rows = sample(mix, folder, tmp_path / "one")
    sample(mix, folder, tmp_path / "two")
    assert read_tree(tmp_path / "one") == read_tree(tmp_path / "two")
    assert ids(sample(mix, folder, tmp_path / "large", 60))[:20] == ids(rows)
    assert ids(sample(mix, folder, tmp_path / "seed", 20, "--seed", "1")) != ids(rows)
    assert ids(rows) != sorted(ids(rows))


def test_every_sample_is_as_likely_as_every_other(folder, tmp_path):
    """100 draws of 5 of 20: 25 expected each, and chi-square of 19 degrees below its 99.9th percentile."""
    mix = write(tmp_path / "mix.json", [row for row in llava_samples(25) if "image" in row])
    chosen, first = Counter(), Counter()
    for seed in range(100):
        rows = sample(mix, folder, tmp_path / "out", 5, "--seed", str(seed), "--no_image_check", "--overwrite")
        chosen.update(ids(rows))
        first.update(ids(rows)[:1])
    assert len(chosen) == 20
    # Draws without replacement vary less than independent ones: by 15 / 19.
    assert sum((number - 25) ** 2 / 25 for number in chosen.values()) * 19 / 15 < 43.8
    assert sum((first[name] - 5) ** 2 / 5 for name in chosen) < 43.8


def test_text_only_samples_come_when_asked_for(mix, folder, tmp_path, capsys):
    rows = sample(mix, folder, tmp_path / "out", 100, "--include_text_only")
    assert sum("image" not in row for row in rows) == 20
    lines = {line.rsplit(maxsplit=3)[0]: line.split()[-3:] for line in capsys.readouterr().out.splitlines()[1:8]}
    assert lines["text only"] == ["20", "20", "0"]
    sample(mix, folder, tmp_path / "images", 40)
    lines = {line.rsplit(maxsplit=3)[0]: line.split()[-3:] for line in capsys.readouterr().out.splitlines()[1:8]}
    assert lines["text only"] == ["20", "0", "0"]
    assert sum(int(row[1]) for row in lines.values()) == 40
    assert set(lines) == {*NAMES, "text only"}


@pytest.fixture
def holey(folder, tmp_path) -> Path:
    """The pictures without three files."""
    root = shutil.copytree(folder, tmp_path / "holey")
    for name in ("coco/train2017/000001.jpg", "vg/VG_100K_2/8.jpg", "ocr_vqa/images/0002.gif"):
        (root / name).unlink()
    return root


def lacking(names: set[str]) -> int:
    return sum(row.get("image") in names for row in llava_samples(100))


def test_missing_images_are_counted_listed_and_an_error(mix, holey, tmp_path):
    out = tmp_path / "below" / "out"
    names = {"coco/train2017/000001.jpg", "vg/VG_100K_2/8.jpg", "ocr_vqa/images/0002.jpg"}
    expected = (
        f"{lacking(names)} samples lack an image .*vg/VG_100K_2 {lacking({'vg/VG_100K_2/8.jpg'})}.*--skip_missing"
    )
    with pytest.raises(InputError, match=expected) as error:
        sample(mix, holey, out)
    assert "\n" not in str(error.value)
    assert os.listdir(out.parent) == ["out.missing.txt"]
    assert (out.parent / "out.missing.txt").read_text().splitlines() == sorted(names)


def test_missing_images_are_dropped_before_the_draw_when_asked(mix, folder, holey, tmp_path):
    with pytest.raises(InputError):
        sample(mix, holey, tmp_path / "out", 40)
    rows = sample(mix, holey, tmp_path / "out", 40, "--skip_missing")
    assert len(rows) == 40
    assert not (tmp_path / "out.missing.txt").exists()
    assert all((holey / row["image"]).is_file() for row in rows)
    whole = sample(mix, folder, tmp_path / "whole", 80)
    assert ids(rows) == [row["id"] for row in whole if (holey / row["image"]).is_file()][:40]
    counts = json.loads((tmp_path / "out" / "manifest.json").read_text())["by_data_set"]
    assert counts["vg/VG_100K_2"]["missing"] == lacking({"vg/VG_100K_2/8.jpg"})


def test_malformed_samples_stop_the_draw_or_are_counted(folder, tmp_path, capsys):
    samples = llava_samples(30)
    samples[7]["conversations"][0]["value"] = "no mark"
    mix = write(tmp_path / "mix.json", samples)
    with pytest.raises(
        InputError, match=r"sample 7 \(id id7\).*0 <image> marks for 1 images.*or give --skip_malformed"
    ):
        sample(mix, folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    rows = sample(mix, folder, tmp_path / "out", 23, "--skip_malformed")
    assert "id7" not in ids(rows)
    assert "malformed and left out: 1; the first: " in capsys.readouterr().out
    with pytest.raises(InputError, match=r"23 usable samples .0 lack an image, 1 are malformed, 6 have none.,"):
        sample(mix, folder, tmp_path / "more", 24, "--skip_malformed")


def test_text_only_samples_that_are_not_drawn_from_need_not_be_well_formed(folder, tmp_path):
    mix = write(tmp_path / "mix.json", [{"id": 1, "conversations": [{"from": "gpt", "value": "x"}]}, *llava_samples(6)])
    assert len(sample(mix, folder, tmp_path / "out", 4)) == 4
    with pytest.raises(InputError, match="sample 0 .id 1.*no question with an answer"):
        sample(mix, folder, tmp_path / "other", 4, "--include_text_only")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num_samples", "0"], "--num_samples 0: must be 1 or more"),
        (["--num_samples", "81"], "80 usable samples .* fewer than --num_samples 81; lower it"),
        (["--no_image_check", "--skip_missing"], "--no_image_check: --skip_missing needs the check"),
        (["--image_folder", "/none"], "--image_folder /none: no such folder"),
        (["--input", "/none.json"], "--input /none.json: cannot be read .No such file"),
        (["--seed", "x"], "argument --seed: invalid int value"),
    ],
)
def test_wrong_arguments_are_one_line_and_leave_nothing(flags, message, mix, folder, tmp_path):
    with pytest.raises(InputError, match=message) as error:
        sample(mix, folder, tmp_path / "out", 20, *flags)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_the_image_folder_is_needed_for_what_uses_it(mix, tmp_path):
    for flags in ([], ["--no_image_check", "--absolute_images"]):
        with pytest.raises(InputError, match="--image_folder: missing"):
            main(["--input", str(mix), "--output_dir", str(tmp_path / "out"), *flags])


def test_a_finished_sample_is_left_alone_and_another_refused(mix, folder, tmp_path, capsys):
    out = tmp_path / "out"
    sample(mix, folder, out)
    before, times = read_tree(out), {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    capsys.readouterr()
    sample(mix, folder, out)
    assert "complete; nothing to do" in capsys.readouterr().out
    assert times == {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with pytest.raises(InputError, match=r"holds another sample \(seed 0 there, 1 here\).*--overwrite"):
        sample(mix, folder, out, 20, "--seed", "1")
    with pytest.raises(InputError, match="fewer than"):
        sample(mix, folder, out, 99, "--overwrite")
    assert read_tree(out) == before
    (out / "llava.json").unlink()
    sample(mix, folder, out)
    assert read_tree(out) == before
    sample(mix, folder, out, 20, "--seed", "1", "--overwrite")
    sample(mix, folder, tmp_path / "fresh", 20, "--seed", "1")
    assert read_tree(out) == read_tree(tmp_path / "fresh")
    assert sorted(os.listdir(tmp_path)) == ["fresh", "out"]


def test_folders_that_are_not_a_samples_are_kept(mix, folder, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="--output_dir .*file: a file"):
        sample(mix, folder, tmp_path / "file")
    for below in (tmp_path / "file" / "below" / "out", Path("/proc/nowhere/out")):
        with pytest.raises(InputError, match="--output_dir .*cannot be made"):
            sample(mix, folder, below)
    with pytest.raises(InputError, match=r"holds files of other origin \(file\)"):
        sample(mix, folder, tmp_path, 20, "--overwrite")
    out = tmp_path / "out"
    (out / "empty").mkdir(parents=True)
    sample(mix, folder, out / "empty")
    (out / "empty" / "notes.txt").write_text("mine")
    sample(mix, folder, out / "empty")
    with pytest.raises(InputError, match="holds notes.txt too, which would be lost"):
        sample(mix, folder, out / "empty", 20, "--overwrite")
    (out / "empty" / "llava.json").unlink()
    with pytest.raises(InputError, match="holds notes.txt too, which would be lost"):
        sample(mix, folder, out / "empty")
    (out / "empty" / "manifest.json").write_text(json.dumps({"identity": {"build": "probe"}}))
    with pytest.raises(InputError, match="holds files of other origin"):
        sample(mix, folder, out / "empty", 20, "--overwrite")
    assert (out / "empty" / "notes.txt").read_text() == "mine"


def test_a_full_disk_keeps_the_old_folder(mix, folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    sample(mix, folder, out)
    before = read_tree(out)
    rename, calls = os.rename, []

    def second_fails(source, target):
        calls.append(source)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", second_fails)
    with pytest.raises(InputError, match="cannot be written .No space left"):
        sample(mix, folder, out, 20, "--seed", "1", "--overwrite")
    assert len(calls) == 3
    assert read_tree(out) == before
    assert os.listdir(tmp_path) == ["out"]


def test_a_second_run_that_was_slower_keeps_what_the_first_wrote(mix, folder, tmp_path):
    sample(mix, folder, tmp_path / "out")
    identity = json.loads((tmp_path / "out" / "manifest.json").read_text())["identity"]
    publish(tmp_path / "out", identity, {"manifest.json": "{}"}, overwrite=False)
    assert sorted(os.listdir(tmp_path / "out")) == FILES
    with pytest.raises(InputError, match="holds another sample"):
        publish(tmp_path / "out", identity | {"seed": 3}, {"manifest.json": "{}"}, overwrite=False)
    assert os.listdir(tmp_path) == ["out"]


def test_a_killed_run_leaves_all_or_nothing_and_can_be_repeated(folder, tmp_path):
    samples = [
        {"id": number, "image": PICTURES[number % 10], "conversations": conversation(number)} for number in range(3000)
    ]
    for row in samples:
        row["conversations"][1]["value"] += "word " * 1000
    mix, out = write(tmp_path / "mix.json", samples), tmp_path / "out"
    command = [sys.executable, SCRIPT, "--input", mix, "--image_folder", folder, "--output_dir", out]
    command += ["--num_samples", "3000"]
    for moment in (".out.*.half", ".out.*.half/new/llava.json", ".out.*.half/new/sharegpt.json"):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not list(tmp_path.glob(moment)) and process.poll() is None:
            time.sleep(0.001)
        process.kill()
        status = process.wait()
        assert status in (0, -signal.SIGKILL)  # on a busy machine it can end before the kill comes
        assert not out.exists() or sorted(os.listdir(out)) == FILES
        shutil.rmtree(out, ignore_errors=True)
    assert status == 0 or list(tmp_path.glob(".out.*"))
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert not list(tmp_path.glob(".out.*"))  # what the killed runs had left is gone
    assert len(json.loads((out / "llava.json").read_text())) == 3000


def test_help_and_bad_input_of_the_script_from_any_folder(tmp_path):
    run = {"capture_output": True, "text": True, "cwd": tmp_path}
    helped = subprocess.run([sys.executable, SCRIPT, "--help"], **run)
    assert helped.returncode == 0
    assert "--skip_missing" in helped.stdout
    result = subprocess.run([sys.executable, SCRIPT, "--input", "none.json", "--output_dir", "out"], **run)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: --image_folder: missing; give the folder that the images' names start from\n"


@pytest.mark.parametrize("which", ["loss", "objects"])
def test_what_only_training_here_reads_is_refused_for_the_other_formats(tmp_path, which):
    turns = [{"role": "user", "content": "<image>Q"}, {"role": "assistant", "content": "no <bbox>"}]
    more = {"loss": {}, "objects": {"objects": {"bbox": [[1, 2, 3, 4]]}}}[which]
    if which == "loss":
        turns = [*turns[:1], turns[1] | {"loss": False}, {"role": "user", "content": "R"}, turns[1]]
    source = tmp_path / "samples.json"
    source.write_text(json.dumps([{"messages": turns, "images": ["a.jpg"], **more}]))
    with pytest.raises(
        InputError, match=r"sample 0 \(id 0\): .* cannot be written for all of LLaVA, LLaMA-Factory and TRL"
    ):
        main(["--input", str(source), "--no_image_check", "--output_dir", str(tmp_path / "out"), "--num_samples", "1"])
