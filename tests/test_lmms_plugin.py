"""eval/lmms_eval_plugin/ as far as it goes without lmms-eval; tests/run_lmms_eval.py runs it with."""

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import ImageFile

from eval import metrics
from eval.items import open_picture, prompt_length
from eval.lmms_eval_plugin import probe_task
from eval.lmms_eval_plugin.arguments import ARGUMENTS, read_arguments
from eval.lmms_eval_plugin.loud import loud
from eval.lmms_eval_plugin.questions import chat_question, reply_settings, simple_question
from models.errors import InputError
from tests.pictures import picture
from tests.probe_runs import read_rows, write_probe, write_rows

ROOT = Path(__file__).resolve().parent.parent
PLUGIN = ROOT / "eval" / "lmms_eval_plugin"
FIRST, SECOND = picture(40, 30, seed=1), picture(20, 50, seed=2)
IMAGES = [{"type": "image", "url": FIRST}, {"type": "image", "url": SECOND}]


def user(*content: dict) -> list[dict]:
    return [{"role": "user", "content": list(content)}]


def text(value: str) -> dict:
    return {"type": "text", "text": value}


def asked(messages: list[dict]) -> list:
    """The parts of one turn as the model sees them: texts and Pillow's pictures."""
    (turn,) = messages
    return [part["text"] if part["type"] == "text" else part["picture"] for part in turn["content"]]


def test_the_package_is_found_and_stands_alone():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["lmms_eval.models"] == {"bapa": "eval.lmms_eval_plugin:manifest"}
    assert "eval.lmms_eval_plugin" in project["tool"]["setuptools"]["packages"]
    modules = ", ".join(f"eval.lmms_eval_plugin.{name}" for name in ("arguments", "loud", "probe_task", "questions"))
    program = f"import sys, eval.lmms_eval_plugin, {modules}; sys.exit('lmms_eval' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
    users = {
        path.relative_to(ROOT).parts[:2]
        for folder in ("models", "data", "eval", "train")
        for path in (ROOT / folder).rglob("*.py")
        if "lmms_eval" in path.read_text()
    }
    assert users == {("eval", "lmms_eval_plugin")}


def test_arguments_as_lmms_eval_parses_them():
    settings = read_arguments({"pretrained": "x", "position_balance": True, "batch_size": 8, "max_new_tokens": 16})
    assert (settings.position_balance, settings.batch_size, settings.max_new_tokens) == (True, 8, 16)
    settings = read_arguments({"pretrained": "x"})
    assert (settings.position_balance, settings.batch_size, settings.max_new_tokens) == (None, 1, 128)
    assert read_arguments({"pretrained": "x", "batch_size": "auto"}).batch_size is None
    assert set(vars(settings)) == set(ARGUMENTS)
    assert read_arguments({"pretrained": "x", "device": None}) == settings


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"position_balanced": True}, "position_balanced: model bapa takes no such argument; did you mean position_"),
        ({"max_batch_size": 4}, "max_batch_size: model bapa takes no such argument; did you mean batch_size"),
        ({"x": 1}, "known are pretrained, position_balance"),
        ({"position_balance": 1}, "position_balance: '1' is neither true nor false"),
        ({"position_balance": "yes"}, "position_balance: 'yes' is neither true nor false"),
        ({"batch_size": 0}, "batch_size: '0' is not a whole number of 1 or more"),
        ({"batch_size": 2.5}, "batch_size: '2.5' is not"),
        ({"batch_size": "auto:4"}, "batch_size: 'auto:4' is not"),
        ({"dtype": "fp16"}, "dtype: 'fp16' is none of auto, bfloat16"),
        ({"device": "gpu"}, "device: 'gpu' is none of auto, cpu"),
        ({"max_new_tokens": True}, "max_new_tokens: 'True' is not"),
        ({"pretrained": ""}, "no pretrained"),
    ],
)
def test_bad_arguments(given, message):
    with pytest.raises(InputError) as error:
        read_arguments({"pretrained": "x"} | given)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_pictures_come_first_and_keep_their_order():
    assert asked(simple_question("t", "Which?", [FIRST, SECOND])) == [FIRST, SECOND, "Which?"]
    assert asked(simple_question("t", "Which?", FIRST)) == [FIRST, "Which?"]
    assert asked(simple_question("t", "Why?", None)) == ["Why?"]
    assert asked(simple_question("t", "Why?", [])) == ["Why?"]


