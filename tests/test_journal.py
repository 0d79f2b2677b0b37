"""Stopped, repeated and mixed-up runs: nothing is lost, doubled or mixed."""

import fcntl
import json
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from eval import journal
from models.errors import InputError
from tests.pictures import picture
from tests.probe_runs import (
    SCRIPT,
    arguments,
    manifest_of,
    names,
    read_rows,
    run_here,
    start,
    write_rows,
)


def copy_run(unbroken, folder):
    """A folder with the manifest of the unbroken run and no answers; returns the answers file's path."""
    answers = folder / "answers.jsonl"
    shutil.copy(manifest_of(unbroken), manifest_of(answers))
    return answers


def test_a_run_killed_again_and_again_ends_with_the_same_file(llava, probe, tmp_path):
    slow = ("--max_new_tokens", 60)
    assert run_here(llava, probe, tmp_path / "unbroken.jsonl", *slow) == 0
    answers = tmp_path / "answers.jsonl"
    part = tmp_path / "answers.jsonl.part-0"

    def rows_on_disk():
        return part.read_bytes().count(b"\n") if part.exists() else 0

    for batch_size in (1, 2):
        before = rows_on_disk()
        command = arguments(llava, probe, answers, *slow, "--batch_size", batch_size)
        process = start([sys.executable, str(SCRIPT), *command])
        while rows_on_disk() < before + 3 and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not answers.exists()
    assert rows_on_disk() >= 6
    assert run_here(llava, probe, answers, *slow) == 0
    assert answers.read_bytes() == (tmp_path / "unbroken.jsonl").read_bytes()
    assert names(tmp_path) == [
        f"{name}.jsonl{end}" for name in ("answers", "unbroken") for end in ("", ".manifest.json")
    ]


@pytest.mark.parametrize("file", ["answers.jsonl.part-0", "answers.jsonl"])
@pytest.mark.parametrize("cut", [b'{"id": "000000_3", "ima', b""])
def test_a_last_line_cut_by_a_crash_is_repaired(llava, probe, unbroken, tmp_path, capsys, cut, file):
    answers = copy_run(unbroken, tmp_path)
    lines = unbroken.read_bytes().splitlines(keepends=True)
    # With nothing after it, the third line is whole and only lacks its line break.
    torn = b"".join(lines[:3]) + cut if cut else b"".join(lines[:3])[:-1]
    (tmp_path / file).write_bytes(torn)
    assert run_here(llava, probe, answers) == 0
    assert "15 new, 3 resumed" in capsys.readouterr().out
    assert answers.read_bytes() == unbroken.read_bytes()


def test_parts_of_any_number_of_processes_are_folded_in(llava, probe, unbroken, tmp_path, capsys):
    answers = copy_run(unbroken, tmp_path)
    lines = unbroken.read_bytes().splitlines(keepends=True)
    answers.write_bytes(b"".join(lines[:4]))
    # Rows 2 and 3 are there twice, as when a run dies between writing the answers and removing the parts.
    (tmp_path / "answers.jsonl.part-0").write_bytes(b"".join(lines[2:6]))
    (tmp_path / "answers.jsonl.part-11").write_bytes(b"".join(lines[17:]))
    assert run_here(llava, probe, answers) == 0
    assert "11 new, 7 resumed" in capsys.readouterr().out
    assert answers.read_bytes() == unbroken.read_bytes()
    assert names(tmp_path) == ["answers.jsonl", "answers.jsonl.manifest.json"]


def test_a_finished_run_is_left_as_it_is(llava, probe, unbroken, tmp_path, capsys):
    answers = copy_run(unbroken, tmp_path)
    shutil.copy(unbroken, answers)
    before = answers.stat().st_mtime_ns
    assert run_here(llava, probe, answers) == 0
    assert "0 new, 18 resumed" in capsys.readouterr().out
    assert answers.stat().st_mtime_ns == before


def test_a_broken_line_in_the_middle_is_named(llava, probe, unbroken, tmp_path):
    answers = copy_run(unbroken, tmp_path)
    lines = unbroken.read_bytes().splitlines(keepends=True)
    answers.write_bytes(lines[0] + b"{oops\n" + lines[1])
    with pytest.raises(InputError, match=r"answers.jsonl, line 2: not JSON"):
        run_here(llava, probe, answers)
    assert answers.read_bytes() == lines[0] + b"{oops\n" + lines[1]


