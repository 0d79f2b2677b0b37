"""Every bad input of table.py, in this process: one line, status 2, nothing changed, nothing left behind.

What is no error for a command (a probe of one caption has no interval of the numbers that a bootstrap draws, say) is in
ACCEPTED, with the status that it ends with.
"""

import re
import shutil
import warnings
from collections import defaultdict

import pytest

from models.errors import InputError, printable
from tests.attack.table import COMMANDS, Attack, attacks
from tests.attack.world import build, state

# What the commands take, and why.
ACCEPTED: dict[str, int] = {
    "metrics --bootstrap: 0": 0,  # no intervals
    "report --bootstrap: 0": 0,
    "sft --learning_rate: 0": 0,  # nothing is learnt: a run to look at
    "sft --num_epochs: 0": 0,  # max_steps, which is given, comes first
    "sft --num_epochs: -1": 0,
    # transformers passes over what it does not know, and the weights are as ever.
    "probe --model_path: quantised by nothing known": 0,
    "merge_lora --model_base: quantised by nothing known": 0,
}
CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return build(tmp_path_factory.mktemp("world"))


def words(attack: Attack, world, out, bad) -> list[str]:
    """The command line: what works, with the one option changed."""
    _, arguments, front = COMMANDS[attack.command]
    given = arguments | {attack.option: str(bad) if callable(attack.value) else attack.value}
    pairs = [(name, value.replace("{world}", str(world)).replace("{out}", str(out))) for name, value in given.items()]
    return [*front, *(f"{name}={value}" for name, value in pairs)]


def outcome(attack: Attack, world, room) -> str | None:
    """What is wrong with how the command took it; None: nothing."""
    out, bad = room / "out", room / "bad"
    out.mkdir(parents=True)
    if callable(attack.value):
        if attack.copies:
            shutil.copytree(world / attack.copies, bad)
        attack.value(bad)
    before = state(world)
    try:
        status = COMMANDS[attack.command][0](words(attack, world, out, bad))
    except InputError as error:
        status, said = 2, printable(str(error))
        if not said.strip() or CONTROL.search(said):
            return f"not one line of text: {said!r}"
        if len(said) > 1100:
            return f"{len(said)} characters are told"
        if re.search(r" object at 0x|Traceback", said):
            return f"told for programmers: {said!r}"
    except SystemExit as error:
        return f"ends the process with {error.code}"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    if state(world) != before:
        return "changed what was there"
    expected = ACCEPTED.get(str(attack), 2)
    if (status or 0) != expected:
        return f"status {status} in place of {expected}"
    left = sorted(str(path.relative_to(out)) for path in out.rglob("*"))
    return f"left behind: {', '.join(left[:3])}" if status == 2 and left else None


@pytest.mark.parametrize("command", COMMANDS)
def test_bad_inputs(command, world, tmp_path):
    wrong = defaultdict(list)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, attack in enumerate(attack for attack in attacks() if attack.command == command):
            if complaint := outcome(attack, world, tmp_path / str(number)):
                wrong[complaint].append(f"{attack.option}: {attack.name}")
    assert not wrong, "\n".join(f"{complaint}\n    {'; '.join(found)}" for complaint, found in wrong.items())


def test_there_are_at_least_300():
    found = [str(attack) for attack in attacks()]
    assert len(found) == len(set(found)) >= 300
    assert {attack.command for attack in attacks()} == set(COMMANDS)
    assert set(ACCEPTED) <= set(found)
