"""train/dataset.py: what is kept, what is left out and why, and data sets that are there already."""

import copy
import json
import multiprocessing
import os
import re
import shutil
import signal
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageDraw, ImageOps

from models.errors import InputError
from tests.pictures import picture
from train.dataset import READY, Samples, prepare, read_rows
from train.encode import IGNORED, Encoder
from train.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "data/samples"


def sample(name: str, image: str | None = None, question: str = "What?", answer: str = "That.") -> dict:
    said = [{"from": "human", "value": f"<image>\n{question}" if image else question}, {"from": "gpt", "value": answer}]
    return {"id": name, "conversations": said} | ({"image": image} if image else {})


def write(path: Path, samples: list[dict]) -> Path:
    path.write_text(json.dumps(samples))
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Pictures that can be read, and some that cannot."""
    folder = tmp_path_factory.mktemp("images")
    for name, size in {"small": (60, 40), "wide": (200, 50), "red": (64, 64)}.items():
        picture(*size).save(folder / f"{name}.jpg")
    whole = (folder / "wide.jpg").read_bytes()
    (folder / "cut_head.jpg").write_bytes(whole[:20])
    (folder / "cut_body.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("no picture")
    (folder / "empty.jpg").write_bytes(b"")
    return folder


@pytest.fixture
def encoder(kits) -> Encoder:
    return Encoder(kits["llava"].processor)


@pytest.fixture
def settings(tmp_path, images) -> Settings:
    few = write(tmp_path / "few.json", [sample("a", "small.jpg"), sample("b"), sample("c", "wide.jpg")])
    (tmp_path / "run").mkdir()
    return Settings(data=[str(few)], image_folder=[str(images)], output_dir=str(tmp_path / "run"), num_workers=0)


def prepared(settings: Settings, encoder: Encoder) -> Samples:
    folder = Path(settings.output_dir) / "data"
    prepare(settings, encoder, folder)
    return Samples(folder, encoder)


def left_out(settings: Settings) -> list[dict]:
    return [json.loads(line) for line in (Path(settings.output_dir) / "dropped.jsonl").read_text().splitlines()]


def states(settings: Settings) -> dict[str, tuple]:
    """Inode and time of everything in the run's folder: what is written again differs."""
    paths = Path(settings.output_dir).rglob("*")
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def test_samples(settings, encoder):
    samples = prepared(settings, encoder)
    assert len(samples) == 3
    assert samples.has_image.tolist() == [True, False, True]
    assert samples.files.tolist() == [0, 0, 0]
    assert samples.dropped == {}
    assert left_out(settings) == []
    encoded = [samples[place] for place in range(3)]
    assert samples.lengths.tolist() == [len(one["labels"]) for one in encoded]
    assert [one["name"] for one in encoded] == [f"{settings.data[0]}, sample {i} (id {'abc'[i]})" for i in range(3)]
    assert "pixel_values" not in encoded[1]


def test_the_bundled_samples(settings, kit):
    settings.data, settings.image_folder = [str(SAMPLES / "instructions.json")], [str(SAMPLES / "photos")]
    samples = prepared(settings, Encoder(kit.processor))
    assert len(samples) == len(json.loads((SAMPLES / "instructions.json").read_text()))
    for place in range(0, len(samples), 7):
        assert len(samples[place]["labels"]) == samples.lengths[place]


def test_samples_that_are_too_long(settings, encoder):
    lengths = prepared(settings, encoder).lengths
    settings.cutoff_len = int(lengths[0])
    long = sample("d", question="Why? " * 100)
    write(Path(settings.data[0]), [sample("a", "small.jpg"), long, sample("c", "wide.jpg")])
    samples = prepared(settings, encoder)
    assert samples.lengths.tolist() == [lengths[0], lengths[2]]
    assert samples.dropped == {"over-long": 1}
    (line,) = left_out(settings)
    assert line["sample"] == f"{settings.data[0]}, sample 1 (id d)"
    assert line["dropped"] == "over-long"
    tokens = encoder.count_tokens(
        [{"role": "user", "content": "Why? " * 100}, {"role": "assistant", "content": "That."}], []
    )
    assert line["reason"] == f"{tokens} tokens, cutoff_len is {lengths[0]}"
    settings.cutoff_len -= 1
    with pytest.raises(InputError, match=r"data: no sample is left of 3; see .*dropped\.jsonl"):
        prepared(settings, encoder)
    assert len(left_out(settings)) == 3


