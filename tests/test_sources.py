"""Every form of image-caption data is recognised and read lazily; damage is named; the sample is uniform."""

import io
import json
import os
import random
import shutil
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import data.sampling
from data.sampling import random_order, take_sample
from data.sources import Item, Source, find_source
from models.errors import InputError
from tests.captioned_pictures import crops, shard_members, write_captions, write_folder, write_tar


def read_all(path):
    return [(item.key, *item.load()) for part in find_source(path).parts for item in part()]


def write_parquet(path, pairs, image="image", caption="caption", struct=True, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": content, "path": "x.jpg"} if struct else content for content, _ in pairs]
    pq.write_table(pa.table({image: images, caption: [text for _, text in pairs]}), path, **options)
    return path


def write_shards(folder, pairs):
    write_tar(folder / "00000.tar", shard_members(pairs[:4]))
    write_tar(folder / "00001.tar", shard_members(pairs[4:]))
    return folder


def write_hub(folder, pairs):
    write_parquet(folder / "data" / "train-00000-of-00002.parquet", pairs[:4], caption="text", row_group_size=2)
    write_parquet(folder / "data" / "train-00001-of-00002.parquet", pairs[4:], caption="text")
    return folder


def write_plain_parquet(folder, pairs):
    return write_parquet(folder / "00000.parquet", pairs, image="jpg", caption="TEXT", struct=False)


FORMS = {
    "images": write_folder,
    "captions": write_captions,
    "tar": write_shards,
    "parquet": write_hub,
    "parquet file": write_plain_parquet,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_all_pairs_under_unique_keys(form, tmp_path):
    pairs = crops(7)
    path = FORMS[form](tmp_path / "source", pairs)
    assert find_source(path).form == form.split()[0]
    items = read_all(path)
    assert [(content, caption) for _, content, caption in items] == pairs
    assert len({key for key, _, _ in items}) == 7
    assert items == read_all(path)


def test_one_shard_is_a_source_and_the_ending_of_images_varies(tmp_path):
    members = []
    for suffix, form in ((".jpeg", "JPEG"), (".png", "PNG"), (".webp", "WEBP"), (".JPG", "JPEG")):
        buffer = io.BytesIO()
        Image.new("RGB", (40, 40), "red").save(buffer, form)
        members += [(f"a/{suffix[1:]}{suffix}", buffer.getvalue()), (f"a/{suffix[1:]}.txt", suffix.encode())]
    path = write_tar(tmp_path / "x.tar", members)
    assert [caption for _, _, caption in read_all(path)] == [".jpeg", ".png", ".webp", ".JPG"]


@pytest.mark.parametrize("layout", ["tar shards", "folders"])
def test_metadata_of_img2dataset_is_not_taken_for_images(layout, tmp_path):
    pairs = crops(3)
    pq.write_table(pa.table({"url": ["u"] * 3, "caption": ["c"] * 3}), tmp_path / "00000.parquet")
    (tmp_path / "00000_stats.json").write_text("{}")
    if layout == "folders":
        write_folder(tmp_path, pairs)
    else:
        write_tar(tmp_path / "00000.tar", shard_members(pairs))
    assert [caption for _, _, caption in read_all(tmp_path)] == [caption for _, caption in pairs]


def test_members_with_one_name_are_two_items(tmp_path):
    (image, _), *_ = crops(1)
    members = [("x.jpg", image), ("x.txt", b"one"), ("x.jpg", image), ("x.txt", b"two")]
    items = read_all(write_tar(tmp_path / "x.tar", members))
    assert [caption for _, _, caption in items] == ["one", "two"]
    assert items[0][0] != items[1][0]


@pytest.mark.parametrize("order", ["all pictures first", "all captions first", "shuffled"])
def test_a_shard_whose_members_are_not_ordered_by_key_is_read_rightly(order, tmp_path):
    pairs = crops(8)
    members = [*shard_members(pairs), ("lonely.jpg", pairs[0][0])]
    if order == "shuffled":
        random.Random(1).shuffle(members)
    else:
        members.sort(key=lambda member: member[0].endswith(".txt"), reverse=order == "all captions first")
    items = read_all(write_tar(tmp_path / "x.tar", members))
    assert len({key for key, _, _ in items}) == 9
    assert sorted((caption or "", content) for _, content, caption in items) == sorted(
        [("", pairs[0][0])] + [(caption, content) for content, caption in pairs]
    )
    assert [key for key, _, _ in items] == [key for key, _, _ in read_all(tmp_path / "x.tar")]


def test_pipes_among_pictures_are_missing_pictures(tmp_path):
    (image, _), *_ = crops(1)
    write_folder(tmp_path / "folder", [(image, "a")])
    os.mkfifo(tmp_path / "folder" / "pipe.jpg")
    (tmp_path / "folder" / "pipe.txt").write_text("b")
    (tmp_path / "folder" / "other.jpg").write_bytes(image)
    os.mkfifo(tmp_path / "folder" / "other.txt")
    found = {key: (content is not None, caption) for key, content, caption in read_all(tmp_path / "folder")}
    assert found == {"00000/000000.jpg": (True, "a"), "pipe.jpg": (False, "b"), "other.jpg": (True, None)}


@pytest.mark.parametrize("name", ["../secret.jpg", "images/../../secret.jpg", "{outside}/secret.jpg"])
def test_captions_name_no_pictures_out_of_their_folder(name, tmp_path):
    pairs = crops(2)
    write_captions(tmp_path / "source", pairs)
    (tmp_path / "secret.jpg").write_bytes(pairs[1][0])
    with open(tmp_path / "source" / "captions.jsonl", "a") as file:
        file.write(json.dumps({"image": name.format(outside=tmp_path), "caption": "x"}) + "\n")
    with pytest.raises(
        InputError, match=r'captions.jsonl, line 3: field "image": .*lies outside .*give --follow_paths'
    ):
        find_source(tmp_path / "source")
    followed = [item.load() for part in find_source(tmp_path / "source", follow_paths=True).parts for item in part()]
    assert followed[2] == (pairs[1][0], "x")


def test_links_that_the_folder_holds_are_followed_and_names_within_it_are_plain(tmp_path):
    pairs = crops(2)
    write_captions(tmp_path / "source", pairs)
    shutil.move(tmp_path / "source" / "images", tmp_path / "disk")
    (tmp_path / "source" / "images").symlink_to(tmp_path / "disk")
    lines = [
        {"image": "images/../images/0.jpg", "caption": "a"},
        {"image": str(tmp_path / "source" / "images" / "1.jpg"), "caption": "b"},
        {"image": "images/../0.jpg", "caption": "c"},  # beside the link, not beside what it leads to
    ]
    (tmp_path / "0.jpg").write_bytes(b"secret")
    (tmp_path / "source" / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [content for _, content, _ in read_all(tmp_path / "source")] == [pairs[0][0], pairs[1][0], None]


@pytest.mark.parametrize("cell", ["struct of bytes", "struct of a path", "struct without paths", "bytes", "path"])
def test_parquet_pictures_in_all_forms(cell, tmp_path):
    content = crops(1)[0][0]
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpg").write_bytes(content)
    both = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {
        "struct of bytes": pa.array([{"bytes": content, "path": "/gone.jpg"}, None], both),
        "struct of a path": pa.array([{"bytes": None, "path": "pictures/a.jpg"}, {"bytes": None, "path": None}], both),
        "struct without paths": pa.array([{"bytes": content}, None], pa.struct([("bytes", pa.binary())])),
        "bytes": pa.array([content, None]),
        "path": pa.array(["pictures/a.jpg", "pictures/none.jpg"]),
    }
    pq.write_table(pa.table({"image": columns[cell], "caption": ["a", "b"]}), tmp_path / "x.parquet")
    assert [(content, caption) for _, content, caption in read_all(tmp_path)] == [(content, "a"), (None, "b")]


@pytest.mark.parametrize("name", ["../a.jpg", "/etc/hostname"])
def test_a_parquet_names_no_pictures_out_of_its_folder(name, tmp_path):
    (tmp_path / "table").mkdir()
    (tmp_path / "a.jpg").write_bytes(crops(1)[0][0])
    pq.write_table(pa.table({"image": ["a.jpg", name], "caption": ["a", "b"]}), tmp_path / "table" / "x.parquet")
    with pytest.raises(
        InputError, match="x.parquet, row 1: its picture: .* lies outside .*; mend it, or give --follow"
    ):
        read_all(tmp_path / "table")


def test_what_is_missing_is_none_and_not_an_error(tmp_path):
    (image, _), *_ = crops(1)
    write_folder(tmp_path / "folder", [(image, "a")])
    (tmp_path / "folder" / "lonely.jpg").write_bytes(image)
    (tmp_path / "folder" / "latin.jpg").write_bytes(image)
    (tmp_path / "folder" / "latin.txt").write_bytes(b"caf\xe9")
    captions = {key: caption for key, _, caption in read_all(tmp_path / "folder")}
    assert captions == {"00000/000000.jpg": "a", "lonely.jpg": None, "latin.jpg": None}
    write_captions(tmp_path / "captions", [(image, "a")])
    (tmp_path / "captions" / "images" / "0.jpg").unlink()
    assert read_all(tmp_path / "captions")[0][1] is None


def test_hidden_files_are_left_out(tmp_path):
    pairs = crops(2)
    write_folder(tmp_path, pairs)
    write_folder(tmp_path / ".cache", pairs)
    (tmp_path / "00000" / "._000000.jpg").write_bytes(b"resource fork")
    assert len(read_all(tmp_path)) == 2


def test_a_change_of_the_files_changes_the_fingerprint(tmp_path):
    write_folder(tmp_path, crops(3))
    before = find_source(tmp_path).fingerprint
    assert find_source(tmp_path).fingerprint == before
    (tmp_path / "00000" / "000001.txt").write_text("another, longer caption")
    assert find_source(tmp_path).fingerprint != before


def test_a_change_of_the_pictures_in_captions_jsonl_changes_the_fingerprint(tmp_path):
    write_captions(tmp_path, crops(3))
    prints = {find_source(tmp_path).fingerprint}
    (tmp_path / "images" / "1.jpg").write_bytes(crops(4)[3][0] + b"x")
    prints.add(find_source(tmp_path).fingerprint)
    (tmp_path / "images" / "1.jpg").unlink()
    prints.add(find_source(tmp_path).fingerprint)
    assert len(prints) == 3


@pytest.mark.parametrize("name", ["", ".", "images", "a\0b.jpg", "x" * 300, "images/0.jpg/x.jpg", "\ud800.jpg"])
def test_a_name_that_can_be_no_file_is_a_missing_picture(name, tmp_path):
    pairs = crops(2)
    write_captions(tmp_path / "source", pairs)
    with open(tmp_path / "source" / "captions.jsonl", "a") as file:
        file.write(json.dumps({"image": name, "caption": "x"}) + "\n")
    sample = take_sample(find_source(tmp_path / "source"), 3, 0, 32, tmp_path / "work")
    assert sorted(picture.caption for picture in sample.pictures) == [caption for _, caption in pairs]
    assert sample.skipped == {"no_image": 1}


def test_the_source_must_be_there_and_recognised(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        find_source(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", __file__):
        with pytest.raises(InputError, match="nothing recognised.*captions.jsonl.*tar shards.*parquet"):
            find_source(path)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "x.jpg").write_bytes(crops(1)[0][0])
    with pytest.raises(InputError, match="nothing recognised"):
        find_source(tmp_path / "images")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "captions.jsonl, line 3: not JSON"),
        ("[]", "captions.jsonl, line 3: a list, not a JSON object"),
        ('{"image": "x.jpg"}', 'captions.jsonl, line 3: field "caption" is missing'),
        ('{"caption": "x"}', 'captions.jsonl, line 3: field "image" is missing'),
        ('{"image": "x.jpg", "caption": 5}', 'captions.jsonl, line 3: field "caption" is not text'),
    ],
)
def test_a_bad_line_is_named(line, message, tmp_path):
    write_captions(tmp_path, crops(2))
    with open(tmp_path / "captions.jsonl", "a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match=message):
        read_all(tmp_path)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.7, 0.95])