@pytest.mark.parametrize(
    ("words", "pictures", "expected"),
    [
        ("Is <image> left of <image>?", 2, ["Is ", FIRST, " left of ", SECOND, "?"]),
        ("<image>\nWhat is it?", 1, [FIRST, "What is it?"]),
        ("What is it?\n<image>", 1, ["What is it?\n", FIRST]),
        ("<image><image>", 2, [FIRST, SECOND]),
        ("<image> What?", 2, [FIRST, SECOND, " What?"]),
        ("<image><image> What?", 1, [FIRST, " What?"]),
        ("What does <image> mean?", 0, ["What does  mean?"]),
        ("What does <Image> mean?", 1, [FIRST, "What does <Image> mean?"]),
    ],
)
def test_markers_are_places_if_there_is_one_for_each_picture(words, pictures, expected):
    assert asked(chat_question("t", user(*IMAGES[:pictures], text(words)))) == expected


def test_markers_of_all_turns_count():
    turns = [
        {"role": "system", "content": "Look at the pictures."},
        *user(IMAGES[0], IMAGES[1], text("First: <image>")),
        {"role": "assistant", "content": [text("Yes.")]},
        *user(text("Second: <image> Same?")),
    ]
    found = chat_question("t", turns)
    assert [turn["role"] for turn in found] == ["system", "user", "assistant", "user"]
    assert [asked([turn]) for turn in found] == [
        ["Look at the pictures."],
        ["First: ", FIRST],
        ["Yes."],
        ["Second: ", SECOND, " Same?"],
    ]


def test_interleaved_messages_stay_as_they_are():
    assert asked(chat_question("t", user(text("a"), IMAGES[0], text("b"), IMAGES[1]))) == ["a", FIRST, "b", SECOND]
    (turn,) = chat_question("t", user({"type": "image", "url": "a.png"}, text("b")))
    assert turn["content"][0] == {"type": "image", "path": "a.png"}


@pytest.mark.parametrize("part", [{"type": "video", "url": "a.mp4"}, {"type": "image", "url": 5}])
def test_what_is_no_picture_is_refused(part):
    with pytest.raises(InputError, match="task t: asks about .*pictures and text"):
        chat_question("t", user(part, text("What?")))


def test_replies_end_before_the_first_of_the_until_strings():
    settings = reply_settings("t", {"until": ["</s>", "ASSISTANT:", "", "\n\n"], "max_new_tokens": 8}, 128)
    assert settings.max_new_tokens == 8
    assert settings.cut("One.\n\nTwo. ASSISTANT: three</s>") == "One.\n\nTwo. "
    assert settings.cut("One") == "One"
    assert reply_settings("t", {"until": "x"}, 128).cut("axbx") == "a"
    assert reply_settings("t", {"until": None}, 128).cut("axbx") == "axbx"
    assert reply_settings("t", {}, 128).max_new_tokens == 128


@pytest.mark.parametrize(
    ("given", "greedy"),
    [
        ({"temperature": 0, "do_sample": True, "top_p": 1.0, "num_beams": 1}, True),
        ({"temperature": 0.7, "do_sample": False}, True),
        ({"do_sample": False}, True),
        ({"num_beams": None}, True),
        ({"temperature": 0.7}, False),
        ({"do_sample": True}, False),
        ({"temperature": 0.7, "do_sample": True}, False),
        ({"temperature": 0, "num_beams": 5}, False),
    ],
)
def test_only_greedy_replies_are_given(given, greedy):
    if greedy:
        assert reply_settings("t", given, 128).unused == ()
    else:
        with pytest.raises(InputError, match="task t: .*--gen_kwargs do_sample=false,temperature=0,num_beams=1"):
            reply_settings("t", given, 128)


