"""The miniature's experiment from answers to a page: whose numbers they are, means over seeds, what is missing."""

import base64
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from data.files import write_json
from data.grid import cell_names
from eval import miniature_page, miniature_results
from eval.miniature_results import ARMS
from models.errors import InputError

CAPTIONS = 6
WRONG = {"a": 0, "b": 4, "c0": 1, "c": 2, "d": 3}  # captions that an arm finds in no cell


def write_answers(path: Path, wrong: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for caption in range(CAPTIONS):
        for cell, position in enumerate(cell_names(3)):
            for answer in ("Yes", "No"):
                said = "No" if answer == "No" or caption < wrong else "Yes"
                name = {"id": f"{caption}_{answer}", "image": f"{caption}_{cell}.jpg", "position": position}
                rows.append(name | {"answer": answer, "prediction": said})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_studies(results: Path, run: str, arm: str, number: int) -> None:
    """Maps with `number` + 1 parts of 10 in the target's cell, attention to one patch, one similarity."""
    folders = [results / name / run for name in ("perception", "information_flow", "similarity")]
    rows = {folder: [] for folder in folders}
    for caption in range(2):
        for cell, position in enumerate(cell_names(3)):
            row = {"image": f"{caption}_{cell}.jpg", "position": position}
            map_ = np.full(9, (9 - number) / 80)
            map_[cell] = (number + 1) / 10
            flow = np.zeros((1, 3, 3), np.float32)
            flow[0, 2, 2] = 0.5
            encoded = base64.b64encode(flow.tobytes()).decode()
            feature = base64.b64encode(np.eye(2, dtype=np.float16)[caption].tobytes()).decode()
            rows[folders[0]].append(row | {"map": map_.reshape(3, 3).tolist()})
            rows[folders[1]].append(row | {"flow": encoded, "shape": [1, 3, 3], "image_share": 0.5})
            rows[folders[2]].append(row | {"similarity": 0.25, "similarity_other": 0.125, "features": feature})
    for folder, file in zip(folders, (f"{arm}/occlusion.jsonl", f"{arm}.jsonl", f"{arm}.jsonl"), strict=True):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows[folder]))


