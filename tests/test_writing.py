"""Folders that are whole or absent."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from models.errors import InputError
from models.writing import new_folder, remove_killed


def test_whole_or_absent(tmp_path):
    target = tmp_path / "deep" / "out"
    with contextlib.suppress(ZeroDivisionError), new_folder(target) as folder:
        (folder / "half").touch()
        raise ZeroDivisionError
    assert list(target.parent.iterdir()) == []
    target.mkdir()  # an empty folder may be there
    with new_folder(target) as folder:
        (folder / "file").write_text("whole")
        assert not list(target.iterdir())
    assert [path.name for path in target.parent.iterdir()] == ["out"]
    assert (target / "file").read_text() == "whole"
    with pytest.raises(InputError, match="--to .*out: exists and is not an empty folder"), new_folder(target, "--to"):
        pass


def test_a_kill_leaves_nothing_under_the_name(tmp_path):
    script = (
        "import os, sys; from models.writing import new_folder\n"
        "with new_folder(sys.argv[1]) as folder: (folder / 'half').touch(); os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", script, tmp_path / "out"])
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert len(list(tmp_path.glob(".out.*/out/half"))) == 1
    others = [".out.mine", f".out.{'0' * 16}.half", f".other.{'0' * 16}.half"]  # not made by us: they have no lock
    for name in others:
        (tmp_path / name).mkdir()
    with new_folder(tmp_path / "out"):
        assert not list(tmp_path.glob(".out.*/out/half"))  # the next run removes it
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, "out"])


def test_what_another_run_is_writing_is_left_alone(tmp_path):
    script = (
        "import sys; from models.writing import new_folder\n"
        "with new_folder(sys.argv[1]) as folder: (folder / 'half').touch(); print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, tmp_path / "out"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        remove_killed(tmp_path / "out")
        assert len(list(tmp_path.glob(".out.*/out/half"))) == 1
        other.stdin.close()
    assert other.returncode == 0
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "half"]


def test_a_folder_that_a_kill_took_from_its_place_is_put_back(tmp_path):
    hidden = tmp_path / f".out.{'0' * 16}.half"
    (hidden / "old").mkdir(parents=True)
    (hidden / "old" / "file").write_text("kept")
    (hidden / ".lock").touch()
    remove_killed(tmp_path / "out")
    assert (tmp_path / "out" / "file").read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_weights_have_the_mode_of_other_files(umask, tmp_path):
    before = os.umask(umask)
    try:
        with new_folder(tmp_path / "out") as folder:
            save_file({"weight": torch.zeros(3)}, folder / "model.safetensors")
        (tmp_path / "plain").touch()
    finally:
        os.umask(before)
    assert (tmp_path / "out/model.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_what_the_system_says_against_writing_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match=r"--output_dir .*file/out: cannot be written \("),
        new_folder(tmp_path / "file/out"),
    ):
        pass
