"""HallusionBench with a judge: a real program, its verdicts, and their cache."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eval.score import main
from models.errors import InputError
from tests.scored import read, score, write
from tests.test_score_yes_no import hallusion_rows

SCRIPT = Path(__file__).parents[1] / "eval" / "score.py"
# Says the word that the reply holds in brackets, and keeps a record of what it was asked.
JUDGE = """
import json, sys, time
for line in sys.stdin:
    asked = json.loads(line)
    with open("asked.jsonl", "a") as record:
        record.write(line)
    time.sleep({seconds})
    print(asked["prediction"].partition("<")[2].partition(">")[0], flush=True)
"""


@pytest.fixture
def judge(tmp_path, monkeypatch):
    """The command line of a judge with this source."""
    monkeypatch.chdir(tmp_path)

    def command(source=JUDGE, seconds=0):
        (tmp_path / "judge.py").write_text(source.replace("{seconds}", str(seconds)))
        return f"{sys.executable} judge.py"

    return command


def rows_with(words):
    """The rows of `hallusion_rows`, their replies holding a judge's words."""
    replies = [f"reply {k} <{word}>" for k, word in enumerate(words)]
    details = {"question": "Is it so?", "gt_answer_details": "It is."}
    return [row | details | {"prediction": reply} for row, reply in zip(hallusion_rows(), replies, strict=True)]


WORDS = ["correct", "unclear", "incorrect", "correct", "Correct.", "not correct", "unclear", "The reply is incorrect"]


def test_words_of_the_judge(tmp_path, judge):
    """ "not correct" is correct, as the official script reads its judge; unclear is right without a figure only."""
    file = str(tmp_path / "rows")
    found = score(
        tmp_path, "hallusionbench", rows_with(WORDS), arguments=("--judge_command", judge(), "--per_row", file)
    )
    assert [row["correct"] for row in read(file)] == [True, True, False, True, True, True, False, False]
    assert [row["judged"] for row in read(file)][5:] == ["correct", "unclear", "incorrect"]
    (run,) = found["runs"]
    assert found["judge_command"] == judge()
    assert (run["unreadable"], run["numbers"]["aAcc"]["value"], run["numbers"]["fAcc"]["value"]) == (2, 62.5, 25)
    assert "verdicts of the judge: 8 new, 0 from its cache" in run["remarks"]
    assert set(read("asked.jsonl")[0]) == {"question", "gt_answer_details", "prediction"}


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ("correct", "correct"),
        ("Correct.", "correct"),
        ("CORRECT", "correct"),
        ("not correct", "correct"),
        ("uncorrected", "correct"),
        ("incorrect", "incorrect"),
        ("The reply is Incorrect", "incorrect"),
        ("correct, not incorrect", "incorrect"),
        ("in correct", "correct"),
        ("unclear", "unclear"),
        ("It is unclear what is correct", "correct"),
        ("Unclear!", "unclear"),
    ],
)
def test_a_line_of_the_judge(tmp_path, judge, said, word):
    rows = [row | {"prediction": f"<{said}>"} for row in rows_with(WORDS)]
    file = str(tmp_path / "rows")
    score(tmp_path, "hallusionbench", rows, arguments=("--judge_command", judge(), "--per_row", file))
    assert {row["judged"] for row in read(file)} == {word}


def test_lmms_judges_rows_with_a_figure(tmp_path, judge):
    found = score(tmp_path, "hallusionbench", rows_with(WORDS), scorer="lmms", arguments=("--judge_command", judge()))
    (run,) = found["runs"]
    assert (run["scored"], run["numbers"]["aAcc"]["value"]) == (6, 50)
    assert len(read("asked.jsonl")) == 6


def test_verdicts_are_cached_by_content(tmp_path, judge):
    """Not by place: other replies in the same file are judged anew, replies that moved are not."""

    def asked(rows, command):
        Path("asked.jsonl").write_text("")
        found = score(tmp_path, "hallusionbench", rows, arguments=("--judge_command", command))
        return len(read("asked.jsonl")), found["runs"][0]["numbers"]["aAcc"]["value"]

    rows = rows_with(WORDS)
    assert asked(rows, judge()) == (8, 62.5)
    assert asked(rows[::-1], judge()) == (0, 62.5)
    rows[7] = rows[7] | {"prediction": "another <correct>"}
    assert asked(rows, judge()) == (1, 75)
    rows[7] = rows[7] | {"gt_answer_details": "It is not."}
    assert asked(rows, judge()) == (1, 75)
    assert asked(rows, judge() + " --strict")[0] == 8, "another judge"


