"""The similarity set: the probe's targets alone on white."""

import json
from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageStat

from data import build_probe, build_similarity
from data.canvas import cell_corners, decode, fit, make_layout
from data.grid import cell_names
from models.errors import InputError
from tests.captioned_pictures import crops, read_tree, write_folder


def build(script, source, folder: Path, *flags) -> list[dict]:
    flags = ["--layout", "even", "--canvas", "210", *(str(flag) for flag in flags)]
    script.main(["--source", str(source), "--output_dir", str(folder), *flags])
    name = "probe.jsonl" if script is build_probe else "similarity.jsonl"
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


@pytest.mark.parametrize("grid", [3, 2])
def test_the_target_is_alone_in_its_cell(grid, tmp_path):
    source = write_folder(tmp_path / "source", crops(4))
    rows = build(build_similarity, source, tmp_path / "out", "--num_captions", 4, "--grid", grid)
    layout = make_layout(grid, 210, None, 4, 8)
    contents = {text.read_text(): text.with_suffix(".jpg").read_bytes() for text in source.rglob("*.txt")}
    assert [row["position"] for row in rows] == list(cell_names(grid)) * 4
    assert {row["answer"] for row in rows} == {"Yes"}
    for row in rows:
        left, top = cell_corners(layout)[int(row["id"].split("_")[1])]
        picture = fit(decode(contents[row["caption"]], layout.cell), layout.cell)
        expected = Image.new("RGB", (210, 210), "white")
        expected.paste(picture, (left, top + (layout.cell - picture.height) // 2))
        canvas = Image.open(tmp_path / "out" / "images" / row["image"])
        away = ImageChops.difference(canvas, expected)
        assert max(ImageStat.Stat(away).mean) < 4
        # Far from the picture there is nothing but white: a JPEG's blocks are 16 px wide.
        away.paste("black", (left - 16, top - 16, left + layout.cell + 16, top + layout.cell + 16))
        assert away.getbbox() is None


def test_it_has_the_captions_and_ids_of_the_probe(tmp_path):
    source = write_folder(tmp_path / "source", crops(14))
    probe, similarity = (
        build(script, source, tmp_path / script.__name__, "--num_captions", 10, "--seed", 5)
        for script in (build_probe, build_similarity)
    )
    assert similarity == probe


def test_workers_do_not_change_a_byte(tmp_path):
    source = write_folder(tmp_path / "source", crops(5))
    for workers in (1, 2):
        build(build_similarity, source, tmp_path / str(workers), "--num_captions", 5, "--workers", workers)
    assert read_tree(tmp_path / "1") == read_tree(tmp_path / "2")


def test_it_does_not_mix_with_a_probe_and_knows_no_negatives(tmp_path):
    source = write_folder(tmp_path / "source", crops(9))
    build(build_probe, source, tmp_path / "out", "--num_captions", 9)
    before = read_tree(tmp_path / "out")
    with pytest.raises(InputError, match="build probe there, similarity here"):
        build(build_similarity, source, tmp_path / "out", "--num_captions", 9)
    assert read_tree(tmp_path / "out") == before
    with pytest.raises(InputError, match="unrecognized arguments: --negatives 0.5"):
        build(build_similarity, source, tmp_path / "other", "--num_captions", 9, "--negatives", "0.5")
