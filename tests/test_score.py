"""eval/score.py: the command as a process, its files, intervals by picture, two runs, what it imports."""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from eval.score import BENCHMARKS, main
from models.errors import InputError
from tests.scored import read, score, write
from tests.test_score_answers import crpe_rows, rows_of

SCRIPT = Path(__file__).parents[1] / "eval" / "score.py"
IMAGE_ROWS = 2017


def science_rows(right, pictures=None):
    """One row per letter of `right` (y, n, or - for a reply that cannot be read); `pictures` by row, if given."""
    replies = {"y": "B", "n": "A", "-": "hm"}
    rows = [{"id": k, "choices": 4, "answer": "B", "prediction": replies[letter]} for k, letter in enumerate(right)]
    return [row | {"image": picture} for row, picture in zip(rows, pictures, strict=True)] if pictures else rows


def run(tmp_path, *arguments):
    return subprocess.run([sys.executable, SCRIPT, *arguments], cwd=tmp_path, capture_output=True, text=True)


def test_as_a_process(tmp_path):
    right = "y" * 1500 + "n" * 417 + "-" * 100
    write(tmp_path / "a.jsonl", science_rows(right, [f"{k}/image.png" for k in range(IMAGE_ROWS)]))
    command = ["scienceqa", "--answers_file", "a.jsonl", "--output_json", "out/s.json", "--per_row", "out/rows.jsonl"]
    done = run(tmp_path, *command)
    assert (done.returncode, done.stderr) == (0, "")
    assert "a: 2017 rows scored, 100 unreadable (5.0%)\n" in done.stdout
    line = next(line for line in done.stdout.splitlines() if line.startswith("accuracy"))
    assert f" {100 * 1500 / IMAGE_ROWS:.2f} [" in line
    found = json.loads((tmp_path / "out/s.json").read_text())
    assert [found[name] for name in ("benchmark", "scorer", "bootstrap", "seed", "comparison")] == [
        "scienceqa",
        "official",
        2000,
        0,
        None,
    ]
    (summary,) = found["runs"]
    assert (summary["partial"], summary["clusters"], summary["clusters_are"]) == ([], IMAGE_ROWS, "pictures")
    rows = read(tmp_path / "out/rows.jsonl")
    assert [row["id"] for row in rows] == list(range(IMAGE_ROWS))
    assert [rows[k][name] for k in (0, 1500, -1) for name in ("parsed", "correct")] == [
        *("B", True),
        *("A", False),
        *(None, False),
    ]
    again = run(tmp_path, *command[:4], "out/again.json")
    assert again.returncode == 0
    assert (tmp_path / "out/s.json").read_bytes() == (tmp_path / "out/again.json").read_bytes()


def test_no_model_and_no_picture_library_is_imported(tmp_path):
    """Nor is one asked for while any benchmark is scored by any rule."""
    for name in BENCHMARKS:
        rows = crpe_rows(1) if name == "crpe" else rows_of(name, 2)[: 1 if name == "hallusionbench" else 2]
        rows = [row | {"visual_input": "1"} for row in rows] if name == "hallusionbench" else rows
        write(tmp_path / f"{name}.jsonl", rows)
    code = """if True:
        import pathlib, sys
        from eval.score import BENCHMARKS, main
        for name, rules in BENCHMARKS.items():
            for scorer in rules.scorers:
                answers = str(pathlib.Path(sys.argv[1], f"{name}.jsonl"))
                main([name, "--answers_file", answers, "--scorer", scorer, "--allow_partial", "--bootstrap", "5"])
        print(sorted({"torch", "transformers", "PIL", "matplotlib", "datasets", "pandas"} & set(sys.modules)))
    """
    command = [sys.executable, "-c", code, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, cwd=SCRIPT.parents[1])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count(", scorer ") == 30
    assert done.stdout.splitlines()[-1] == "[]"


def test_every_benchmark_has_the_three_scorers():
    names = "scienceqa crpe hallusionbench mmmu_pro mme pope textvqa chartqa docvqa refcoco".split()
    assert list(BENCHMARKS) == names
    for rules in BENCHMARKS.values():
        assert list(rules.scorers) == ["official", "lmms", "vlmevalkit"]