@pytest.mark.parametrize("text", ["my notes", "my notes\n", "{}\n", '{"id": [1], "error": "no"}\n', "\n"])
def test_a_file_that_is_no_answers_file_is_left_alone(llava, probe, unbroken, tmp_path, text):
    answers = copy_run(unbroken, tmp_path)
    answers.write_text(text)
    with pytest.raises(InputError, match="answers.jsonl, line 1: "):
        run_here(llava, probe, answers)
    assert answers.read_text() == text


def test_a_broken_last_line_that_no_crash_has_cut_is_named(llava, probe, unbroken, tmp_path):
    answers = copy_run(unbroken, tmp_path)
    part = tmp_path / "answers.jsonl.part-0"
    part.write_bytes(unbroken.read_bytes()[:20] + b"\n")
    with pytest.raises(InputError, match="part-0, line 1: not JSON"):
        run_here(llava, probe, answers)
    assert part.read_bytes() == unbroken.read_bytes()[:20] + b"\n"  # told before anything was asked


def changed_checkpoint(folder, copy, **changes):
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | changes))
    return copy


@pytest.mark.parametrize(
    ("more", "difference"),
    [
        (("--position_balance", "true"), "position_balance: false -> true"),
        (("--max_new_tokens", 5), "max_new_tokens: 16 -> 5"),
        (("--limit", 3), "limit: null -> 3"),
        (("--dtype", "bfloat16"), 'dtype: "float32" -> "bfloat16"'),
        (("--attn_implementation", "eager"), 'attn_implementation: "sdpa" -> "eager"'),
    ],
)
def test_other_arguments_are_refused_and_nothing_is_lost(llava, probe, unbroken, tmp_path, more, difference):
    answers = copy_run(unbroken, tmp_path)
    part = tmp_path / "answers.jsonl.part-0"
    part.write_bytes(unbroken.read_bytes().splitlines(keepends=True)[0])
    before = part.read_bytes()
    with pytest.raises(InputError) as error:
        run_here(llava, probe, answers, *more)
    assert difference in str(error.value)
    assert "--overwrite" in str(error.value)
    assert "\n" not in str(error.value)
    assert part.read_bytes() == before


def test_the_same_folder_with_another_checkpoint_is_refused(llava, talkative_folders, probe, tmp_path):
    model, answers = tmp_path / "model", tmp_path / "answers.jsonl"
    changed_checkpoint(llava, model, position_balance=False)
    assert run_here(model, probe, answers) == 0
    before = answers.read_bytes()

    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"position_balance": True}))
    with pytest.raises(InputError, match=r"\(model_files: 1 differ \(config.json\)\);"):
        run_here(model, probe, answers)
    (model / "config.json").write_text(json.dumps(config))

    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    with pytest.raises(InputError, match=r"model_files: 1 differ \(model.safetensors\)"):
        run_here(model, probe, answers)
    with pytest.raises(InputError, match=r"model_files: \d+ differ \(.*, \.\.\.\); model_path: ") as error:
        run_here(talkative_folders["qwen2_5_vl"], probe, answers)
    assert not re.search("[0-9a-f]{32}", str(error.value))
    assert answers.read_bytes() == before


def test_overwrite_starts_anew(llava, probe, unbroken, tmp_path, capsys):
    answers = copy_run(unbroken, tmp_path)
    shutil.copy(unbroken, answers)
    (tmp_path / "answers.jsonl.part-1").write_text("{}\n")
    assert run_here(llava, probe, answers, "--position_balance", "TRUE", "--overwrite") == 0
    output = capsys.readouterr().out
    assert "--overwrite: 19 earlier rows deleted; to continue this run, leave it out" in output
    assert "18 new, 0 resumed" in output
    assert json.loads(manifest_of(answers).read_text())["position_balance"] is True
    old, new = ([row["prediction"] for row in read_rows(path)] for path in (unbroken, answers))
    assert old != new
    assert names(tmp_path) == ["answers.jsonl", "answers.jsonl.manifest.json"]