def test_images_that_cannot_be_read(settings, encoder):
    names = ["missing", "small", "text", "empty", "cut_head"]
    write(Path(settings.data[0]), [sample(name, f"{name}.jpg") for name in names])
    samples = prepared(settings, encoder)
    assert [samples[0]["name"], len(samples)] == [f"{settings.data[0]}, sample 1 (id small)", 1]
    assert samples.dropped == {"unreadable image": 4}
    lines = left_out(settings)
    assert [line["sample"].split()[-1] for line in lines] == ["missing)", "text)", "empty)", "cut_head)"]
    assert {line["dropped"] for line in lines} == {"unreadable image"}
    assert lines[0]["reason"] == f"missing.jpg: not in {settings.image_folder[0]}"
    assert all(line["reason"] for line in lines)


def test_too_many_images_that_cannot_be_read(settings, encoder):
    names = ["small", "missing", "text"]
    write(Path(settings.data[0]), [sample(name, f"{name}.jpg") for name in names])
    settings.max_bad_samples = 1
    told = r"data: 2 samples without a readable image \(first: .*sample 1 \(id missing\).*more than max_bad_samples 1"
    with pytest.raises(InputError, match=told):
        prepared(settings, encoder)
    assert len(left_out(settings)) == 2
    assert not (Path(settings.output_dir) / "data").exists()
    settings.max_bad_samples = 2
    assert len(prepared(settings, encoder)) == 1


def test_a_picture_that_breaks_off_behind_its_head(settings, encoder):
    """Seen only when it is decoded, in training."""
    write(Path(settings.data[0]), [sample("a", "cut_body.jpg"), sample("b", "small.jpg")])
    samples = prepared(settings, encoder)
    assert len(samples) == 2
    assert samples[0].keys() == {"name", "bad"}
    assert samples[0]["name"] == f"{settings.data[0]}, sample 0 (id a)"
    assert "truncated" in samples[0]["bad"]
    assert "labels" in samples[1]


def test_a_picture_that_vanishes_after_it_was_measured(settings, encoder, tmp_path):
    (tmp_path / "own").mkdir()
    picture(40, 40).save(tmp_path / "own/a.png")
    settings.image_folder = [str(tmp_path / "own")]
    write(Path(settings.data[0]), [sample("a", "a.png")])
    samples = prepared(settings, encoder)
    (tmp_path / "own/a.png").unlink()
    assert "No such file" in samples[0]["bad"]


MALFORMED = {"id": "m", "conversations": [{"from": "human", "value": "And?"}]}


def test_malformed_samples(settings, encoder):
    write(Path(settings.data[0]), [sample("a"), MALFORMED, sample("c")])
    with pytest.raises(InputError, match=r"few\.json, sample 1 \(id m\): field \"conversations\": no question"):
        prepared(settings, encoder)
    assert not (Path(settings.output_dir) / "data").exists()
    settings.skip_malformed = True
    samples = prepared(settings, encoder)
    assert len(samples) == 2
    assert samples.dropped == {"malformed": 1}
    (line,) = left_out(settings)
    assert line["dropped"] == "malformed"
    assert "sample 1 (id m)" in line["reason"]


def test_samples_that_the_family_refuses(settings, kits):
    """By its chat template, among so many samples that several processes measure them."""
    processor = copy.copy(kits["gemma3"].processor)
    refusing = "{%- if 'bad' in messages[-1].content[0].text -%}{{ raise_exception('a bad word') }}{%- endif -%}"
    processor.chat_template = refusing + processor.chat_template
    encoder = Encoder(processor)
    write(Path(settings.data[0]), [sample(str(place)) for place in range(1001)] + [sample("t", answer="bad")])
    settings.num_workers = 2
    with pytest.raises(InputError, match=r"few\.json, sample 1001 \(id t\): .* refuses it \(a bad word\)"):
        prepared(settings, encoder)
    settings.skip_malformed = True
    samples = prepared(settings, encoder)
    assert len(samples) == 1001
    assert samples.dropped == {"malformed": 1}
    assert samples[1000]["name"].endswith("sample 1000 (id 1000)")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", r"few\.json: empty"),
        ("[]", r"few\.json: an empty array"),
        ('[{"id": 1, ', r"few\.json: broken JSON"),
        ("nonsense", r"few\.json, line 1: not JSON"),
    ],
)
def test_files_that_are_no_data(settings, encoder, content, told):
    Path(settings.data[0]).write_text(content)
    with pytest.raises(InputError, match=told):
        prepared(settings, encoder)