@pytest.fixture
def answers(tmp_path) -> Path:
    for seed in (0, 1):
        for arm, wrong in WRONG.items():
            write_answers(tmp_path / "answers" / str(seed) / "3x3-144" / f"{arm}.jsonl", wrong + seed)
            write_studies(tmp_path, f"{seed}/3x3-144", arm, wrong + seed)
            cost = miniature_results.cost_file(tmp_path, seed, arm)
            cost.parent.mkdir(parents=True, exist_ok=True)
            write_json(cost, {"core_hours": 0.25})
    for seed in (0, 1):
        for arm in ("off", "on"):
            lora = tmp_path / "checkpoints" / f"lora-{seed}-{arm}"
            lora.mkdir(parents=True)
            lines = [{"step": 1, "loss": 2.0, "seconds": 1800.0}, {"step": 2, "loss": 1.0, "seconds": 1800.0}]
            (lora / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            (lora / "training.json").write_text("{}")
            stages = {"language model": {"updates": 30, "hours": 0.5}, "1, projector": {"updates": 7, "hours": 0.25}}
            write_json(tmp_path / "arms" / f"{seed}-{arm}.json", {"stages": stages})
    return tmp_path


def collect(folder: Path) -> Path:
    for seed in (0, 1):
        words = ["--results_dir", folder, "--checkpoints", folder / "checkpoints", "--store", folder / "arms"]
        words += ["--seed", seed, "--output", folder / "seeds" / f"seed_{seed}.json", "--bootstrap", 50]
        miniature_results.main(list(map(str, words)))
    return folder / "seeds"


def test_the_page_says_what_the_answers_say(answers):
    words = ["--results_dir", str(collect(answers)), "--output", str(answers / "page.md")]
    with pytest.raises(InputError, match="--findings .*findings.md: cannot be read"):
        miniature_page.main([*words, "--findings", str(answers / "findings.md")])
    (answers / "findings.md").write_text("Nobody wins.\n")
    miniature_page.main([*words, "--findings", str(answers / "findings.md")])
    page = (answers / "page.md").read_text()
    assert "cannot\n\nNobody wins.\n\n![Balanced" in page
    for arm, wrong in WRONG.items():
        shares = [100 * (1 - (wrong + seed) / CAPTIONS) for seed in (1, 0)]  # of positives, low first
        balanced = [(share + 100) / 2 for share in shares]
        row = next(line for line in page.splitlines() if line.startswith(f"| **{arm}** |"))
        assert f"| {sum(balanced) / 2:.2f} ({balanced[0]:.2f} to {balanced[1]:.2f}) |" in row
        assert f"| {sum(shares) / 2:.2f} ({shares[0]:.2f} to {shares[1]:.2f}) |" in row
        assert ARMS[arm] in page
    one = json.loads((answers / "seeds/seed_1.json").read_text())["conditions"]["3x3-144"]["arms"]["b"]
    row = next(line for line in page.splitlines() if line.startswith("| **b** | 1 |"))
    number = one["numbers"]["balanced_accuracy"]
    assert f"| {number['value']:.2f} ({number['low']:.2f} to {number['high']:.2f}) |" in row
    assert row.endswith(f"| {one['null']['variance']['p']:.4f} |"), "the cells do not differ"
    row = next(line for line in page.splitlines() if line.startswith("| b - a |"))
    assert "-33.33 (-33.33 to -33.33), clear in 2 of 2" in row
    assert "| language model | 2 | 30 | 0.50 | 1.00 |" in page, "a seed's, not an arm's"
    assert "| 1, projector | 4 | 7 | 0.25 | 1.00 |" in page
    assert "| LoRA | 4 | 2 | 1.00 | 4.00 |" in page
    assert "| measuring | 10 |  | 0.25 | 2.50 |" in page
    assert "| all |  |  |  | 8.50 |" in page
    assert "| **c** | 35.0 (30.0 to 40.0) | 0.000 (0.000 to 0.000) | " in page, "perception, one patch's entropy"
    towers = "| 25.00 (25.00 to 25.00) | 12.50 (12.50 to 12.50) | 12.50 (12.50 to 12.50) | 100.00 (100.00 to 100.00) |"
    for trained in ("with ordinary positions", "with BaPA"):
        assert f"| 3x3 cells, image of 144 px | {trained} {towers}" in page
    for picture in ("page.svg", "page_cells_3x3-144.svg", "page_flow.svg"):
        assert (answers / picture).stat().st_size > 10_000
        assert picture in page


def test_language_models_of_two_arms_cost_twice(answers):
    path = answers / "arms/1-on.json"
    path.write_text(path.read_text().replace("0.5", "0.75"))
    costs = miniature_results.costs(answers / "checkpoints", answers / "arms", 1)
    assert costs["language model"]["hours"] == 0.5
    assert costs["language model, on"]["hours"] == 0.75
    assert "language model, on" not in miniature_results.costs(answers / "checkpoints", answers / "arms", 0)


def test_a_missing_arm_is_named(answers):
    (answers / "answers/1/3x3-144/c0.jsonl").unlink()
    with pytest.raises(InputError, match=r"1/3x3-144/c0.jsonl: is missing"):
        collect(answers)
    assert not (answers / "seeds/seed_1.json").exists()


def test_a_missing_study_is_named(answers):
    (answers / "information_flow/0/3x3-144/d.jsonl").unlink()
    with pytest.raises(InputError, match=r"information_flow/0/3x3-144/d.jsonl: no such file"):
        collect(answers)


def test_a_missing_cost_is_named(answers):
    miniature_results.cost_file(answers, 1, "b").unlink()
    with pytest.raises(InputError, match=r"costs/1/b.json: cannot be read"):
        collect(answers)


def test_no_answers(answers):
    shutil.rmtree(answers / "answers/0")
    with pytest.raises(InputError, match="no answers/0"):
        collect(answers)


def test_no_seeds(tmp_path):
    words = ["--results_dir", str(tmp_path), "--findings", "none.md", "--output", str(tmp_path / "page.md")]
    with pytest.raises(InputError, match="no seed_<n>.json"):
        miniature_page.main(words)
