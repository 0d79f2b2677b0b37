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
from eval.manifest import manifest_path
from eval.miniature_results import ARMS
from models.errors import InputError

CAPTIONS = 6
# Captions that an arm finds in no cell, seed by seed, in each condition.
WRONG = {
    "3x3-144": {"a": (0, 1), "b": (4, 5), "c0": (1, 2), "c": (2, 3), "d": (3, 4)},
    "4x4-192": {"a": (5, 0), "b": (0, 5), "c0": (5, 0), "c": (0, 5), "d": (5, 0)},
}


def write_answers(path: Path, wrong: int, grid: int, blind: str, asked: tuple[str, ...] = ("Yes", "No")) -> None:
    """`wrong` captions that are found nowhere, and none at all in the cell `blind`; the manifest of the path's arm."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for caption in range(CAPTIONS):
        for cell, position in enumerate(cell_names(grid)):
            for answer in asked:
                said = "No" if answer == "No" or caption < wrong or position == blind else "Yes"
                name = {"id": f"{caption}_{answer}", "image": f"{caption}_{cell}.jpg", "position": position}
                rows.append(name | {"answer": answer, "prediction": said})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_manifest(path, path.stem, len(rows), "0123abc" if "No" in asked else "4567def")


def write_manifest(path: Path, arm: str, items: int, commit: str) -> None:
    code = [{"git_commit": commit, "git_dirty": arm == "d"}]
    manifest = {"position_balance": arm in ("b", "c", "d"), "dtype": "float32", "device": "cpu"}
    write_json(manifest_path(path), manifest | {"items": items, "provenance": code})


def write_studies(results: Path, run: str, arm: str, number: int, grid: int) -> None:
    """Of two captions: maps with `number` + 1 parts of 10 in the target's cell, attention to one patch, a cosine."""
    folders = [results / name / run for name in ("perception", "information_flow", "similarity")]
    rows = {folder: [] for folder in folders}
    for caption in range(2):
        for cell, position in enumerate(cell_names(grid)):
            row = {"image": f"{caption}_{cell}.jpg", "position": position}
            map_ = np.full(grid**2, (9 - number) / 10 / (grid**2 - 1))
            map_[cell] = (number + 1) / 10
            flow = np.zeros((1, 3, 3), np.float32)
            flow[0, 2, 2] = 0.5
            encoded = base64.b64encode(flow.tobytes()).decode()
            feature = base64.b64encode(np.eye(2, dtype=np.float16)[caption].tobytes()).decode()
            rows[folders[0]].append(row | {"map": map_.reshape(grid, grid).tolist()})
            rows[folders[1]].append(row | {"flow": encoded, "shape": [1, 3, 3], "image_share": 0.5})
            rows[folders[2]].append(row | {"similarity": 0.25, "similarity_other": 0.125, "features": feature})
    for folder, file in zip(folders, (f"{arm}/occlusion.jsonl", f"{arm}.jsonl", f"{arm}.jsonl"), strict=True):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows[folder]))
        write_manifest(folder / file, arm, len(rows[folder]), "0123abc")


