"""The probe: its rows, its canvases, its reproducibility, and what a kill or a wrong argument does."""

import itertools
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

import data.sampling
from data.build_probe import main
from data.canvas import cell_corners, decode, fit, make_layout
from data.grid import cell_names
from data.output_folder import _lock, open_build
from data.sampling import take_sample
from data.sources import FORMS, find_source
from models.errors import InputError
from tests.captioned_pictures import (
    crops,
    difference,
    read_tree,
    shard_members,
    write_captions,
    write_folder,
    write_tar,
)

SCRIPT = Path(__file__).parent.parent / "data" / "build_probe.py"
SMALL = ["--layout", "even", "--canvas", "210", "--workers", "1"]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("source"), crops(14))


def build(source, folder, count=14, *flags) -> list[dict]:
    flags = [str(flag) for flag in (*SMALL, *flags)]
    main(["--source", str(source), "--output_dir", str(folder), "--num_captions", str(count), *flags])
    return [json.loads(line) for line in (folder / "probe.jsonl").read_text().splitlines()]


def command(source: Path, folder: Path, count: int = 14) -> list:
    return [sys.executable, SCRIPT, "--source", source, "--output_dir", folder, "--num_captions", str(count)]


def cell_of(canvas: Image.Image, layout, k: int) -> Image.Image:
    left, top = cell_corners(layout)[k]
    return canvas.crop((left, top, left + layout.cell, top + layout.cell))


def test_rows_and_images_are_the_papers(source, tmp_path):
    rows = build(source, tmp_path)
    assert [row["id"] for row in rows] == [f"{caption:06d}_{k}" for caption in range(14) for k in range(9)]
    assert [row["position"] for row in rows] == list(cell_names(3)) * 14
    assert {row["answer"] for row in rows} == {"Yes"}
    assert list(rows[0]) == ["id", "image", "caption", "position", "answer"]
    assert {row["image"] for row in rows} == {path.name for path in (tmp_path / "images").iterdir()}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "manifest.json", "probe.jsonl"]


