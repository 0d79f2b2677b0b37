"""Folders that are whole or absent."""

import contextlib
import signal
import subprocess
import sys

import pytest

from models.errors import InputError
from models.writing import new_folder


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
    with new_folder(tmp_path / "out"):
        pass
    assert (tmp_path / "out").is_dir()


def test_what_the_system_says_against_writing_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match=r"--output_dir .*file/out: cannot be written \("),
        new_folder(tmp_path / "file/out"),
    ):
        pass
