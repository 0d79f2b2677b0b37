"""eval/score_table.py: what eval/score.py has written, in one table."""

import pytest

from eval import score_table
from models.errors import InputError
from tests.scored import score, write

QUESTIONS = [{"id": number, "answer": "A", "choices": 4, "image": f"{number}.png"} for number in range(8)]


def answered(letter: str) -> list[dict]:
    return [{**row, "prediction": "A" if row["id"] < 4 else letter} for row in QUESTIONS]


@pytest.fixture
def files(tmp_path):
    charts = [{"id": number, "type": "human_test", "answer": "3", "prediction": "3"} for number in range(4)]
    for name, rows in (("scienceqa", (answered("B"), answered("A"))), ("chartqa", (charts, charts))):
        (tmp_path / name).mkdir()
        score(tmp_path / name, name, *rows, arguments=("--labels", "off", "on"))
    return [tmp_path / name / "scores.json" for name in ("scienceqa", "chartqa")]


def table(capsys, *files) -> list[str]:
    score_table.main(["--scores", *map(str, files)])
    return capsys.readouterr().out.splitlines()


def test_every_number_of_every_benchmark_has_a_line(files, capsys):
    capsys.readouterr()
    header, *lines = table(capsys, *files)
    assert header.split("   ")[-1].strip() == "on - off"
    first = lines[0].split()
    assert lines[0].startswith("scienceqa (official), PARTIAL: accuracy")
    assert first[4] == "50.00"
    assert "100.00 [100.00, 100.00]" in lines[0]
    assert "+50.00 [" in lines[0]
    assert sum(line.startswith("chartqa") for line in lines) >= 3


def test_files_that_do_not_fit_are_named(files, tmp_path, capsys):
    (tmp_path / "one").mkdir()
    score(tmp_path / "one", "scienceqa", answered("A"), arguments=("--labels", "off"))
    with pytest.raises(InputError, match=r"one/scores.json: off, .* has off, on, on - off; score them alike"):
        table(capsys, files[0], tmp_path / "one" / "scores.json")
    with pytest.raises(InputError, match="answers.jsonl: not JSON .*; not what eval/score.py --output_json writes"):
        table(capsys, write(tmp_path / "answers.jsonl", QUESTIONS))
    with pytest.raises(InputError, match="none.json: no such file"):
        table(capsys, tmp_path / "none.json")