@pytest.mark.parametrize("grid", [3, 2, 4])
def test_the_target_is_in_cell_k_and_distractors_keep_their_order(grid, source, tmp_path):
    pictures = {}
    if grid == 4:
        source = write_folder(tmp_path / "more", crops(17))
    for text in source.rglob("*.txt"):
        pictures[text.read_text()] = text.with_suffix(".jpg").read_bytes()
    rows = build(source, tmp_path / "out", len(pictures), "--grid", grid)[: 5 * grid * grid]
    layout = make_layout(grid, 210, None, 4, 8)
    fitted = {}
    for caption, content in pictures.items():
        fitted[caption] = Image.new("RGB", (layout.cell, layout.cell), "white")
        picture = fit(decode(content, layout.cell), layout.cell)
        fitted[caption].paste(picture, (0, (layout.cell - picture.height) // 2))
    orders = []
    for row in rows:
        canvas, k = Image.open(tmp_path / "out" / "images" / row["image"]), int(row["id"].split("_")[1])
        shown = [
            min(fitted, key=lambda caption, cell=cell: difference(cell_of(canvas, layout, cell), fitted[caption]))
            for cell in range(grid * grid)
        ]
        assert canvas.size == (210, 210)
        assert shown.pop(k) == row["caption"]
        assert len(set(shown) | {row["caption"]}) == grid * grid
        orders.append(shown)
        if k:
            assert shown == orders[-2]
        white = Image.new("RGB", (210, layout.border - 1), "white")
        assert difference(canvas.crop((0, 0, 210, layout.border - 1)), white) < 3
    assert len({tuple(order) for order in orders}) == 5


def test_negatives_ask_the_same_canvases_about_a_caption_that_is_not_there(source, tmp_path):
    plain, rows = build(source, tmp_path / "plain"), build(source, tmp_path / "all", 14, "--negatives", "1.0")
    assert [row for row in rows if row["answer"] == "Yes"] == plain
    assert read_tree(tmp_path / "plain" / "images") == read_tree(tmp_path / "all" / "images")
    pictures = {
        text.read_text(): fit(decode(text.with_suffix(".jpg").read_bytes(), 66), 66) for text in source.rglob("*.txt")
    }
    layout = make_layout(3, 210, None, 4, 8)
    negatives = [row for row in rows if row["answer"] == "No"]
    assert len(negatives) == len(plain)
    for row, positive in zip(negatives, plain, strict=True):
        assert row == {**positive, "id": positive["id"] + "_no", "caption": row["caption"], "answer": "No"}
        asked = Image.new("RGB", (layout.cell, layout.cell), "white")
        picture = fit(pictures[row["caption"]], layout.cell)
        asked.paste(picture, (0, (layout.cell - picture.height) // 2))
        canvas = Image.open(tmp_path / "all" / "images" / row["image"])
        assert min(difference(cell_of(canvas, layout, k), asked) for k in range(9)) > 10
    manifest = json.loads((tmp_path / "all" / "manifest.json").read_text())
    assert (manifest["items"], manifest["negatives"], manifest["images"]) == (252, 126, 126)


@pytest.mark.parametrize(("share", "captions"), [(0.0, 0), (0.29, 4), (0.5, 7), (1, 14)])
def test_the_share_of_negatives_is_exact_and_spread(share, captions, source, tmp_path):
    rows = build(source, tmp_path, 14, "--negatives", share)
    asked = sorted({int(row["id"][:6]) for row in rows if row["answer"] == "No"})
    assert len(asked) == captions
    assert all(right - left <= 14 // captions + 1 for left, right in itertools.pairwise(asked))


@pytest.mark.parametrize("twin", ["picture", "caption"])
def test_equal_pictures_and_equal_captions_never_share_a_canvas(twin, tmp_path):
    """Nine items on a canvas, so eight of them and a twin of one are not enough, nor are ten for a negative."""
    pairs = crops(10)
    for count, flags, found in ((8, [], 7), (9, ["--negatives", "1"], 8)):
        double = (pairs[0][0], "its other caption") if twin == "picture" else (pairs[-1][0], pairs[0][1])
        folder = write_captions(tmp_path / f"source {count}", [*pairs[:count], double])
        with pytest.raises(InputError, match=f"the sample has {found};"):
            build(folder, tmp_path / "out", count + 1, *flags)
    assert build(folder, tmp_path / "out", 10)


def test_seed_and_nothing_else_decides_the_bytes(source, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    build(source, one, 12, "--negatives", "0.5")
    build(source, two, 12, "--negatives", "0.5", "--workers", "3")
    assert read_tree(one) == read_tree(two)
    build(source, tmp_path / "seed", 12, "--negatives", "0.5", "--seed", "1")
    assert read_tree(one)["probe.jsonl"] != read_tree(tmp_path / "seed")["probe.jsonl"]


def test_a_complete_build_is_left_alone_and_another_refused(source, tmp_path, capsys):
    build(source, tmp_path)
    before, times = read_tree(tmp_path), {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    capsys.readouterr()
    build(source, tmp_path)
    assert "complete; nothing to do" in capsys.readouterr().out
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(InputError, match=r"holds another build \(seed 0 there, 1 here\).*--overwrite"):
        build(source, tmp_path, 14, "--seed", "1")
    assert read_tree(tmp_path) == before
    build(source, tmp_path, 10, "--seed", "1", "--overwrite")
    build(source, tmp_path / "fresh" / "folder", 10, "--seed", "1")
    fresh = read_tree(tmp_path / "fresh" / "folder")
    assert {name: content for name, content in read_tree(tmp_path).items() if "fresh" not in name} == fresh


def test_a_lost_image_is_drawn_again(source, tmp_path):
    build(source, tmp_path)
    before = read_tree(tmp_path)
    (tmp_path / "images" / "000003_5.jpg").unlink()
    build(source, tmp_path)
    assert read_tree(tmp_path) == before


def test_the_rest_of_a_removed_build_is_not_taken_up(source, tmp_path):
    """A kill while working files are removed may leave the sample of other arguments, without what tells them."""
    build(source, tmp_path / "fresh", 9)
    take_sample(find_source(source), 9, 1, 32, tmp_path / "out" / ".build")
    build(source, tmp_path / "out", 9)
    assert read_tree(tmp_path / "out") == read_tree(tmp_path / "fresh")


def test_the_summary_counts_what_was_skipped(tmp_path, capsys):
    pairs = crops(11)
    build(write_captions(tmp_path / "source", [*pairs, (b"broken", "x")]), tmp_path / "out", 11)
    out = capsys.readouterr().out
    assert "11 captions, 99 items\n" in out
    assert "read 12 candidates of 12 items in the source; skipped: undecodable 1" in out
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["skipped_candidates"] == {"undecodable": 1}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num_captions", "0"], "--num_captions 0: must be 1 or more"),
        (["--workers", "0"], "--workers 0: must be 1 or more"),
        (["--min_side", "0"], "--min_side 0: must be 1 or more"),
        (["--negatives", "1.5"], "--negatives 1.5: must be 0 to 1"),
        (["--negatives", "nan"], "--negatives is nan; a finite number is expected"),
        (["--grid", "7"], "--grid 7: must be 2 to 6"),
        (["--grid", "1"], "--grid 1: must be 2 to 6"),
        (["--cell", "65"], "--cell 65: .* is 219 px, not --canvas 210; leave --cell out .* \\(62\\)"),
        (["--border", "100"], "--canvas 210: no room for 3x3 cells"),
        (["--gap", "-1"], "--gap -1 --border 8: must not be negative"),
        (["--canvas", "70000"], "--canvas 70000: must be 1 to 65500 px"),
        (["--num_captions", "15"], "14 usable of 14 items .none skipped., fewer than --num_captions 15"),
        (["--num_captions", "8"], "--num_captions 8: a caption needs 8 distractors, .* the sample has 7"),
        (["--num_captions", "9", "--negatives", "1"], "8 distractors and a caption for --negatives, .* has 8"),
    ],
)
def test_wrong_arguments_are_one_line_and_leave_nothing(flags, message, source, tmp_path):
    with pytest.raises(InputError, match=message) as error:
        build(source, tmp_path / "out", 14, *flags)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_folders_that_cannot_be_written_or_are_not_a_builds(source, tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere")):
        with pytest.raises(InputError, match="--output_dir .*cannot be made"):
            build(source, folder)
    with pytest.raises(InputError, match=r"holds files of other origin \(file\)"):
        build(source, tmp_path, 14, "--overwrite")
    (tmp_path / "manifest.json").write_text('{"name": "my web app"}')
    with pytest.raises(InputError, match="manifest.json: not the manifest of a build"):
        build(source, tmp_path, 14, "--overwrite")
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(InputError, match="is inside --source"):
        build(source, source / "out")


def test_two_builds_cannot_write_one_folder(source, tmp_path):
    with open_build(tmp_path, {"build": "probe"}, overwrite=False):
        other = subprocess.run(command(source, tmp_path), capture_output=True, text=True)
    assert (other.returncode, other.stdout) == (2, "")
    assert "another build is writing there" in other.stderr
    assert not list(tmp_path.iterdir())
    build(source, tmp_path)


def test_a_lock_that_another_build_removed_holds_nothing(tmp_path):
    """Another build ended between our opening of the lock file and our locking it."""
    with open(tmp_path / ".build.lock", "ab") as old:
        _lock(tmp_path, old)
        (tmp_path / ".build.lock").unlink()
        with pytest.raises(InputError, match="another build is writing there"):
            _lock(tmp_path, old)


def test_a_damaged_source_leaves_a_folder_that_can_be_used(tmp_path):
    path = write_tar(tmp_path / "x.tar", [("a.jpg", crops(1)[0][0]), ("a.txt", b"a")])
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match="x.tar: damaged"):
        build(path, tmp_path / "out")
    assert len(build(write_folder(tmp_path / "good", crops(9)), tmp_path / "out", 9)) == 81


@pytest.mark.parametrize("cut_short", [False, True])
def test_a_damaged_shard_can_be_mended_as_the_message_says(cut_short, tmp_path, monkeypatch):
    monkeypatch.setattr(data.sampling, "CHECKPOINT_SECONDS", -1)
    members, source, out = shard_members(crops(14)), tmp_path / "source", tmp_path / "out"
    write_tar(source / "0.tar", members[:30])
    path = write_tar(source / "1.tar", members[30:])
    whole = path.read_bytes()
    at = whole.index(members[33][0].encode())
    path.write_bytes(whole[: at + 100] if cut_short else whole[:at] + b"\xff" * 512 + whole[at + 512 :])
    with pytest.raises(InputError, match="1.tar: damaged.*restore or remove it and run again, with --overwrite"):
        build(source, out)
    assert (out / ".build" / "sample.json").exists()
    path.write_bytes(whole)
    if cut_short:
        with pytest.raises(InputError, match="holds another build .source_fingerprint.*--overwrite"):
            build(source, out)
    assert len(build(source, out, 14, *["--overwrite"] * cut_short)) == 126


def test_where_the_source_lies_is_not_in_the_build(source, tmp_path):
    shutil.copytree(source, tmp_path / "elsewhere")
    build(source, tmp_path / "one", 9)
    build(tmp_path / "elsewhere", tmp_path / "two", 9)
    assert read_tree(tmp_path / "one") == read_tree(tmp_path / "two")


def test_help_lists_the_forms_of_a_source(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert FORMS in " ".join(capsys.readouterr().out.split())


def start(source: Path, folder: Path) -> subprocess.Popen:
    words = [*command(source, folder, 60), "--workers", "2"]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rsplit(")", 1)[1].split()[1]) == pid:
                found.append(int(stat.parent.name))
        except (OSError, ValueError):
            continue
    return found


def wait_until(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.001)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the workers in /proc")
def test_a_build_that_is_killed_again_and_again_ends_as_an_unbroken_one(tmp_path):
    source = write_folder(tmp_path / "source", crops(62))
    (source / "00000" / "000000.jpg").write_bytes(b"broken")
    killed, unbroken = tmp_path / "killed", tmp_path / "unbroken"
    moments = [
        lambda: (killed / ".build" / "build.json").exists(),
        lambda: len(list((killed / ".build" / "pool").glob("*"))) >= 10,
        lambda: (killed / "images").exists(),
        lambda: len(list((killed / "images").glob("[!.]*"))) >= 100,
        lambda: len(list((killed / "images").glob("[!.]*"))) >= 400,
    ]
    for moment in moments:
        process = start(source, killed)
        wait_until(moment)
        workers = children(process.pid)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        wait_until(lambda workers=workers: not any(Path(f"/proc/{worker}").exists() for worker in workers))
    drawn = {path: path.stat().st_ino for path in (killed / "images").glob("[!.]*")}
    assert len(drawn) >= 400
    for folder in (killed, unbroken):
        assert start(source, folder).wait() == 0
    assert read_tree(killed) == read_tree(unbroken)
    assert {path: path.stat().st_ino for path in drawn} == drawn


def test_the_script_says_what_is_wrong_in_one_line_with_status_2(tmp_path):
    command = [sys.executable, SCRIPT, "--source", tmp_path / "none", "--output_dir", tmp_path / "out"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"error: --source {tmp_path / 'none'}: no such file or folder\n"