def test_files_and_folders_that_are_not_there(settings, encoder):
    with pytest.raises(InputError, match="data: nowhere.json: No such file or directory; give the path"):
        prepared(Settings(data=["nowhere.json"], output_dir=settings.output_dir), encoder)
    settings.image_folder = ["nowhere"]
    with pytest.raises(InputError, match="image_folder: .*nowhere: no such folder"):
        prepared(settings, encoder)


@pytest.mark.parametrize("folders", [1, 2])
def test_several_files(settings, encoder, images, tmp_path, folders):
    other = tmp_path / "other.jsonl"
    turns = [{"role": "user", "content": "Two: <image><image>"}, {"role": "assistant", "content": "Yes."}]
    other.write_text(json.dumps({"messages": turns, "images": ["small.jpg", "red.jpg"]}) + "\n")
    settings.data.append(str(other))
    if folders == 2:
        (tmp_path / "more").mkdir()
        for name in ("small", "red"):
            picture(33, 44).save(tmp_path / f"more/{name}.jpg")
        settings.image_folder.append(str(tmp_path / "more"))
    samples = prepared(settings, encoder)
    assert samples.files.tolist() == [0, 0, 0, 1]
    assert samples[3]["name"] == f"{other}, sample 0 (id 0)"
    assert len(samples[3]["pixel_values"]) == 2
    where = images if folders == 1 else tmp_path / "more"
    assert samples.rows[3]["images"] == [str(where / "small.jpg"), str(where / "red.jpg")]


def test_what_is_there_is_taken(settings, encoder):
    prepared(settings, encoder)
    before = states(settings)
    settings.learning_rate, settings.num_workers = 1.0, 2  # which do not matter
    prepared(settings, encoder)
    assert states(settings) == before


@pytest.mark.parametrize("change", ["file", "touched", "cutoff_len", "image_folder", "processor", "plain"])
def test_what_has_changed_is_made_anew(settings, kits, images, tmp_path, change):
    write(Path(settings.data[0]), [sample("a", "small.jpg"), sample("c", "wide.jpg")])
    encoder = Encoder(kits["qwen2_5_vl"].processor)
    old = prepared(settings, encoder).lengths.tolist()
    before = states(settings)
    if change == "file":
        write(Path(settings.data[0]), [sample("a", "small.jpg"), sample("d", "wide.jpg", question="What is this?")])
    elif change == "touched":
        os.utime(settings.data[0])
    elif change == "cutoff_len":
        settings.cutoff_len = old[0]
    elif change == "image_folder":
        (tmp_path / "more").mkdir()
        for name in ("small", "wide"):
            picture(150, 150).save(tmp_path / f"more/{name}.jpg")
        settings.image_folder = [str(tmp_path / "more")]
    elif change == "processor":
        encoder = Encoder(kits["qwen2_5_vl"].processor, image_max_pixels=28 * 28)
    elif change == "plain":
        encoder = Encoder(kits["qwen2_5_vl"].processor, plain=True)
    samples = prepared(settings, encoder)
    assert states(settings).keys() == before.keys()
    assert states(settings) != before
    assert (samples.lengths.tolist() != old) == (change != "touched")
    assert [len(samples[place]["labels"]) for place in range(len(samples))] == samples.lengths.tolist()


class Dying(Encoder):
    """Kills its process when it has measured some samples."""

    measured = 0

    def count_tokens(self, *arguments) -> int:
        self.measured += 1
        if self.measured == 30:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().count_tokens(*arguments)