@pytest.fixture
def answers(tmp_path) -> Path:
    return write_results(tmp_path)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The page and its figures beside answers and seeds."""
    folder = write_results(tmp_path_factory.mktemp("made"))
    make_page(folder, collect(folder))
    return folder


def write_results(tmp_path: Path) -> Path:
    for seed in (0, 1):
        for arm in ARMS:
            for condition, wrong in WRONG.items():
                grid = int(condition[0])
                blind = "row2_col3" if arm == "d" and grid == 4 else ""
                path = tmp_path / "answers" / str(seed) / condition / f"{arm}.jsonl"
                write_answers(path, wrong[arm][seed], grid, blind)
                alone = tmp_path / "alone" / path.relative_to(tmp_path / "answers")
                write_answers(alone, wrong[arm][seed] + 1, grid, "", ("Yes",))
                write_studies(tmp_path, f"{seed}/{condition}", arm, wrong[arm][seed], grid)
            cost = miniature_results.cost_file(tmp_path, seed, arm)
            cost.parent.mkdir(parents=True, exist_ok=True)
            write_json(cost, {"answers": 0.125, "alone": 0.125})
    for seed in (0, 1):
        for arm in ("off", "on"):
            lora = tmp_path / "checkpoints" / f"lora-{seed}-{arm}"
            lora.mkdir(parents=True)
            lines = [{"step": 1, "loss": 2.0, "seconds": 1800.0}, {"step": 2, "loss": 1.0, "seconds": 1800.0}]
            (lora / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            (lora / "training.json").write_text("{}")
            stages = {
                "language model": {"updates": 30, "hours": 0.5, "last_loss": 0.25},
                "1, projector": {"updates": 7, "hours": 0.25},
            }
            write_json(tmp_path / "arms" / f"{seed}-{arm}.json", {"stages": stages})
    return tmp_path


def collect(folder: Path, seeds: tuple[int, ...] = (0, 1)) -> Path:
    for seed in seeds:
        words = ["--results_dir", folder, "--checkpoints", folder / "checkpoints", "--store", folder / "arms"]
        words += ["--seed", seed, "--output", folder / "seeds" / f"seed_{seed}.json", "--bootstrap", 50]
        miniature_results.main(list(map(str, words)))
    return folder / "seeds"


def rows_of(folder: Path, start: str) -> list[str]:
    """Rows of tables over seeds that start so, or of a seed, where `start` ends with its number."""
    lines = [line for line in (folder / "page.md").read_text().splitlines() if line.startswith(f"| {start} |")]
    return [line for line in lines if start[-1].isdigit() or not line.split(" | ")[1].isdigit()]


def make_page(answers: Path, seeds: Path) -> str:
    (answers / "findings.md").write_text("Nobody wins.\n")
    words = ["--results_dir", str(seeds), "--findings", str(answers / "findings.md")]
    miniature_page.main([*words, "--output", str(answers / "page.md")])
    return (answers / "page.md").read_text()


def test_the_page_says_what_the_answers_say(made):
    page = (made / "page.md").read_text()
    assert "cannot\n\nNobody wins.\n\n![Balanced" in page
    for place, wrongs in enumerate(WRONG.values()):  # the first of rows alike are the condition of the training
        for arm, wrong in wrongs.items():
            cells = 1 - 1 / 16 if arm == "d" and place else 1.0  # all but the blind one
            shares = sorted(100 * cells * (1 - one / CAPTIONS) for one in wrong)  # of positives
            balanced = [(share + 100) / 2 for share in shares]
            row = rows_of(made, f"**{arm}**")[4 * place]
            assert f"| {sum(balanced) / 2:.2f} ({balanced[0]:.2f} to {balanced[1]:.2f}) |" in row
            assert f"| {sum(shares) / 2:.2f} ({shares[0]:.2f} to {shares[1]:.2f}) |" in row
            assert ARMS[arm] in page
    assert "6 captions, 108 questions a seed and arm, 54 about pictures alone; perception of 2 captions" in page
    assert "6 captions, 192 questions" in page
    for picture in ("page.svg", "page_cells_3x3-144.svg", "page_alone_4x4-192.svg", "page_flow.svg"):
        assert (made / picture).stat().st_size > 10_000
        assert picture in page


def test_each_seed_has_its_intervals_and_its_null(made):
    found = json.loads((made / "seeds/seed_1.json").read_text())["conditions"]["4x4-192"]["arms"]
    same, biased = (rows_of(made, f"**{arm}** | 1")[2] for arm in ("b", "d"))
    number = found["b"]["numbers"]["balanced_accuracy"]
    assert f"| {number['value']:.2f} [{number['low']:.2f}, {number['high']:.2f}] |" in same
    assert same.endswith("| 1.0000 |"), "shuffled cells vary as much: none differs"
    assert biased.endswith(f"| {found['d']['null']['variance']['p']:.4f} |")
    assert found["d"]["null"]["variance"]["p"] < 0.05


def test_differences_and_how_many_seeds_show_them(made):
    page = (made / "page.md").read_text()
    assert "| -33.33 (-33.33 to -33.33), up 0, down 2 |" in rows_of(made, "b - a")[0]
    assert "| +0.00 (-41.67 to +41.67), up 1, down 1 |" in rows_of(made, "b - a")[1]
    assert "| +0.00 (+0.00 to +0.00), up 0, down 0 |" in rows_of(made, "c0 - a")[1]
    assert "| +25.00 (+25.00 to +25.00), up 2, down 0 |" in rows_of(made, "(c - b) - (c0 - a)")[0]
    # Two conditions, two seeds, six differences and five numbers that have intervals.
    assert "There are 120 such intervals" in page
    assert "differs by 8.33 points between the seeds" in page


def test_places_on_full_canvases_and_alone(made):
    even, odd = (rows_of(made, f"**d** | {canvas}")[1] for canvas in ("alone", "full"))
    everywhere = "41.67 (0.00 to 83.33)"  # 6 and 1 of 6 captions are not found, at no place
    assert even.startswith(f"| **d** | alone | {everywhere} | 0.00 (0.00 to 0.00) | {everywhere} | {everywhere} | ")
    assert even.endswith(f"| {everywhere} | +0.00 (+0.00 to +0.00) |")
    # Of 24 questions at corners 4 and 24, of 24 in inner cells, of which one is blind, 3 and 18.
    assert " | 58.33 (16.67 to 100.00) | 58.33 (16.67 to 100.00) | 43.75 (12.50 to 75.00) | " in odd
    odds = [np.log(4.5 / 20.5) - np.log(3.5 / 21.5), np.log(24.5 / 0.5) - np.log(18.5 / 6.5)]
    assert odd.endswith(f"| {np.mean(odds):+.2f} ({odds[0]:+.2f} to {odds[1]:+.2f}) |")


def test_studies_and_costs(made):
    page = (made / "page.md").read_text()
    assert rows_of(made, "**c**")[3].startswith("| **c** | 35.00 (30.00 to 40.00) | 0.00 (0.00 to 0.00) | ")
    assert rows_of(made, "**c**")[3].endswith("| 50.00 (50.00 to 50.00) |")
    assert rows_of(made, "**c**")[7].startswith("| **c** | 35.00 (10.00 to 60.00) |")
    assert "(evenly: 11.11)" in page
    assert "(evenly: 6.25)" in page
    towers = "25.00 (25.00 to 25.00) | 12.50 (12.50 to 12.50) | 12.50 (12.50 to 12.50) | 100.00 (100.00 to 100.00) |"
    for trained in ("with ordinary positions", "with BaPA"):
        for condition in ("3x3 cells, image of 144 px", "4x4 cells, image of 192 px"):
            assert f"| {condition} | {trained} | {towers}" in page
    for row in (
        "| language model | 2 | 30 | 0.50 (0.50 to 0.50) | 1.00 |",  # a seed's, not an arm's
        "| 1, projector | 4 | 7 | 0.25 (0.25 to 0.25) | 1.00 |",
        "| LoRA | 4 | 2 | 1.00 (1.00 to 1.00) | 4.00 |",
        "| measuring, a seed | 2 |  | 1.25 (1.25 to 1.25) | 2.50 |",
        "| all |  |  |  | 8.50 |",
    ):
        assert row in page
    assert "another language model" not in page


def test_the_page_names_code_and_device(made):
    code = (made / "page.md").read_text().splitlines()[-1]
    commits = "0123abc, 0123abc, changed, 4567def, 4567def, changed"
    assert code.startswith(f"Measured at commit {commits} in float32 on cpu, collected at ")
    assert "transformers 5.17.0" in code


@pytest.mark.parametrize("kind", ["answers", "alone", "information_flow", "perception"])
def test_answers_with_the_other_flag(answers, kind):
    file = "c/occlusion.jsonl" if kind == "perception" else "c.jsonl"
    path = manifest_path(answers / kind / "1/4x4-192" / file)
    write_json(path, json.loads(path.read_text()) | {"position_balance": False})
    with pytest.raises(InputError, match=rf"4x4-192/{file}: was asked with position_balance false, which is not arm c"):
        miniature_results.collect(answers, 1, 10)
    path.unlink()
    with pytest.raises(InputError, match=rf"4x4-192/{file}: has no manifest"):
        miniature_results.collect(answers, 1, 10)


def test_missing_findings(made, tmp_path):
    words = ["--results_dir", str(made / "seeds"), "--output", str(tmp_path / "page.md")]
    with pytest.raises(InputError, match="--findings .*none.md: cannot be read"):
        miniature_page.main([*words, "--findings", str(tmp_path / "none.md")])


def test_seeds_that_were_not_measured_alike(made, tmp_path):
    seeds = shutil.copytree(made / "seeds", tmp_path / "seeds")
    one = json.loads((seeds / "seed_1.json").read_text())
    for change in ({"seed": 0}, {"conditions": {"3x3-144": one["conditions"]["3x3-144"]}}):
        write_json(seeds / "seed_1.json", one | change)
        with pytest.raises(InputError, match="seed_1.json: is not another seed, measured like seed 0"):
            make_page(tmp_path, seeds)


def test_rows_that_are_errors(answers):
    path = answers / "answers/0/3x3-144/b.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0]["error"] = rows[0].pop("prediction")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match="0/3x3-144/b.jsonl: 1 rows are errors"):
        collect(answers, (0,))


def test_language_models_of_two_arms_cost_twice(answers):
    path = answers / "arms/1-on.json"
    path.write_text(path.read_text().replace("0.5", "0.75"))
    costs = miniature_results.costs(answers / "checkpoints", answers / "arms", 1)
    assert costs["language model"]["hours"] == 0.5
    assert costs["language model, on"]["hours"] == 0.75
    assert "language model, on" not in miniature_results.costs(answers / "checkpoints", answers / "arms", 0)
    assert "In seed 1 arm d grew from another language model than arm a" in make_page(answers, collect(answers))


def test_a_missing_arm_is_named(answers):
    for kind in ("alone", "answers"):
        (answers / kind / "1/3x3-144/c0.jsonl").unlink()
        with pytest.raises(InputError, match=rf"{kind}/1/3x3-144/c0.jsonl: is missing"):
            collect(answers, (1,))
    assert not (answers / "seeds/seed_1.json").exists()


def test_a_missing_study_is_named(answers):
    (answers / "information_flow/0/3x3-144/d.jsonl").unlink()
    with pytest.raises(InputError, match=r"information_flow/0/3x3-144/d.jsonl: no such file"):
        collect(answers, (0,))


def test_a_missing_cost_is_named(answers):
    miniature_results.cost_file(answers, 1, "b").unlink()
    with pytest.raises(InputError, match=r"costs/1/b.json: cannot be read"):
        collect(answers, (1,))


def test_no_answers(answers):
    shutil.rmtree(answers / "answers/0")
    with pytest.raises(InputError, match="no answers/0"):
        collect(answers, (0,))


def test_no_seeds(tmp_path):
    words = ["--results_dir", str(tmp_path), "--findings", "none.md", "--output", str(tmp_path / "page.md")]
    with pytest.raises(InputError, match="no seed_<n>.json"):
        miniature_page.main(words)
