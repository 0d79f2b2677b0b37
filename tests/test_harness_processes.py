"""Runs of the harness in several processes, and what they need of the machine."""

import re
import sys

import pytest
import torch

from eval import generate
from models.errors import InputError
from tests.probe_runs import SCRIPT, arguments, manifest_of, names, run_here, start


def torchrun(script, *command) -> tuple[int, str, str]:
    """Exit status, output and what was told of two real processes."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(script)]
    process = start([*launch, *map(str, command)])
    output, errors = process.communicate()
    return process.returncode, output, errors


def failed(script, *command) -> list[str]:
    """Standard error lines of ours, of two processes that fail."""
    status, _, errors = torchrun(script, *command)
    assert status == 1
    return [line for line in errors.splitlines() if line.startswith("error: ")]


def test_two_processes_give_the_same_files(llava, probe, unbroken, tmp_path):
    answers, script = tmp_path / "answers.jsonl", tmp_path / "late.py"
    script.write_text(  # the second process takes two seconds more
        "import os, sys, time\n"
        "from eval import journal, probe\n"
        "from models.errors import run_script\n"
        "collect = journal.append_rows\n"
        "def late(part, rows):\n"
        "    time.sleep(2 * int(os.environ['RANK']) / 3)\n"
        "    collect(part, rows)\n"
        "journal.append_rows = late\n"
        "run_script(lambda: probe.main(sys.argv[1:]))\n"
    )
    status, output, errors = torchrun(script, *arguments(llava, probe, answers, "--batch_size", 3))
    assert status == 0, errors
    assert "18 items: 18 new, 0 resumed, 0 errors" in output
    assert float(re.search(r"([\d.]+) items/s", output)[1]) < 18 / 2, "all items, in the time of the last process"
    assert "9/9" in errors  # the progress of process 1: half of the items
    assert answers.read_bytes() == unbroken.read_bytes()
    assert manifest_of(answers).read_bytes() == manifest_of(unbroken).read_bytes()
    assert names(tmp_path) == ["answers.jsonl", "answers.jsonl.manifest.json", "late.py"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--limit", 1), "error: 2 processes for 1 items; start at most 1"),
        (("--batch_size", 0), "error: argument --batch_size: '0' is not a whole number of 1 or more (see --help)"),
    ],
)
def test_two_processes_tell_bad_input_once(llava, probe, tmp_path, more, message):
    assert failed(SCRIPT, *arguments(llava, probe, tmp_path / "a.jsonl", *more)) == [message]
    assert names(tmp_path) == []


def test_processes_that_would_answer_differently_are_refused(llava, probe, tmp_path):
    script = tmp_path / "differ.py"
    script.write_text(
        "import os, sys\n"
        "from eval.probe import main\n"
        "from models.errors import run_script\n"
        "flag = ['false', 'true'][int(os.environ['RANK'])]\n"
        "run_script(lambda: main([*sys.argv[1:], '--position_balance', flag]))\n"
    )
    (line,) = failed(script, *arguments(llava, probe, tmp_path / "a.jsonl"))
    assert "process 2 of 2 would answer otherwise than process 1 (position_balance: false -> true)" in line
    assert not (tmp_path / "a.jsonl.manifest.json").exists()


@pytest.mark.parametrize(
    ("variables", "message"),
    [({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2, but RANK, LOCAL_RANK"), ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'")],
)
def test_a_half_set_environment_is_named(llava, probe, tmp_path, monkeypatch, variables, message):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=message):
        run_here(llava, probe, tmp_path / "a.jsonl")


def test_one_gpu_is_not_shared_by_processes(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="one GPU for 2 processes"):
        generate.choose_device("cuda:1", 0, 2)
    with pytest.raises(InputError, match="GPU 2 is needed, but this machine has 2"):
        generate.choose_device("auto", 2, 3)