def test_killed_while_preparing(settings, kits):
    """Nothing is there that looks ready, and the next start clears up."""
    write(Path(settings.data[0]), [sample(str(place), "small.jpg") for place in range(60)])
    dying = Dying(kits["llava"].processor)
    process = multiprocessing.get_context("fork").Process(target=prepared, args=(settings, dying))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    left = os.listdir(settings.output_dir)
    assert len(left) == 1  # the half-made one
    assert left[0].startswith(".data.")
    assert not list(Path(settings.output_dir).rglob(READY))
    assert len(prepared(settings, Encoder(kits["llava"].processor))) == 60
    assert sorted(os.listdir(settings.output_dir)) == ["data", "dropped.jsonl"]


@pytest.mark.parametrize("form", ["array", "lines"])
def test_memory_does_not_grow_with_the_file(settings, form):
    rows = [json.dumps(sample(str(place), answer="That. " * 1000)) for place in range(2000)]
    text = "[" + ",\n".join(rows) + "]" if form == "array" else "\n".join(rows)
    Path(settings.data[0]).write_text(text)
    del rows
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_rows(settings)) == 2000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(text) / 10


def test_a_data_set_on_disk_is_not_read_into_memory(settings, encoder):
    """Lengths and files are arrays; texts stay on disk."""
    samples = prepared(settings, encoder)
    assert samples.rows.cache_files
    assert samples.lengths.dtype == np.int64


def test_a_picture_too_thin_for_the_resize_is_left_out_by_name(settings, encoder, images, tmp_path):
    encoder = copy.copy(encoder)
    encoder.processor.image_processor = copy.deepcopy(encoder.processor.image_processor)
    encoder.processor.image_processor.size = {"shortest_edge": 336}  # as released; training asked for 27 GB
    folder = tmp_path / "images"
    shutil.copytree(images, folder)
    Image.new("RGB", (20_000, 1), "red").save(folder / "rule.png")
    os.mkfifo(folder / "pipe.png")
    settings.image_folder = [str(folder)]
    settings.data = [
        str(write(tmp_path / "thin.json", [sample("a", "rule.png"), sample("b", "small.jpg"), sample("c", "pipe.png")]))
    ]
    assert len(prepared(settings, encoder)) == 1
    thin, pipe = left_out(settings)
    assert thin["sample"].endswith("thin.json, sample 0 (id a)")
    assert thin["reason"].startswith(f"{folder}/rule.png: too thin: of 20000 x 1 px")
    assert pipe["reason"] == f"pipe.png: not in {folder}"


@pytest.mark.parametrize("answer", ["It is at [0.1, 0.2, 0.3, 0.4].", "(1,2),(30,40)", '{"bbox_2d": [1, 2, 30, 40]}'])
def test_a_box_in_words_about_a_picture_that_exif_turns_is_refused(settings, encoder, images, tmp_path, answer):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(images / "wide.jpg").save(tmp_path / "turned.jpg", exif=exif)
    settings.image_folder = [str(tmp_path)]
    write(Path(settings.data[0]), [sample("a", "turned.jpg", answer=answer)])
    with pytest.raises(
        InputError, match=r"sample 0 \(id a\): its text holds a box, and EXIF turns its image .*turned.jpg"
    ):
        prepared(settings, encoder)
    write(Path(settings.data[0]), [sample("a", "turned.jpg", answer="In 1999 and (2).")])
    assert len(prepared(settings, encoder)) == 1


def messages(*texts: str, **last) -> list[dict]:
    made = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]
    return [*made[:-1], made[-1] | last]


def test_an_answer_that_is_not_to_be_learnt_is_in_the_prompt_only(kit, settings, tmp_path):
    turns = [*messages("Who?", "NOTHING TO LEARN", loss=False), *messages("And?", "Learn this.")]
    settings.data = [str(write(tmp_path / "loss.json", [{"messages": turns}]))]
    encoder = Encoder(kit.processor)
    one = prepared(settings, encoder)[0]
    tokenizer = kit.processor.tokenizer
    learnt = tokenizer.decode(one["labels"][one["labels"] != IGNORED])
    assert "Learn this." in learnt
    assert "NOTHING" not in learnt
    assert "NOTHING TO LEARN" in tokenizer.decode(one["input_ids"])
    del turns[1]["loss"]
    both = Encoder(kit.processor).encode(turns, [])
    assert both["input_ids"].tolist() == one["input_ids"].tolist()
    last = tokenizer.decode(both["labels"][both["labels"] != IGNORED])
    assert last.endswith(learnt)
    assert len(last) > len(learnt)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["real", "norm1"])