def test_intervals_are_of_pictures(tmp_path):
    """Ten alike rows a picture say no more than one: the interval is that of the pictures' means."""
    generator = random.Random(0)
    by_picture = [generator.choice("yyn") for _ in range(150)]
    right = [letter for letter in by_picture for _ in range(10)]
    pictures = [f"{k // 10}.png" for k in range(1500)]
    arguments = ("--bootstrap", "2000")
    widths = []
    for given in (pictures, None):
        (summary,) = score(tmp_path, "scienceqa", science_rows(right, given), arguments=arguments)["runs"]
        entry = summary["numbers"]["accuracy"]
        assert entry["low"] < entry["value"] < entry["high"]
        widths.append(entry["high"] - entry["low"])
    share = by_picture.count("y") / 150
    assert widths[0] == pytest.approx(2 * 196 * (share * (1 - share) / 150) ** 0.5, rel=0.1)
    assert widths[0] / widths[1] == pytest.approx(10**0.5, rel=0.1)
    assert "no `image` or `image_sha256` in the rows: intervals take rows as independent" in summary["remarks"]


def test_pictures_are_told_by_content_first(tmp_path):
    rows = science_rows("ynyn", ["a.png", "b.png", "a.png", "b.png"])
    (summary,) = score(tmp_path, "scienceqa", rows)["runs"]
    assert summary["clusters"] == 2
    hashes = ["x", "y", ["z", "x"], ["z", "x"]]
    rows = [row | {"image_sha256": given} for row, given in zip(rows, hashes, strict=True)]
    assert score(tmp_path, "scienceqa", rows)["runs"][0]["clusters"] == 3
    assert score(tmp_path, "scienceqa", science_rows("yn"))["runs"][0]["clusters_are"] == "rows"


def test_two_runs_are_paired(tmp_path):
    pictures = [f"{k // 3}.png" for k in range(300)]
    generator = random.Random(1)
    first = science_rows(generator.choices("yn", k=300), pictures)
    second = science_rows(generator.choices("yyn-", k=300), pictures)
    right = np.array([[row["prediction"] == "B" for row in rows] for rows in (first, second)])
    found = score(tmp_path, "scienceqa", first, second[::-1], arguments=("--labels", "off", "on", "--seed", "3"))
    comparison = found["comparison"]
    assert comparison["label"] == "on - off"
    entry = comparison["numbers"]["accuracy"]
    assert entry["value"] == pytest.approx(100 * (right[1].mean() - right[0].mean()), abs=1e-6)
    assert entry["low"] < entry["value"] < entry["high"]
    test = comparison["mcnemar"]["accuracy"]
    alone = [int((right[0] & ~right[1]).sum()), int((~right[0] & right[1]).sum())]
    assert [test["only_first_correct"], test["only_second_correct"]] == alone
    assert test["p"] == pytest.approx(binomtest(alone[0], sum(alone)).pvalue)
    assert comparison["numbers"]["unreadable"]["value"] == pytest.approx(found["runs"][1]["unreadable"] / 3, abs=1e-5)


def test_a_paired_difference_is_surer_than_the_runs_apart(tmp_path):
    generator = random.Random(2)
    first = generator.choices("yn", k=400)
    second = ["y" if k < 20 else letter for k, letter in enumerate(first)]
    found = score(tmp_path, "scienceqa", science_rows(first), science_rows(second), arguments=("--bootstrap", "500"))
    apart = [run["numbers"]["accuracy"] for run in found["runs"]]
    difference = found["comparison"]["numbers"]["accuracy"]
    assert difference["high"] - difference["low"] < (apart[0]["high"] - apart[0]["low"]) / 3
    assert difference["low"] > 0


def test_groups_are_tested_too(tmp_path):
    text = "Which?\nA. a\nB. b\nC. c\nD. d"
    rows = [
        {"id": k, "question_id": k, "category": "object", "text": f"{k // 4} {text}", "answer": "ABCD"[k % 4]}
        for k in range(16)
    ]
    first = [row | {"prediction": row["answer"]} for row in rows]
    second = [row | {"prediction": "A" if k in (3, 7, 9) else row["answer"]} for k, row in enumerate(rows)]
    comparison = score(tmp_path, "crpe", first, second)["comparison"]
    assert comparison["mcnemar"] == {"relation": {"only_first_correct": 3, "only_second_correct": 0, "p": 0.25}}
    assert comparison["numbers"]["relation"]["value"] == -75


