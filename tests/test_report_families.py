"""From a checkpoint of every family to the page: probe, all studies and positions, as the scripts write them."""

import re

import pytest

from eval import information_flow, perception, report, rotary_bias, similarity
from eval import probe as asked
from models.tiny import FAMILIES
from tests.pictures import picture
from tests.probe_runs import read_rows, write_rows
from tests.test_report import words


@pytest.fixture(scope="module")
def canvases(tmp_path_factory):
    """Two captions in two cells, each with a question in vain; 84 px, the upper half white."""
    folder = tmp_path_factory.mktemp("canvases")
    (folder / "images").mkdir()
    rows = []
    for caption in range(2):
        for cell, position in ((1, "top_center"), (3, "left")):
            canvas = picture(84, 84, seed=2 * caption + cell)
            canvas.paste("white", (0, 0, 84, 42))
            canvas.save(folder / "images" / f"{caption}_{cell}.png")
            row = {"image": f"{caption}_{cell}.png", "caption": f"caption {caption}", "position": position}
            rows += [row | {"id": f"{caption}_{cell}_{answer}", "answer": answer} for answer in ("Yes", "No")]
    write_rows(folder / "probe.jsonl", rows)
    write_rows(folder / "positives.jsonl", rows[::2])
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_from_its_checkpoint_to_the_page(tiny_folders, canvases, tmp_path, family):
    def run(script, flag, *more, items="probe.jsonl"):
        paths = ("--model_path", tiny_folders[family], "--eval_file", canvases / items)
        shared = ("--img_path", canvases / "images", "--num_workers", 0, "--position_balance", flag)
        assert script.main([str(part) for part in (*paths, *shared, *more)]) == 0

    for flag in ("false", "true"):
        run(asked, flag, "--answers_file", tmp_path / f"probe-{flag}.jsonl", "--max_new_tokens", 1)
        run(information_flow, flag, "--answers_file", tmp_path / f"flow-{flag}.jsonl", "--per_layer")
    covered = ("--num_captions", 2, "--mask_size", 42, "--max_new_tokens", 1)
    run(perception, "true", "--output_dir", tmp_path / "perception", *covered)
    run(similarity, "false", "--answers_file", tmp_path / "s.jsonl", "--readout", "linear", items="positives.jsonl")
    rotary_bias.main(["--model_path", str(tiny_folders[family]), "--output_json", str(tmp_path / "rotary.json")])
    output = tmp_path / "page.html"
    command = ["--results_dir", tmp_path, "--img_path", canvases / "images", "--output", output, "--bootstrap", 50]
    report.main([str(part) for part in command])
    page = output.read_text()
    assert re.findall("<h3>(.*?)</h3>", page) == [
        "Spatial probe", "Understanding", "Perception", "Information flow", "Positions alone"
    ]  # fmt: skip
    assert "Not in this report" not in page
    assert "2 captions, 8 questions" in words(page)
    assert len(read_rows(tmp_path / "perception" / "occlusion.jsonl")) == 4
    assert len(list((tmp_path / "perception" / "overlays").iterdir())) == 4