def test_what_has_no_effect_is_named():
    assert reply_settings("t", {"seed": 1, "image_aspect_ratio": "pad"}, 128).unused == ("image_aspect_ratio", "seed")


@pytest.mark.parametrize("given", [{"max_new_tokens": 0}, {"max_new_tokens": "8"}, {"until": [1]}])
def test_bad_generation_kwargs(given):
    with pytest.raises(InputError, match="task t: "):
        reply_settings("t", given, 128)


def test_an_open_picture_is_taken_as_it_is():
    part = {"type": "image", "picture": picture(40, 30).convert("RGBA")}
    opened, digest = open_picture(part)
    assert (opened.mode, opened.size, len(digest)) == ("RGB", (40, 30), 16)
    assert np.array_equal(opened, picture(40, 30))
    assert open_picture({"type": "image", "picture": picture(40, 30, seed=1)})[1] != digest
    assert prompt_length(user(part, text("x")))[:2] == (1, 1200)


def test_failures_end_the_process(capsys):
    with pytest.raises(SystemExit) as ended, loud():
        raise InputError("one line")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: one line\n"
    with pytest.raises(SystemExit) as ended, loud():
        raise KeyError("ours")
    assert ended.value.code == 1
    assert "KeyError: 'ours'" in capsys.readouterr().err


@pytest.fixture
def canvases(tmp_path, monkeypatch) -> Path:
    """A probe with negatives, named by the environment."""
    folder = write_probe(tmp_path / "probe", captions=4)
    rows = read_rows(folder / "probe.jsonl")
    negatives = [row | {"id": f"no-{row['id']}", "answer": "No"} for row in rows[:18]]
    write_rows(folder / "probe.jsonl", rows + negatives)
    monkeypatch.setenv("BAPA_PROBE", str(folder))
    return folder


def test_the_yaml_names_what_there_is():
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))
    task = yaml.load((PLUGIN / "bapa_probe.yaml").read_text(), Loader)
    names = [value for value in task.values() if str(value).startswith("eval.")]
    assert len(names) == 5
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert module == probe_task.__name__
        assert hasattr(probe_task, attribute)
    assert (PLUGIN / task["dataset_kwargs"]["data_files"]["test"]).is_file()
    assert task["generation_kwargs"] == {"max_new_tokens": 128, "do_sample": False, "until": []}


def test_the_task_asks_what_eval_probe_asks(canvases):
    docs = probe_task.load_probe(None)
    rows = read_rows(canvases / "probe.jsonl")
    assert [doc["row"] for doc in docs] == list(range(len(rows)))
    for doc, row in zip(docs, rows, strict=True):
        assert {field: doc[field] for field in ("id", "image", "position", "answer")} == {
            field: row[field] for field in ("id", "image", "position", "answer")
        }
        assert probe_task.question(doc) == probe_task.PROMPT.format(caption=row["caption"])
    (opened,) = probe_task.canvas(docs[5])
    assert np.array_equal(opened, open_picture({"path": canvases / "images" / rows[5]["image"]})[0])