def test_a_truncated_tar_is_named(share, tmp_path):
    path = write_tar(tmp_path / "00000.tar", shard_members(crops(12)))
    end = sum(512 + -(-len(content) // 512) * 512 for _, content in shard_members(crops(12)))
    whole = path.read_bytes()
    for length in (int(end * share), int(end * share) // 512 * 512, end):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="00000.tar: damaged, cut short"):
            read_all(path)


def test_a_damaged_header_in_a_tar_is_named(tmp_path):
    path = write_tar(tmp_path / "00000.tar", shard_members(crops(4)))
    content = bytearray(path.read_bytes())
    at = content.index(b"000000002.jpg")
    content[at : at + 512] = b"\xff" * 512
    path.write_bytes(content)
    with pytest.raises(InputError, match="00000.tar: damaged"):
        read_all(path)


def test_a_corrupt_parquet_is_named(tmp_path):
    path = write_parquet(tmp_path / "x.parquet", crops(30))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="x.parquet: damaged"):
        find_source(path)
    path.write_bytes(whole[:400] + bytes(len(whole) // 2) + whole[400 + len(whole) // 2 :])
    with pytest.raises(InputError, match="x.parquet: damaged"):
        read_all(path)


def test_a_parquet_without_captions_is_named(tmp_path):
    path = write_parquet(tmp_path / "x.parquet", crops(2), caption="label")
    with pytest.raises(InputError, match="x.parquet: no column caption or text or TEXT; it has image, label"):
        read_all(path)


def test_reading_is_lazy(tmp_path):
    """A later shard may be damaged: the items before it come all the same."""
    write_shards(tmp_path, crops(8))
    (tmp_path / "00001.tar").write_bytes(b"no tar at all" * 100)
    parts = find_source(tmp_path).parts
    assert len(list(parts[0]())) == 4
    with pytest.raises(InputError, match="00001.tar"):
        list(parts[1]())


def peak_memory(action) -> int:
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_source(tmp_path):
    image = crops(1)[0][0]
    tiny = [(f"{index}.{end}", b"x") for index in range(2000) for end in ("jpg", "txt")]
    many = find_source(write_tar(tmp_path / "many.tar", tiny))
    assert peak_memory(lambda: [0 for item in many.parts[0]() if not item.key]) < 700_000
    # Padding behind the end of a JPEG is no harm: 24 MB of images that can all be decoded.
    heavy = [(image + bytes(200_000), f"caption {index}") for index in range(120)]
    for path in (
        write_tar(tmp_path / "heavy.tar", shard_members(heavy)),
        write_parquet(tmp_path / "heavy.parquet", heavy, row_group_size=8, compression="none"),
    ):
        work = tmp_path / f"work {path.suffix}"
        assert peak_memory(lambda path=path, work=work: take_sample(find_source(path), 60, 0, 32, work)) < 6_000_000


def numbered_source(count: int, image: bytes, loaded: list[int] | None = None, fail_at: int | None = None) -> Source:
    """A source of `count` items in parts of 10 that notes what was read and may break off."""

    def load(index):
        if loaded is not None:
            loaded.append(index)
        return image, f"caption {index}"

    def part(start):
        for index in range(start, min(start + 10, count)):
            if index == fail_at:
                raise InputError("the disk is gone")
            yield Item(str(index), lambda index=index: load(index))

    return Source("numbers", "", [lambda start=start: part(start) for start in range(0, count, 10)])


def sampled(sample) -> list[int]:
    return [int(picture.caption.split()[1]) for picture in sample.pictures]


@pytest.fixture
def tiny_image() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), "blue").save(buffer, "PNG")
    return buffer.getvalue()


def test_the_sample_is_uniform_over_the_source(tmp_path, tiny_image):
    """Chi-square over tenths of the source and over places in the sample: 9 degrees of freedom, p > 0.001."""
    source = numbered_source(200, tiny_image)
    tenths, first = [0] * 10, [0] * 10
    for seed in range(150):
        numbers = sampled(take_sample(source, 10, seed, 32, tmp_path / str(seed)))
        assert len(set(numbers)) == 10
        first[numbers[0] // 20] += 1
        for number in numbers:
            tenths[number // 20] += 1
    for counts, total in ((tenths, 1500), (first, 150)):
        assert sum((count - total / 10) ** 2 / (total / 10) for count in counts) < 27.9


def test_a_smaller_sample_is_the_beginning_of_a_larger_one(tmp_path, tiny_image):
    source = numbered_source(100, tiny_image)
    large, small = (sampled(take_sample(source, count, 3, 32, tmp_path / str(count))) for count in (40, 15))
    assert large[:15] == small
    assert sampled(take_sample(source, 15, 4, 32, tmp_path / "other seed")) != small


def test_only_candidates_are_read(tmp_path, tiny_image):
    loaded = []
    sample = take_sample(numbered_source(5000, tiny_image, loaded), 20, 0, 32, tmp_path)
    assert sample.items == 5000
    assert sample.candidates == len(loaded) < 250  # 20 * (1 + ln(5000 / 20)) = 130 are expected
    kept = {path.name for path in (tmp_path / "pool").iterdir()}
    assert kept == {picture.file for picture in sample.pictures}


def test_unusable_items_are_counted_by_reason_and_never_sampled(tmp_path):
    (image, _), (small, _) = crops(1)[0], crops(1, size=(100, 31))[0]
    folder = write_captions(
        tmp_path / "source",
        [(image, "good"), (image, " \n "), (image[:900], "cut"), (b"text", "no image"), (small, "small"), (image, "x")],
    )
    (folder / "images" / "5.jpg").unlink()
    sample = take_sample(find_source(folder), 6, 0, 32, tmp_path / "work")
    assert [picture.caption for picture in sample.pictures] == ["good"]
    assert sample.skipped == {"no_caption": 1, "no_image": 1, "too_small": 1, "undecodable": 2}
    assert len(take_sample(find_source(folder), 6, 0, 31, tmp_path / "work 31").pictures) == 2


def test_captions_lose_line_breaks_and_what_cannot_be_written(tmp_path):
    (image, _), *_ = crops(1)
    folder = write_captions(tmp_path / "source", [(image, "two\n lines \ud800 and\tmore")])
    assert take_sample(find_source(folder), 1, 0, 32, tmp_path / "work").pictures[0].caption == "two lines and more"


def test_a_broken_pass_goes_on_where_it_was(tmp_path, tiny_image, monkeypatch):
    unbroken = take_sample(numbered_source(100, tiny_image), 12, 0, 32, tmp_path / "unbroken")
    work, loaded = tmp_path / "broken", []
    monkeypatch.setattr(data.sampling, "CHECKPOINT_SECONDS", -1)
    for fail_at in (3, 47, 99):
        with pytest.raises(InputError):
            take_sample(numbered_source(100, tiny_image, loaded, fail_at), 12, 0, 32, work)
    resumed = take_sample(numbered_source(100, tiny_image, loaded), 12, 0, 32, work)
    assert resumed == unbroken
    # Each break costs the one item after the last written state, at most.
    assert len(loaded) <= unbroken.candidates + 3
    assert all((work / "pool" / picture.file).read_bytes() == tiny_image for picture in resumed.pictures)
    state = json.loads((work / "sample.json").read_text())
    assert take_sample(numbered_source(100, tiny_image, fail_at=0), 12, 0, 32, work) == unbroken
    assert json.loads((work / "sample.json").read_text()) == state


def test_a_broken_pass_may_lose_what_it_did_after_the_last_written_state(tmp_path, tiny_image, monkeypatch):
    unbroken = take_sample(numbered_source(100, tiny_image), 12, 0, 32, tmp_path / "unbroken")
    work = tmp_path / "broken"
    for seconds, fail_at in ((-1, 30), (600, 90)):
        monkeypatch.setattr(data.sampling, "CHECKPOINT_SECONDS", seconds)
        with pytest.raises(InputError):
            take_sample(numbered_source(100, tiny_image, fail_at=fail_at), 12, 0, 32, work)
    held = json.loads((work / "sample.json").read_text())["pictures"]
    assert all((work / "pool" / file).exists() for _, _, file in held.values())
    assert take_sample(numbered_source(100, tiny_image), 12, 0, 32, work) == unbroken


def test_random_order_gives_every_number_once_and_every_order():
    assert sorted(random_order("a", 50)) == list(range(50))
    assert list(random_order("a", 50)) != list(random_order("b", 50))
    orders = [tuple(random_order(str(seed), 3)) for seed in range(600)]
    assert all(70 <= orders.count(order) <= 130 for order in set(orders))
    assert len(set(orders)) == 6