def test_boxes_are_written_where_the_model_sees_the_thing(kits, settings, tmp_path, orientation, kind):
    """The place of the red square is found in the pixels that the processor gives."""
    processor = kits["qwen2_5_vl"].processor
    drawn = Image.new("RGB", (448, 280), "white")
    ImageDraw.Draw(drawn).rectangle((280, 28, 363, 223), fill="red")
    exif = Image.Exif()
    exif[0x0112] = orientation
    drawn.save(tmp_path / "1.png", exif=exif)
    box = [280, 28, 364, 224] if kind == "real" else [280 / 448, 0.1, 364 / 448, 0.8]
    objects = {"ref": ["square"], "bbox": [box], "bbox_type": kind}
    turns = messages("<image>Where is <ref-object>?", "At <bbox>.")
    settings.data = [str(write(tmp_path / "b.json", [{"messages": turns, "images": ["1.png"], "objects": objects}]))]
    settings.image_folder, settings.image_max_pixels = [str(tmp_path)], 448 * 280 // 4
    sample = prepared(settings, Encoder(processor, image_max_pixels=settings.image_max_pixels))[0]
    said = processor.tokenizer.decode(sample["labels"][sample["labels"] != IGNORED])
    written = [int(number) for number in re.findall(r"\d+", said)]
    _, rows, columns = (int(patches) * 14 for patches in sample["image_grid_thw"][0])
    upright = ImageOps.exif_transpose(Image.open(tmp_path / "1.png"))
    green = upright.resize((columns, rows), Image.Resampling.BOX).getchannel("G")
    seen = ImageChops.invert(green).point(lambda value: 255 * (value > 127)).getbbox()
    assert rows * columns <= settings.image_max_pixels
    assert written == pytest.approx(seen, abs=1)
    assert "Where is square?" in processor.tokenizer.decode(sample["input_ids"])


def test_boxes_for_a_processor_of_one_size_need_their_coordinates(settings, encoder, images, tmp_path):
    turns = messages("<image>Where?", "At <bbox> and <bbox>.")
    objects = {"bbox": [[20, 10, 100, 50], [50, 25]]}
    settings.data = [str(write(tmp_path / "b.json", [{"messages": turns, "images": ["wide.jpg"], "objects": objects}]))]
    with pytest.raises(
        InputError, match="has boxes, and this .* give box_coordinates, normalized_1 or normalized_1000"
    ):
        prepared(settings, encoder)
    settings.box_coordinates = "normalized_1"
    assert (
        prepared(settings, encoder).rows[0]["messages"][1]["content"] == "At [0.10, 0.20, 0.50, 1.00] and [0.25, 0.50]."
    )
    settings.box_coordinates = "normalized_1000"
    assert prepared(settings, encoder).rows[0]["messages"][1]["content"] == "At [100, 200, 500, 1000] and [250, 500]."
    objects["bbox"][0][2] = 201
    settings.data = [str(write(tmp_path / "b.json", [{"messages": turns, "images": ["wide.jpg"], "objects": objects}]))]
    with pytest.raises(InputError, match='field "objects": a box leaves its image of 200 x 50 px'):
        prepared(settings, encoder)


def test_images_out_of_the_folder_are_refused_by_name_or_followed(settings, encoder, images, tmp_path):
    settings.image_folder = [str(tmp_path / "run")]
    outside = str(images / "small.jpg")
    write(Path(settings.data[0]), [sample("a", outside), sample("b")])
    with pytest.raises(
        InputError, match=r"sample 0 \(id a\): image '.*small.jpg' lies outside .*run; .*--follow_paths"
    ):
        prepared(settings, encoder)
    settings.skip_malformed = True
    assert prepared(settings, encoder).dropped == {"malformed": 1}
    settings.follow_paths = True
    assert prepared(settings, encoder).rows[0]["images"] == [outside]