def test_the_advice_after_overwrite_does_not_delete_the_answers(llava, probe, tmp_path, capsys):
    other = tmp_path / "probe"
    shutil.copytree(probe, other)
    (other / "images" / "000000_1.jpg").unlink()
    assert run_here(llava, other, tmp_path / "a.jsonl", "--overwrite", "--limit", 3) == 1
    assert capsys.readouterr().err.rstrip().endswith("run the same command again without --overwrite")


def test_other_pictures_under_the_same_names_are_refused(llava, probe, unbroken, tmp_path):
    other = tmp_path / "probe"
    shutil.copytree(probe, other)
    picture(56, 56, seed=99).save(other / "images" / "000000_4.jpg")
    picture(56, 56, seed=99).save(other / "images" / "000001_0.jpg")
    (other / "images" / "000001_1.jpg").unlink()
    answers = copy_run(unbroken, tmp_path)
    lines = unbroken.read_bytes().splitlines(keepends=True)
    part = tmp_path / "answers.jsonl.part-0"
    part.write_bytes(b"".join(lines))
    with pytest.raises(InputError, match=r"pictures of 3 answered items have changed or gone \(first: id=000000_4,"):
        run_here(llava, other, answers)
    assert part.read_bytes() == b"".join(lines)
    part.write_bytes(b"".join(lines[:4]))  # pictures that have no answer yet may change
    assert run_here(llava, other, answers) == 1


def test_a_changed_item_is_refused(llava, probe, unbroken, tmp_path):
    other = tmp_path / "probe"
    shutil.copytree(probe, other)
    rows = read_rows(probe / "probe.jsonl")
    write_rows(other / "probe.jsonl", [rows[0] | {"caption": "another"}, *rows[1:]])
    answers = copy_run(unbroken, tmp_path)
    shutil.copy(unbroken, answers)
    with pytest.raises(InputError, match="items_sha256"):
        run_here(llava, other, answers)


def test_answers_without_a_manifest_are_refused(llava, probe, unbroken, tmp_path):
    answers = tmp_path / "answers.jsonl"
    shutil.copy(unbroken, answers)
    with pytest.raises(InputError, match="no manifest"):
        run_here(llava, probe, answers)
    assert answers.read_bytes() == unbroken.read_bytes()


def test_a_manifest_without_answers_hinders_nobody(llava, probe, unbroken, tmp_path):
    answers = copy_run(unbroken, tmp_path)
    assert run_here(llava, probe, answers, "--limit", 2) == 0
    assert len(read_rows(answers)) == 2


def test_other_code_only_warns_and_both_are_on_record(llava, probe, unbroken, tmp_path, capsys):
    answers = copy_run(unbroken, tmp_path)
    shutil.copy(unbroken, tmp_path / "answers.jsonl.part-0")
    manifest = json.loads(manifest_of(answers).read_text())
    here = manifest["provenance"][0]
    manifest["provenance"] = [here | {"git_commit": "0" * 40}]
    manifest_of(answers).write_text(json.dumps(manifest))
    lines = unbroken.read_bytes().splitlines(keepends=True)
    (tmp_path / "answers.jsonl.part-0").write_bytes(b"".join(lines[:-1]))
    assert run_here(llava, probe, answers) == 0
    assert "warning" in capsys.readouterr().err
    commits = [entry["git_commit"] for entry in json.loads(manifest_of(answers).read_text())["provenance"]]
    assert commits == ["0" * 40, here["git_commit"]]


def test_two_runs_do_not_write_one_file(llava, probe, tmp_path):
    answers = tmp_path / "answers.jsonl"
    hold = (
        "import sys, pathlib; from eval.journal import only_writer\n"
        "with only_writer(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", hold, str(answers)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "held\n"
    with pytest.raises(InputError, match="another run is writing it"):
        run_here(llava, probe, answers)
    other.communicate("")
    assert run_here(llava, probe, answers, "--limit", 1) == 0


def test_a_lock_that_the_run_before_has_just_removed_keeps_others_out(tmp_path, monkeypatch):
    path, upstream = tmp_path / ".a.jsonl.lock", fcntl.lockf

    def late(file, how):
        monkeypatch.setattr(fcntl, "lockf", upstream)
        path.unlink()  # between our opening and our locking
        upstream(file, how)

    monkeypatch.setattr(fcntl, "lockf", late)
    with journal.only_writer(tmp_path / "a.jsonl"):
        assert path.exists()  # so the lock is on a file that another run will find
    assert names(tmp_path) == []