def test_both_runs_print_and_write_their_rows(tmp_path, capsys):
    files = [str(tmp_path / name) for name in ("a.rows", "b.rows")]
    arguments = ("--per_row", files[0], "--per_row", files[1])
    score(tmp_path, "scienceqa", science_rows("yy"), science_rows("y-"), arguments=arguments)
    assert [[row["correct"] for row in read(file)] for file in files] == [[True, True], [True, False]]
    printed = capsys.readouterr().out
    assert (
        "McNemar, accuracy: 1 right in answers-0 alone, 0 in answers-1 alone, p = 1 (taken as independent)" in printed
    )
    assert f"written: {files[1]}" in printed


def test_soft_scores_and_what_a_rule_notes_are_in_the_rows(tmp_path):
    row = {"id": 1, "answer": ["dog"] * 2 + ["cat"] * 8, "prediction": "dog", "prompt": "What?", "image_sha256": "ab"}
    file = str(tmp_path / "rows.jsonl")
    score(tmp_path, "textvqa", [row], arguments=("--per_row", file))
    (found,) = read(file)
    assert found == row | {"parsed": "dog", "correct": pytest.approx(0.6)}
    drawn = {"id": 1, "variant": "vision", "options": ["x", "y"], "answer": "B", "prediction": "?"}
    score(tmp_path, "mmmu_pro", [drawn], arguments=("--per_row", file))
    assert read(file)[0]["guessed"] is True


def test_one_picture_and_bootstrap_0_give_no_intervals(tmp_path):
    for rows, resamples in ((science_rows("yn", ["a", "a"]), "50"), (science_rows("yn"), "0")):
        (summary,) = score(tmp_path, "scienceqa", rows, arguments=("--bootstrap", resamples))["runs"]
        assert summary["numbers"]["accuracy"] == {"value": 50, "low": None, "high": None}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scorer", "mine"], "--scorer: 'mine'; scienceqa has official, lmms, vlmevalkit"),
        (["--answers_file", "x", "--answers_file", "y"], "--answers_file: 3 files; give one, or two"),
        (["--labels", "a", "b"], "--labels: 2 labels for 1 answers files"),
        (["--per_row", "x", "--per_row", "y"], "--per_row: 2 files for 1 answers files"),
        (["--output_json", "{answers}"], "--output_json: .* is also --answers_file; it would be overwritten"),
        (["--per_row", "{answers}"], "--per_row: .* is also --answers_file; it would be overwritten"),
        (["--per_row", "x", "--output_json", "x"], "is also --output_json; it would be overwritten"),
        (["--output_json", "{answers}/x.json"], "x.json: cannot be written"),
        (["--per_row", "{answers}/x.jsonl"], "x.jsonl: cannot be written"),
        (["--bootstrap", "-1"], "--bootstrap is -1; 0 or more is expected"),
        (["--seed", "-1"], "--seed is -1; 0 or more"),
        (["--judge_command", "cat"], "--judge_command: only hallusionbench has a judge"),
        (["--boot", "5"], "unrecognized arguments: --boot 5 .see --help."),
    ],
)
def test_bad_arguments(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    answers = write(tmp_path / "a.jsonl", science_rows("yn"))
    before = Path(answers).read_bytes()
    command = ["scienceqa", "--allow_partial", "--bootstrap", "5", "--answers_file", answers]
    with pytest.raises(InputError, match=message) as caught:
        main([*command, *(text.format(answers=answers) for text in arguments)])
    assert "\n" not in str(caught.value)
    assert Path(answers).read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.jsonl"]


def test_unknown_benchmark_and_exit_status_2(tmp_path):
    done = run(tmp_path, "scienceqa", "--answers_file", "none.jsonl")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: none.jsonl: no such file; give the path of a JSON-lines file\n"
    done = run(tmp_path, "vqa", "--answers_file", "none.jsonl")
    assert (done.returncode, done.stdout) == (2, "")
    assert "argument benchmark: invalid choice: 'vqa' (choose from" in done.stderr
    assert "refcoco" in done.stderr
