"""eval/miniature_measure.py: answers and studies of an arm, where the page looks for them, by its weights and flag."""

import json
import shutil

import pytest

from data import build_probe, build_similarity
from eval import miniature_measure
from eval.miniature_results import collect, cost_file
from models.errors import InputError
from train.miniature_arms import BUNDLED

PHOTOS = BUNDLED.parents[1] / "data/samples/photos"


@pytest.fixture
def world(tmp_path):
    for build, kind in ((build_probe, "probe"), (build_similarity, "similarity")):
        words = ["--source", PHOTOS, "--num_captions", 10, "--output_dir", tmp_path / "results" / f"{kind}-3"]
        build.main(list(map(str, [*words, *(["--negatives", "1.0"] if kind == "probe" else [])])))
    shutil.copytree(BUNDLED, tmp_path / "model", ignore=shutil.ignore_patterns("arms"))
    return tmp_path


def measure(world, arm, flag):
    words = ["--model_path", world / "model", "--results_dir", world / "results", "--seed", 7, "--grids", 3]
    words += ["--sizes", 144, "--flow_captions", 1, "--masked_captions", 1]
    return miniature_measure.main([*map(str, words), "--arm", arm, "--position_balance", flag])


def test_two_arms_of_one_model(world):
    for arm, flag in (("a", "false"), ("b", "true")):
        assert measure(world, arm, flag) == 0
    results = world / "results"
    for arm, flag in (("a", False), ("b", True)):
        rows = (results / f"answers/7/3x3-144/{arm}.jsonl").read_text().splitlines()
        assert len(rows) == 180
        assert (results / f"alone/7/3x3-144/{arm}.jsonl").read_text().count("\n") == 90
        for kind in ("answers", "alone"):
            made = json.loads((results / f"{kind}/7/3x3-144/{arm}.jsonl.manifest.json").read_text())
            assert made["position_balance"] is flag
        assert (results / f"information_flow/7/3x3-144/{arm}.jsonl").read_text().count("\n") == 18
        assert (results / f"perception/7/3x3-144/{arm}/occlusion.jsonl").read_text().count("\n") == 9
        assert (results / f"similarity/7/3x3-144/{arm}.jsonl").is_file() is (arm == "a")
    with pytest.raises(InputError, match="c0.jsonl: is missing"):
        collect(results, 7, 10)
    before = {path: path.read_bytes() for path in results.rglob("*.json*")}
    assert measure(world, "b", "true") == 0, "what is there is not measured again, and costs nothing"
    assert {path: path.read_bytes() for path in results.rglob("*.json*")} == before
    parts = json.loads(before[cost_file(results, 7, "b")])
    kinds = {"answers", "alone", "information_flow", "perception"}
    assert {part.split("/")[0] for part, hours in parts.items() if hours > 0} == kinds