def test_a_truncated_canvas_is_refused(canvases, monkeypatch):
    """Also where Pillow was told to fill such files up, as lmms-eval does."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    file = canvases / "images" / "000000_0.jpg"
    file.write_bytes(file.read_bytes()[:1500])
    with pytest.raises(InputError, match="images: 000000_0.jpg: .*truncated"):
        probe_task.canvas({"image": file.name})
    assert ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("kept", [54, 40])
def test_numbers_and_errors_are_those_of_eval_metrics(canvases, tmp_path, kept):
    """Of all rows, and of the first 40 (--limit), where captions lack cells."""
    docs = probe_task.load_probe(None)
    drawn = np.random.default_rng(0).choice(["Yes, it is.", "**no**", "Nothing.", "yes"], len(docs))
    outcomes, rows = {}, []
    for doc, reply in zip(list(docs)[:kept], drawn, strict=False):
        for name, outcome in probe_task.read_reply(doc, [str(reply)]).items():
            outcomes.setdefault(name, []).append(json.loads(json.dumps(outcome)))
        rows.append({field: doc[field] for field in doc if field != "row"} | {"prediction": str(reply)})
    answers, numbers = tmp_path / "answers.jsonl", tmp_path / "numbers.json"
    write_rows(answers, rows)
    metrics.main(["--results_file", str(answers), "--output_json", str(numbers)])
    (summary,) = json.loads(numbers.read_text())["runs"]
    run = metrics.measure(metrics.read_answers(str(answers), metrics.read_yes_no), "")
    by_cell = {f"cell_{cell['position']}": cell["accuracy"] for cell in summary["cells"]}
    found = {metric["metric"]: metric["aggregation"](outcomes[metric["metric"]]) for metric in probe_task.METRICS}
    for name in probe_task.NUMBERS:
        assert found[name] == summary["numbers"][name]["value"], name
        assert found[f"{name}_stderr"] == pytest.approx(np.nanstd(run.samples[name], ddof=1), abs=1e-5), name
    for number, (name, cell) in enumerate(by_cell.items()):
        assert found[name] == cell["value"]
        samples = run.samples["cell_accuracy"][:, number]
        assert found[f"{name}_stderr"] == pytest.approx(np.nanstd(samples, ddof=1), abs=1e-5)
    assert found["unreadable"] == pytest.approx(100 * summary["unreadable"] / summary["scored"], abs=1e-5)
    assert len(set(found.values())) > 20


def test_errors_come_behind_what_they_belong_to():
    """lmms-eval writes N/A in their place first."""
    names = [metric["metric"] for metric in probe_task.METRICS]
    assert len(names) == len(set(names))
    for name in probe_task.NUMBERS | probe_task.CELLS:
        assert names.index(name) < names.index(f"{name}_stderr")


def test_what_cannot_be_said_is_none(canvases):
    """Balanced accuracy without negatives."""
    probe_task.load_probe(None)
    outcomes = [(row, "Yes") for row in range(9)]
    assert probe_task.value_of("balanced_accuracy", outcomes) is None
    assert probe_task.stderr_of("balanced_accuracy", outcomes) is None
    assert probe_task.value_of("cell_center", outcomes) == 100


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda folder, patch: patch.delenv("BAPA_PROBE"), "variable BAPA_PROBE is not set"),
        (lambda folder, patch: patch.setenv("BAPA_PROBE", "/nowhere"), "/nowhere/images: no such folder"),
        (lambda folder, patch: (folder / "images" / "000001_4.jpg").unlink(), "000001_4.jpg is missing"),
        (lambda folder, patch: shutil.rmtree(folder / "images"), "images: no such folder"),
        (lambda folder, patch: change(folder, position="row4_col4"), "position row4_col4 is none of a 3x3 grid"),
        (lambda folder, patch: change(folder, id="other"), "caption '000000' has a positive at top_left on line 1"),
    ],
)
def test_a_wrong_probe_is_told_before_any_question(canvases, monkeypatch, capsys, mistake, message):
    mistake(canvases, monkeypatch)
    with pytest.raises(SystemExit) as ended:
        probe_task.load_probe(None)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def change(folder: Path, **fields) -> None:
    """Of a new last row, otherwise like the first; all of them for another position, since grids must not mix."""
    rows = read_rows(folder / "probe.jsonl")
    write_rows(folder / "probe.jsonl", [rows[0] | fields] if "position" in fields else [*rows, rows[0] | fields])
