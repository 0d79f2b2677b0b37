"""lmms-eval itself on tiny checkpoints: replies, numbers, processes and failures are those of this repository.

    sh scripts/test_lmms.sh

Not part of the suite: it runs in an environment with lmms-eval (docs/lmms_eval.md).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from eval import generate, metrics, probe
from tests.pictures import picture
from tests.probe_runs import read_rows, run_here, write_probe, write_rows

ROOT = Path(__file__).resolve().parent.parent
TASKS = ROOT / "tests" / "lmms_tasks"
SHIPPED = ROOT / "eval" / "lmms_eval_plugin" / "bapa_probe.yaml"
FAMILIES = ("llava_next_mistral", "qwen2_5_vl")  # the tokens of a picture depend on its shape, or on its size
FLAGS = ("false", "true")
LIMIT = 24  # longest reply where a task names none

# Question, its pictures, and the parts that the model must see: numbers are pictures.
QUESTIONS = [
    ("Is it red?", [(56, 56)], [0, "Is it red?"]),
    ("Same as <image>\nas in <image>?", [(60, 120), (90, 60)], ["Same as ", 0, "as in ", 1, "?"]),
    ("Are these the same?", [(90, 60), (56, 56)], [0, 1, "Are these the same?"]),
    ("Is <image> a word?", [], ["Is  a word?"]),
    ("Is one of <image> <image> red?", [(120, 60)], [0, "Is one of   red?"]),
]


@pytest.fixture(scope="session")
def tasks(tmp_path_factory) -> Path:
    """A folder for --include_path: the task of QUESTIONS with its data, and the shipped task."""
    folder = tmp_path_factory.mktemp("tasks")
    for file in (*TASKS.iterdir(), SHIPPED):
        if file.is_file():
            shutil.copy(file, folder)
    rows, count = [], 0
    for question, sizes, _ in QUESTIONS:
        names = [f"{count + number}.png" for number in range(len(sizes))]
        for name, size in zip(names, sizes, strict=True):
            picture(*size, seed=count).save(folder / name)
            count += 1
        rows.append({"question": question, "pictures": names, "answer": "yes"})
    write_rows(folder / "pairs.jsonl", rows)
    return folder


@pytest.fixture(scope="session")
def canvases(tmp_path_factory) -> Path:
    """A probe with negatives for two of its three captions."""
    folder = write_probe(tmp_path_factory.mktemp("canvases") / "probe", captions=3)
    rows = read_rows(folder / "probe.jsonl")
    negatives = [row | {"id": f"no-{row['id']}", "caption": "another", "answer": "No"} for row in rows[:18]]
    write_rows(folder / "probe.jsonl", rows + negatives)
    return folder


@pytest.fixture(scope="session")
def single_run(tiny_folders, tasks, canvases, tmp_path_factory):
    """(family, flag) -> the folder that lmms-eval wrote of all tasks, in one process; each is run once."""

    @cache
    def outcome(family: str, flag: str) -> Path:
        output = tmp_path_factory.mktemp("output")
        names = "bapa_probe,bapa_probe_short,lmms_pairs"
        arguments = f"position_balance={flag}"
        status, said = lmms_eval(tiny_folders[family], tasks, canvases, names, arguments, output)
        assert status == 0, said
        assert arguments.replace("=", " ") in said
        return output

    return outcome


def lmms_eval(
    model, tasks, probe_folder, names, arguments, output, launcher=(), flags=(), batch_size=4
) -> tuple[int, str]:
    """`python -m lmms_eval` as users run it; exit status and all it said."""
    command = [sys.executable, *launcher, "-m", "lmms_eval", "--model", "bapa", "--include_path", tasks]
    command += ["--model_args", f"pretrained={model},max_new_tokens={LIMIT},{arguments}", "--tasks", names]
    command += ["--batch_size", batch_size, *flags]
    command += ["--output_path", output, "--log_samples"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment.pop("BAPA_PROBE", None)
    if probe_folder:
        environment["BAPA_PROBE"] = str(probe_folder)
    result = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, cwd=ROOT, env=environment, timeout=600
    )
    return result.returncode, result.stdout + result.stderr


def samples(output: Path, task: str) -> dict[int, str]:
    """Document -> reply, of which each must have one."""
    (file,) = output.rglob(f"*_samples_{task}.jsonl")
    rows = read_rows(file)
    replies = {row["doc_id"]: row["filtered_resps"] for row in rows}
    assert len(replies) == len(rows)
    return {number: reply[0] if isinstance(reply, list) else reply for number, reply in replies.items()}


def results(output: Path, task: str) -> dict:
    """What results.json has of a task: name -> value."""
    (file,) = output.rglob("*_results.json")
    found = json.loads(file.read_text())["results"][task]
    return {name.removesuffix(",none"): value for name, value in found.items()}


def replies_here(model_path, flag: str, questions: list[list[dict]], max_new_tokens: int) -> list[str]:
    """This repository's replies to chat messages, one at a time."""
    import torch

    model, processor = generate.load(str(model_path), torch.device("cpu"), flag == "true", "auto", None)
    generate.make_greedy(model)
    batches = [generate.prepare(processor, [(0, messages)]) for messages in questions]
    with torch.inference_mode():
        return [generate.reply_to(model, processor, max_new_tokens, False, batch)[0]["prediction"] for batch in batches]


