import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.grid import cell_names
from eval.metrics import main
from models.errors import InputError

SCRIPT = Path(__file__).parents[1] / "eval" / "metrics.py"
FAST = ["--bootstrap", "50"]


def write_answers(path, captions=12, grid=3, seed=0, negatives=True, reply=None):
    """Answers of a made-up model that is better at the last cells; `reply` overrides all its replies."""
    generator = np.random.default_rng(seed)
    rows = []
    for caption in range(captions):
        for k, position in enumerate(cell_names(grid)):
            row = {"image": f"{caption:06d}_{k}.jpg", "caption": "a red bus", "position": position}
            right = generator.random(2) < 0.5 + 0.4 * k / grid**2
            rows.append({"id": f"{caption}_{k}", **row, "answer": "Yes", "prediction": "Yes" if right[0] else "No."})
            if negatives:
                says = "No" if right[1] else "**Yes**"
                rows.append({"id": f"{caption}_{k}_no", **row, "answer": "No", "prediction": says})
    for row in rows:
        row["prediction"] = reply or row["prediction"]
    return write(path, rows)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows_of(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def score(tmp_path, *arguments):
    """The JSON output of the command, run in this process."""
    output = tmp_path / "numbers.json"
    main([*arguments, "--output_json", str(output)])
    return json.loads(output.read_text())


def test_one_file_as_a_process(tmp_path):
    answers = write_answers(tmp_path / "answers.jsonl")
    command = [sys.executable, SCRIPT, "--result_file", answers, "--output_heatmap", "out/h.png", *FAST]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "answers: 216 items, 12 captions, 108 positives, 108 negatives, 0 unreadable" in done.stdout
    right = sum(row["prediction"] == "Yes" for row in rows_of(answers) if row["answer"] == "Yes")
    line = next(line for line in done.stdout.splitlines() if line.startswith("mean over cells, %"))
    assert f" {100 * right / 108:.2f} [" in line
    assert Image.open(tmp_path / "out" / "h.png").size == (680, 860)


def test_two_files_as_a_process_and_again_with_the_same_bytes(tmp_path):
    off, on = write_answers(tmp_path / "off.jsonl"), write_answers(tmp_path / "on.jsonl", seed=1)
    files = ["--results_file", off, "--results_file", on, "--labels", "plain", "balanced"]
    outputs = []
    for name in ("a", "b"):
        written = ["--output_heatmap", str(tmp_path / f"{name}.png"), "--output_json", str(tmp_path / f"{name}.json")]
        done = subprocess.run([sys.executable, SCRIPT, *files, *written, *FAST], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        outputs.append([Path(file).read_bytes() for file in written[1::2]])
    assert outputs[0] == outputs[1]
    assert Image.open(tmp_path / "a.png").size == (3 * 680, 860)
    assert "balanced - plain" in done.stdout
    assert "McNemar, positives: " in done.stdout


def test_exit_status_2_and_one_line(tmp_path):
    missing = tmp_path / "none.jsonl"
    done = subprocess.run([sys.executable, SCRIPT, "--results_file", missing], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {missing}: no such file; give the path of a JSON-lines file\n"


def test_json_agrees_with_the_rows(tmp_path):
    answers = write_answers(tmp_path / "a.jsonl")
    found = score(tmp_path, "--results_file", answers, *FAST)
    (run,) = found["runs"]
    assert {name: found[name] for name in ("scorer", "bootstrap", "seed", "grid", "comparison")} == {
        "scorer": "default",
        "bootstrap": 50,
        "seed": 0,
        "grid": 3,
        "comparison": None,
    }
    rows = rows_of(answers)
    accuracy = {
        name: 100 * np.mean([r["prediction"] == "Yes" for r in rows if r["position"] == name and r["answer"] == "Yes"])
        for name in cell_names(3)
    }
    assert [cell["position"] for cell in run["cells"]] == list(cell_names(3))
    for cell in run["cells"]:
        assert cell["accuracy"]["value"] == pytest.approx(accuracy[cell["position"]], abs=1e-6)
        assert cell["accuracy"]["low"] <= cell["accuracy"]["value"] <= cell["accuracy"]["high"]
        assert (cell["positives"], cell["negatives"]) == (12, 12)
        assert cell["d_prime"]["value"] is not None
    values = list(accuracy.values())
    assert run["numbers"]["mean"]["value"] == pytest.approx(np.mean(values), abs=1e-6)
    assert run["numbers"]["variance"]["value"] == pytest.approx(np.var(values), abs=1e-6)
    assert accuracy[run["worst_cell"]] == min(values)
    assert accuracy[run["best_cell"]] == max(values)
    assert set(run["null"]["gap"]) == {"mean", "p95", "p"}
    corrected = run["numbers"]["variance_corrected"]
    # Shuffled positions make nearly the same noise: (captions - 1) / captions of it, and that of 50 shuffles.
    noise = np.var(values) - corrected["value"]
    assert run["null"]["variance"]["mean"] == pytest.approx(noise * 11 / 12, rel=0.25)
    assert corrected["low"] < corrected["value"] < corrected["high"]
    without_interval = {name for name, entry in run["numbers"].items() if entry["low"] is None}
    assert without_interval == {"variance", "std", "cv", "gap", "relative_gap", "worst"}


def test_comparison_is_paired(tmp_path):
    off, on = write_answers(tmp_path / "off.jsonl"), write_answers(tmp_path / "on.jsonl", seed=1)
    write(tmp_path / "on.jsonl", rows_of(on)[::-1])
    found = score(tmp_path, "--results_file", off, "--results_file", on, *FAST)
    first, second = found["runs"]
    comparison = found["comparison"]
    assert comparison["label"] == "on - off"
    for name, entry in comparison["numbers"].items():
        difference = second["numbers"][name]["value"] - first["numbers"][name]["value"]
        assert entry["value"] == pytest.approx(difference, abs=2e-6)
    replies = {row["id"]: [row["prediction"]] for row in rows_of(off)}
    for row in rows_of(on):
        replies[row["id"]].append(row["prediction"])
    only_off = sum(pair == ["Yes", "No."] for name, pair in replies.items() if not name.endswith("_no"))
    assert comparison["mcnemar"]["positives"]["only_first_correct"] == only_off
    assert set(comparison["mcnemar"]) == {"all", "positives"}


def test_a_run_compared_with_itself_differs_in_nothing(tmp_path):
    answers = write_answers(tmp_path / "a.jsonl")
    files = ["--results_file", answers, "--results_file", answers, "--labels", "a", "b"]
    comparison = score(tmp_path, *files, *FAST)["comparison"]
    for name, entry in comparison["numbers"].items():
        spread = name in ("variance", "std", "cv", "gap", "relative_gap", "worst")
        assert entry == {"value": 0, "low": None if spread else 0, "high": None if spread else 0}, name
    assert comparison["mcnemar"]["all"] == {"only_first_correct": 0, "only_second_correct": 0, "p": 1.0}


def test_without_negatives_what_needs_them_is_null_and_a_line_says_so(tmp_path, capsys):
    answers = write_answers(tmp_path / "a.jsonl", negatives=False, reply="Yes")
    (run,) = score(tmp_path, "--results_file", answers, *FAST)["runs"]
    for name in ("negative_accuracy", "balanced_accuracy", "d_prime"):
        assert run["numbers"][name] == {"value": None, "low": None, "high": None}
    assert run["cells"][0]["d_prime"]["value"] is None
    assert run["numbers"]["mean"]["value"] == 100
    assert (run["worst_cell"], run["best_cell"]) == (None, None)
    printed = capsys.readouterr().out
    assert "a: all cells equal" in printed
    assert "worst cell top_left" not in printed
    assert "no negatives: a model that always says Yes scores 100" in printed
    assert "d'" not in printed


def test_unreadable_replies_are_wrong_counted_and_printed(tmp_path, capsys):
    answers = write_answers(tmp_path / "a.jsonl", captions=2, reply="Nothing matches.")
    (run,) = score(tmp_path, "--results_file", answers, *FAST)["runs"]
    assert run["unreadable"] == 36
    assert (run["numbers"]["accuracy"]["value"], run["numbers"]["yes_rate"]["value"]) == (0, 0)
    assert "36 unreadable replies (scored as wrong)" in capsys.readouterr().out


def test_the_papers_scorer_reads_otherwise_and_pools(tmp_path, capsys):
    answers = write_answers(tmp_path / "a.jsonl", captions=2, reply="Nothing matches.")
    (run,) = score(tmp_path, "--results_file", answers, "--scorer", "paper", *FAST)["runs"]
    assert run["unreadable"] == 0
    assert run["numbers"]["mean"]["value"] == 50, "No to all: half of each cell, as the paper's scorer pools answers"
    assert run["numbers"]["negative_accuracy"]["value"] == 100
    assert "pooled" in capsys.readouterr().out


def test_error_rows_and_incomplete_captions_are_counted(tmp_path, capsys):
    answers = write_answers(tmp_path / "a.jsonl", captions=3, negatives=False)
    rows = rows_of(answers)
    rows[4] = {name: value for name, value in rows[4].items() if name != "prediction"} | {"error": "truncated"}
    (run,) = score(tmp_path, "--results_file", write(tmp_path / "b.jsonl", rows), *FAST)["runs"]
    assert [run[name] for name in ("items", "scored", "errors", "captions", "incomplete_captions")] == [27, 26, 1, 3, 1]
    assert run["cells"][4]["positives"] == 2
    assert "1 error rows (not scored), 1 incomplete captions" in capsys.readouterr().out
    found = score(tmp_path, "--results_file", answers, "--results_file", str(tmp_path / "b.jsonl"), *FAST)
    assert [run["scored"] for run in found["runs"]] == [26, 26]
    assert [run["left_out"] for run in found["runs"]] == [1, 0]
    assert "1 left out" in capsys.readouterr().out


def test_a_part_of_the_cells_is_enough(tmp_path):
    rows = [row for row in rows_of(write_answers(tmp_path / "a.jsonl")) if row["position"] in ("center", "left")]
    part = write(tmp_path / "part.jsonl", rows)
    heatmap = ["--output_heatmap", str(tmp_path / "h.png")]
    (run,) = score(tmp_path, "--results_file", part, *heatmap, *FAST)["runs"]
    assert [cell["position"] for cell in run["cells"] if cell["accuracy"]["value"] is not None] == ["left", "center"]
    assert run["numbers"]["consistency"]["value"] is None


@pytest.mark.parametrize("grid", [2, 5])
def test_other_grids(tmp_path, grid):
    answers = write_answers(tmp_path / "a.jsonl", grid=grid)
    heatmap = ["--output_heatmap", str(tmp_path / "h.svg")]
    found = score(tmp_path, "--results_file", answers, *heatmap, *FAST)
    assert (found["grid"], len(found["runs"][0]["cells"])) == (grid, grid**2)


def test_bootstrap_0_gives_no_intervals(tmp_path, capsys):
    (run,) = score(tmp_path, "--results_file", write_answers(tmp_path / "a.jsonl"), "--bootstrap", "0")["runs"]
    assert run["numbers"]["mean"]["value"] is not None
    assert run["numbers"]["mean"]["low"] is None
    assert run["numbers"]["variance_corrected"]["low"] is None
    assert run["null"] == {"gap": None, "variance": None}
    assert "[" not in capsys.readouterr().out


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path):
    files = []
    for name in ("off", "on"):
        (tmp_path / name).mkdir()
        files += ["--results_file", write_answers(tmp_path / name / "answers.jsonl")]
    labels = [run["label"] for run in score(tmp_path, *files, *FAST)["runs"]]
    assert labels == [str(tmp_path / name / "answers") for name in ("off", "on")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--labels", "off", "on"], "--labels: 2 labels for 1 results files"),
        (["--results_file", "{answers}"], "--labels: .* twice"),
        (["--results_file", "x", "--results_file", "y"], "--results_file: 3 files; give one, or two"),
        (["--scorer", "mine"], "--scorer: invalid choice"),
        (["--boot", "5"], "unrecognized arguments: --boot 5 .see --help."),
        (["--bootstrap", "-1"], "--bootstrap is -1; 0 or more is expected"),
        (["--seed", "-1"], "--seed is -1; 0 or more"),
        (["--output_heatmap", "h.gif"], r"h\.gif: a picture's name must end in"),
        (["--output_json", "{answers}"], "--output_json: .* is also --results_file; it would be overwritten"),
        (["--output_json", "h.png", "--output_heatmap", "h.png"], "is also --output_heatmap"),
        (["--output_json", "{answers}/x.json"], "x.json: cannot be written"),
    ],
)
def test_bad_arguments(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    answers = write_answers(tmp_path / "a.jsonl", captions=2)
    before = Path(answers).read_bytes()
    with pytest.raises(InputError, match=message) as caught:
        main([*FAST, "--results_file", answers, *(text.format(answers=answers) for text in arguments)])
    assert "\n" not in str(caught.value)
    assert Path(answers).read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.jsonl"]


def test_an_unfinished_run_is_not_scored(tmp_path):
    answers = write_answers(tmp_path / "a.jsonl", captions=2)
    manifest = tmp_path / "a.jsonl.manifest.json"
    manifest.write_text('{"items": 36}')
    main(["--results_file", answers, *FAST])
    write(tmp_path / "a.jsonl", rows_of(answers)[:-1])
    with pytest.raises(
        InputError, match=r"a\.jsonl: 35 rows, but a\.jsonl\.manifest\.json names 36 items; finish the run"
    ):
        main(["--results_file", answers, *FAST])
    manifest.write_text("{")
    with pytest.raises(InputError, match=r"a\.jsonl\.manifest\.json: not JSON"):
        main(["--results_file", answers, *FAST])


def test_a_part_of_a_run_is_not_scored(tmp_path):
    part = write_answers(tmp_path / "a.jsonl.part-0", captions=2)
    with pytest.raises(InputError, match=r"a\.jsonl\.part-0: a part of an unfinished run; .* give .*/a\.jsonl$"):
        main(["--results_file", part, *FAST])


def test_files_of_other_items_are_refused(tmp_path):
    files = [write_answers(tmp_path / f"{captions}.jsonl", captions=captions) for captions in (2, 3)]
    with pytest.raises(InputError, match="0 are only in the first and 18 only in the second"):
        main(["--results_file", files[0], "--results_file", files[1], *FAST])
