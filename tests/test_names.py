"""Names from outside and what is told of them: none ends in a traceback, no text reaches the terminal as commands."""

import os
import subprocess
import sys

import pytest

from eval import metrics, plots, score
from models.errors import ArgumentParser, InputError, printable
from models.names import check_apart, check_name, wrong_name


def parser(**written):
    made = ArgumentParser()
    made.add_argument("--answers_file")
    made.add_argument("--eval_file", nargs="*")
    made.add_argument("--output_json")
    made.add_argument("--judge_command")
    made.written = written.get("written", ())
    return made


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a/" + "x" * 256, "longer than 255 bytes"),
        ("é" * 128, "longer than 255 bytes"),
        ("a/" * 2100, "longer than 4095 bytes"),
        ("a\0b", "NUL"),
        ("\ud800", "half a character"),
    ],
)
def test_names_that_no_system_takes(name, reason, tmp_path):
    assert reason in wrong_name(name)
    with pytest.raises((OSError, ValueError)):  # what the system itself says
        open(name if "/" in name and "x" not in name else tmp_path / name, "w").close()
    with pytest.raises(InputError, match=rf"--x .*: the name .*{reason}"):
        check_name(name, "--x")


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2Jb", "a\x7f", "a\x9b1m", "a\u202eb", "a\u2028b"])
def test_names_that_a_terminal_would_obey_are_refused_as_arguments(name):
    with pytest.raises(InputError, match="--answers_file 'a.*': the name has a line break or another control") as told:
        parser().parse_args(["--answers_file", name])
    assert str(told.value).isprintable()


@pytest.mark.parametrize(
    "name", ["é" * 127, "results/a b.jsonl", "Qwen/Qwen2.5-VL-7B", "x" * 255, os.fsdecode(b"\xff.jpg")]
)
def test_other_names_pass(name):
    assert wrong_name(name) is None
    assert parser().parse_args(["--answers_file", name]).answers_file == name


def test_a_command_is_no_name():
    command = "sh -c '\n" + "x" * 300 + "'"
    assert parser().parse_args(["--judge_command", command]).judge_command == command


def test_a_file_to_write_is_told_by_what_it_is(tmp_path):
    (tmp_path / "a.jsonl").touch()
    (tmp_path / "a.jsonl.part-0").touch()
    (tmp_path / "soft").symlink_to("a.jsonl")
    os.link(tmp_path / "a.jsonl", tmp_path / "hard")
    (tmp_path / "sub").mkdir()
    inputs = {"answers_file": [str(tmp_path / "a.jsonl")]}
    names = ("a.jsonl", "soft", "hard", "sub/../a.jsonl", "a.jsonl.manifest.json", "a.jsonl.part-0")
    for name in names:
        with pytest.raises(InputError, match="--output_json: .* is also --answers_file"):
            check_apart(inputs, {"output_json": [f"{tmp_path}/{name}"]})
    check_apart(inputs, {"output_json": [f"{tmp_path}/b.json"], "per_row": [f"{tmp_path}/a.jsonl.part-0.bak"]})
    with pytest.raises(InputError, match="--per_row: .* is also --output_json"):
        check_apart({}, {"output_json": [f"{tmp_path}/new"], "per_row": [f"{tmp_path}/sub/../new"]})
    check_apart({"answers_file": ["/dev/null"]}, {"output_json": ["/dev/null"], "per_row": ["/dev/null"]})


@pytest.mark.parametrize(
    ("main", "words"),
    [
        (metrics.main, ["--results_file", "{}", "--output_json"]),
        (metrics.main, ["--results_file", "{}", "--output_heatmap"]),
        (score.main, ["pope", "--answers_file", "{}", "--output_json"]),
        (score.main, ["pope", "--answers_file", "{}", "--per_row"]),
        (plots.main, ["similarity", "--results_file", "{}", "--output_path", "x.png", "--output_json"]),
    ],
)
def test_no_command_writes_over_the_manifest_of_what_it_reads(main, words, tmp_path):
    answers, manifest = tmp_path / "a.jsonl", tmp_path / "a.jsonl.manifest.json"
    answers.write_text('{"id": 1}\n')
    manifest.write_text("{}")
    with pytest.raises(InputError, match=r"is also --\w+ .*a.jsonl's a.jsonl.manifest.json; it would be overwritten"):
        main([word.format(answers) for word in words] + [str(manifest)])
    assert manifest.read_text() == "{}"


def test_a_run_writes_neither_its_answers_nor_their_manifest_over_its_questions(tmp_path):
    questions = tmp_path / "a.jsonl.manifest.json"
    questions.touch()
    with pytest.raises(InputError, match="is also --eval_file"):
        parser(written=("answers_file",)).parse_args(
            ["--eval_file", str(questions), "--answers_file", str(tmp_path / "a.jsonl")]
        )


def test_printable_escapes_what_a_terminal_obeys_and_nothing_else():
    assert printable("a\x1b[31m\nb\tc\x9b\u202e\ud800 é😀 'x'\\") == r"a\x1b[31m\nb\tc\x9b\u202e\ud800 é😀 'x'\\"[:-1]


def test_an_error_stands_on_a_line_of_its_own_behind_progress():
    code = """
import sys
from tqdm import tqdm
from models.errors import InputError, run_script
def main():
    bar = tqdm(total=5, desc="working")
    bar.update(1)
    raise InputError("a\\x1b[2Jb")
run_script(main)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.split("\n")[-2] == r"error: a\x1b[2Jb"
    assert "\x1b[2J" not in done.stderr


def test_a_full_disk_is_one_line_wherever_it_shows():
    code = """
import errno, os
from models.errors import run_script
def main():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/full/file")
run_script(main)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    told = "error: /full/file: cannot be written (No space left on device); free space, or choose another disk\n"
    assert done.stderr == told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--bootstrap", "1000000000"], "--bootstrap is 1000000000; 1000000 or less is expected"),
        (["--bootstrap", "-1"], "--bootstrap is -1; 0 or more"),
        (["--seed", "4294967296"], "--seed is 4294967296; 4294967295 or less"),
        (["--other", "1" * 60], "--other is 1111111111111111111111111111111111111111; 2147483647 or less"),
        (["--share", "nan"], "--share is nan; a finite number"),
        (["--share", "1", "inf"], "--share is inf; a finite number"),
    ],
)
def test_numbers_of_all_commands_have_a_range(words, told):
    made = ArgumentParser()
    for name in ("bootstrap", "seed", "other"):
        made.add_argument(f"--{name}", type=int)
    made.add_argument("--share", type=float, nargs="+")
    with pytest.raises(InputError, match=told):
        made.parse_args(words)