@pytest.mark.parametrize(
    ("names", "arguments", "status", "message"),
    [
        ("lmms_pairs", "position_balanse=true", 2, "position_balanse: model bapa takes no such argument; did you mean"),
        ("lmms_pairs_sampled", "dtype=float32", 2, "task lmms_pairs_sampled: its generation_kwargs ask for sampling"),
        ("lmms_pairs_broken", "dtype=float32", 1, "ZeroDivisionError: a mistake in the task's own code"),
        ("bapa_probe", "dtype=float32", 2, "the environment variable BAPA_PROBE is not set"),
    ],
)
def test_failures_end_the_run(tiny_folders, tasks, tmp_path, names, arguments, status, message):
    """lmms-eval alone would print a traceback and exit with 0."""
    found, said = lmms_eval(tiny_folders["qwen2_5_vl"], tasks, None, names, arguments, tmp_path)
    assert found == status, said
    told = [line for line in said.splitlines() if message in line]
    assert len(told) == 1, said
    assert status == 1 or told[0].startswith("error: ")
    assert not list(tmp_path.rglob("*_results.json"))


def test_a_canvas_that_cannot_be_read_ends_the_run(tiny_folders, tasks, canvases, tmp_path):
    folder = Path(shutil.copytree(canvases, tmp_path / "probe"))
    (folder / "images" / "000001_4.jpg").write_bytes(b"no picture")
    output = tmp_path / "output"
    status, said = lmms_eval(tiny_folders["qwen2_5_vl"], tasks, folder, "bapa_probe", "dtype=float32", output)
    assert status == 2, said
    assert "000001_4.jpg: cannot identify image file" in said
    assert not list(output.rglob("*_results.json"))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("flag", FLAGS)
def test_any_task_gets_the_replies_of_this_repository(single_run, tiny_folders, tasks, family, flag):
    rows = read_rows(tasks / "pairs.jsonl")
    questions = []
    for row, (_, _, parts) in zip(rows, QUESTIONS, strict=True):
        content = [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "image", "path": tasks / row["pictures"][part]}
            for part in parts
        ]
        questions.append([{"role": "user", "content": content}])
    expected = replies_here(tiny_folders[family], flag, questions, LIMIT)
    assert len(set(expected)) > 1
    expected = {number: reply.partition("q")[0].strip() for number, reply in enumerate(expected)}
    found = {number: reply.strip() for number, reply in samples(single_run(family, flag), "lmms_pairs").items()}
    assert found == expected


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("flag", FLAGS)
def test_the_probe_gets_the_replies_of_eval_probe(single_run, tiny_folders, canvases, tmp_path, family, flag):
    answers = tmp_path / "answers.jsonl"
    options = ("--position_balance", flag, "--max_new_tokens", 128)
    assert run_here(tiny_folders[family], canvases, answers, *options) == 0
    expected = {number: row["prediction"].strip() for number, row in enumerate(read_rows(answers))}
    found = samples(single_run(family, flag), "bapa_probe")
    assert {number: reply.strip() for number, reply in found.items()} == expected


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("flag", FLAGS)
def test_the_numbers_are_those_of_eval_metrics(single_run, canvases, tmp_path, family, flag):
    output = single_run(family, flag)
    replies = samples(output, "bapa_probe_short")
    assert set(replies.values()) >= {"Yes", "No"}
    items = probe.load_items(argparse.Namespace(eval_file=canvases / "probe.jsonl", img_path=canvases / "images"))
    answers, numbers = tmp_path / "answers.jsonl", tmp_path / "numbers.json"
    write_rows(answers, [item | {"prediction": replies[number]} for number, item in enumerate(items)])
    metrics.main(["--results_file", str(answers), "--output_json", str(numbers)])
    (run,) = json.loads(numbers.read_text())["runs"]
    found = results(output, "bapa_probe_short")
    for name in ("accuracy", "balanced_accuracy", "mean", "variance", "std", "gap", "worst", "consistency", "flip"):
        assert found[name] == run["numbers"][name]["value"], name
        assert found[f"{name}_stderr"] > 0 or run["numbers"][name]["value"] in (0, 100), name
    for cell in run["cells"]:
        assert found[f"cell_{cell['position']}"] == cell["accuracy"]["value"]
        assert found[f"cell_{cell['position']}_stderr"] is not None
    assert found["unreadable"] == pytest.approx(100 * run["unreadable"] / run["scored"], abs=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_flag_matters(single_run, family):
    off, on = (samples(single_run(family, flag), "bapa_probe") for flag in FLAGS)
    assert off != on


def test_two_processes_give_what_one_gives(single_run, tiny_folders, tasks, canvases, tmp_path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2)
    names = "bapa_probe,bapa_probe_short,lmms_pairs"  # five pairs: one process has more to do than the other
    status, said = lmms_eval(
        tiny_folders["qwen2_5_vl"], tasks, canvases, names, "position_balance=true", tmp_path, launcher, batch_size=3
    )
    assert status == 0, said
    alone = single_run("qwen2_5_vl", "true")
    for name in names.split(","):
        assert samples(tmp_path, name) == samples(alone, name)
        assert results(tmp_path, name) == results(alone, name)


def test_plain_contexts_get_the_same_replies(single_run, tiny_folders, tasks, tmp_path):
    flags = ("--force_simple",)
    model = tiny_folders["qwen2_5_vl"]
    status, said = lmms_eval(model, tasks, None, "lmms_pairs", "position_balance=true", tmp_path, flags=flags)
    assert status == 0, said
    assert samples(tmp_path, "lmms_pairs") == samples(single_run("qwen2_5_vl", "true"), "lmms_pairs")