def test_one_reply_to_one_question_is_asked_once(tmp_path, judge):
    rows = [row | {"prediction": "it <correct>"} for row in rows_with(WORDS)]
    score(tmp_path, "hallusionbench", rows, arguments=("--judge_command", judge()))
    assert len(read("asked.jsonl")) == 1


def test_verdicts_survive_a_kill(tmp_path, judge):
    answers, cache = write(tmp_path / "a.jsonl", rows_with(WORDS)), tmp_path / "a.jsonl.judge.jsonl"
    command = [sys.executable, SCRIPT, "hallusionbench", "--allow_partial", "--bootstrap", "5"]
    command += ["--answers_file", answers, "--judge_command", judge(seconds=0.3)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while not cache.exists() or cache.read_bytes().count(b"\n") < 3:
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    known = cache.read_bytes().count(b"\n")
    with open(cache, "ab") as file:
        file.write(b'{"key": "cut off in the mid')
    Path("asked.jsonl").unlink()
    main([*map(str, command[2:-1]), judge()])
    assert 3 <= known < 8
    assert len(read("asked.jsonl")) == 8 - known
    assert len({json.loads(line)["key"] for line in cache.read_text().splitlines()}) == 8
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.jsonl", cache.name, "asked.jsonl", "judge.py"]


@pytest.mark.parametrize(
    ("source", "message", "kept"),
    [
        ("print('correct')", "ended with status 0 after 1 of 8 replies; what it said is kept", 1),
        ("import sys; print('correct'); sys.exit(3)", "ended with status 3 after 1 of 8 replies", 1),
        (
            "print('Loading the model')",
            "wrote 'Loading the model' on id VS_0_0_0; a line with correct, incorrect or",
            0,
        ),
        ("for k in range(9): print('correct')", "wrote more than the 8 lines it was asked for; one line each", 0),
        ("print('correct'); print()", "wrote '' on id VS_0_0_1; a line with correct, incorrect or unclear", 1),
    ],
)
def test_a_judge_that_does_not_keep_to_it(tmp_path, judge, source, message, kept):
    with pytest.raises(InputError, match="--judge_command") as caught:
        score(tmp_path, "hallusionbench", rows_with(WORDS), arguments=("--judge_command", judge(source)))
    assert message in str(caught.value)
    cache = tmp_path / "answers-0.jsonl.judge.jsonl"
    assert len(read(cache)) == kept


@pytest.mark.parametrize("command", ["no-such-program --at all", "", "'unbalanced"])
def test_a_judge_that_does_not_start(tmp_path, command):
    with pytest.raises(InputError, match="--judge_command: (.* cannot be started|is empty)"):
        score(tmp_path, "hallusionbench", rows_with(WORDS), arguments=("--judge_command", command))


def test_a_judge_needs_question_and_detail(tmp_path, judge):
    rows = rows_with(WORDS)
    del rows[3]["gt_answer_details"]
    with pytest.raises(InputError, match="id VS_0_1_1: field `gt_answer_details` is missing or no text"):
        score(tmp_path, "hallusionbench", rows, arguments=("--judge_command", judge()))


def test_a_cache_that_is_none(tmp_path, judge):
    (tmp_path / "answers-0.jsonl.judge.jsonl").write_text('{"key": "x", "verdict": "yes"}\n')
    with pytest.raises(InputError, match="judge.jsonl: not the verdicts of a judge; delete it"):
        score(tmp_path, "hallusionbench", rows_with(WORDS), arguments=("--judge_command", judge()))


def test_vlmevalkit_has_no_judge(tmp_path):
    with pytest.raises(InputError, match="only hallusionbench has a judge, in the scorers official and lmms"):
        score(tmp_path, "hallusionbench", rows_with(WORDS), scorer="vlmevalkit", arguments=("--judge_command", "cat"))
