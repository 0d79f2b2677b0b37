"""The vLLM plug-in and engine as far as they go without vLLM; tests/run_vllm.py runs them with it."""

import contextlib
import json
import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig

from eval import perception, probe, vllm_engine
from eval.processes import Processes
from models import vllm_plugin
from models.errors import InputError
from models.tiny import build_tiny
from models.vllm_positions import request_positions, video_spans
from tests.pictures import picture
from tests.probe_runs import arguments
from tests.test_video import with_video
from tests.vllm_checkpoints import build, questions, turn

ROOT = Path(__file__).resolve().parent.parent


def spans_of(is_visual: list[bool], lengths: list[int]) -> list[tuple[int, int]]:
    """(first, end) of consecutive parts of `lengths` among the visual tokens, which stand together within a part."""
    places = [place for place, visual in enumerate(is_visual) if visual]
    spans = []
    for length in lengths:
        part, places = places[:length], places[length:]
        assert part == list(range(part[0], part[0] + length))
        spans.append((part[0], part[0] + length))
    assert not places
    return spans


def test_positions_are_those_of_the_forks(kit):
    still = [picture(90, 60), picture(60, 120, seed=1), picture(56, 56, seed=2)]
    rows = [("none",), (still[0], "one"), ("two", still[1], still[2], "adjacent"), (still[2], "and", still[0], "apart")]
    for row in rows:
        inputs = kit.inputs(row)
        spans = spans_of((inputs["input_ids"][0] == kit.image_token_id).tolist(), kit.image_lengths(*row))
        positions, delta = request_positions(inputs["input_ids"].shape[1], list(reversed(spans)))
        given = {name: inputs[name] for name in ("image_sizes", "image_grid_thw") if name in inputs}
        theirs = kit.fork.model.prompt_position_ids(inputs["input_ids"], inputs["attention_mask"], **given)
        theirs = theirs if theirs.ndim == 3 else theirs[None]
        assert all(torch.equal(axis[0], positions) for axis in theirs)
        assert len(positions) + delta == positions[-1] + 1, "decoding goes on at the next position"


def test_positions_of_videos_are_those_of_the_fork(kits):
    kit = kits["qwen2_5_vl"]
    kit.with_flag(True)
    inputs, expected = with_video(kit, picture_too=True)
    ids = inputs["input_ids"][0]
    temporal, *_ = inputs["video_grid_thw"][0].tolist()
    (first, end), (image, last) = (
        (places[0], places[-1] + 1)
        for token in (kit.fork.config.video_token_id, kit.image_token_id)
        for places in [(ids == token).nonzero()[:, 0].tolist()]
    )
    spans = [*video_spans(first, end - first, temporal), (image, last)]
    assert request_positions(len(ids), spans)[0].tolist() == expected
    with pytest.raises(ValueError, match="--video-pruning-rate"):
        video_spans(first, end - first - 1, temporal)


def test_the_plug_in_is_found_and_light():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["vllm.general_plugins"] == {"bapa": "models.vllm_plugin:register"}
    releases = {line.partition("==")[2] for line in (ROOT / "models" / "vllm_requirements.txt").read_text().split()}
    assert any(release.startswith(vllm_plugin.CHECKED) for release in releases)
    program = (
        "import sys, models.vllm_plugin as plugin; heavy = {'torch', 'transformers', 'vllm'}\n"
        "assert not heavy & set(sys.modules); plugin.register(); plugin.register(); assert not heavy & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


def test_a_broken_vllm_is_not_taken_for_none(tmp_path):
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("import a_library_that_is_missing")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    program = "import models.vllm_plugin as plugin; plugin.register()"
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert "a_library_that_is_missing" in ran.stderr


@pytest.mark.parametrize("content", ["ModelRegistry = None"])
def test_a_vllm_without_the_hooks_serves_no_balanced_checkpoint(tmp_path, tiny_folders, content):
    """vLLM logs that a plug-in has failed, and goes on to read config.json: ordinary positions must not come of it."""
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text(content)
    for flag in ("true", "false"):
        (tmp_path / flag).mkdir()
        config = json.loads((tiny_folders["llava"] / "config.json").read_text())
        (tmp_path / flag / "config.json").write_text(json.dumps(config | {"position_balance": flag == "true"}))
    program = (
        "import contextlib, models.vllm_plugin as plugin\n"
        "with contextlib.suppress(Exception): plugin.register()\n"
        "from transformers import AutoConfig, PreTrainedConfig; import sys\n"
        "AutoConfig.from_pretrained('false'); PreTrainedConfig.get_config_dict('false'); print('read', flush=True)\n"
        "for read in (AutoConfig.from_pretrained, PreTrainedConfig.get_config_dict):\n"
        "    try: read('true')\n"
        "    except ValueError as error: print(error)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    read, *refused = ran.stdout.splitlines()
    assert read == "read", ran.stderr
    assert [line.startswith("true/config.json: position_balance is true, but this vLLM") for line in refused] == [
        True
    ] * 2


def test_the_original_layout_is_refused_with_the_command_that_converts_it(tmp_path):
    folder = build_tiny("llava_next_mistral", tmp_path / "original", layout="llava")
    config = json.loads((folder / "config.json").read_text())
    with pytest.raises(InputError, match="vLLM does not read; convert it once: ") as error:
        vllm_plugin.refuse_original_layout(str(folder), config)
    command = shlex.split(str(error.value).partition("convert it once: ")[2])
    assert command[0] == "python"
    subprocess.run([sys.executable, *command[1:]], check=True, cwd=ROOT)
    converted = json.loads((tmp_path / "original-hf" / "config.json").read_text())
    assert converted["architectures"] == ["LlavaNextForConditionalGeneration"]
    vllm_plugin.refuse_original_layout("converted", converted)
    with pytest.raises(InputError, match=r'save_pretrained\("llava-v1.5-7b-hf"\)'):
        vllm_plugin.refuse_original_layout("liuhaotian/llava-v1.5-7b", config | {"model_type": "llava"})
    vllm_plugin.refuse_original_layout("a", {"model_type": "llama"})


@pytest.fixture
def refusal(tmp_path):
    """What eval/probe.py (or another script's `main`) says against arguments, without a checkpoint or data."""

    def of(*more, main=probe.main) -> str:
        given = arguments(tmp_path / "none", tmp_path, tmp_path / "answers.jsonl", *more)
        with pytest.raises(InputError) as error:
            main(given)
        assert not (tmp_path / "answers.jsonl").exists()
        return str(error.value)

    return of


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--tensor_parallel_size", 2], "--tensor_parallel_size: goes with --engine vllm"),
        (["--engine", "vllm", "--batch_size", 4], "--batch_size: vLLM makes its own batches; leave it out"),
        (["--engine", "vllm", "--device", "cuda"], "--device cuda: vLLM runs on what it was built for"),
        (["--engine", "vllm", "--attn_implementation", "eager"], "--attn_implementation: vLLM has its own attention"),
        (["--engine", "vllm", "--gpu_memory_utilization", "1.5"], "'1.5' is not a number above 0, at most 1"),
        (["--engine", "sglang"], "invalid choice: 'sglang'"),
    ],
)
def test_flags_that_do_not_go_together(flags, told, refusal):
    assert told in refusal(*flags)


def test_studies_and_several_processes_are_refused(refusal, monkeypatch, tmp_path):
    given = ["--model_path", "x", "--eval_file", "x", "--img_path", "x", "--output_dir", str(tmp_path)]
    with pytest.raises(InputError, match="perception: looks into the model, .*; use --engine transformers"):
        perception.main([*given, "--engine", "vllm"])
    monkeypatch.setattr("eval.harness.Processes", lambda: several())
    assert "start one, without torchrun, and give it --data_parallel_size 8" in refusal("--engine", "vllm")


def several():
    """A run of eight processes, as the first of them sees it before any has to answer the others."""
    processes = Processes()
    processes.by_each = lambda function: function()
    processes.count = 8
    processes.joined = contextlib.nullcontext
    return processes


def test_a_missing_vllm_is_told(refusal):
    try:
        import vllm  # noqa: F401
    except ModuleNotFoundError:
        assert "vllm is not installed here; docs/vllm.md says how" in refusal("--engine", "vllm")
    else:
        pytest.skip("vllm is installed here")


def test_generation_settings():
    """Those of the released checkpoints pass; what would change greedy replies does not."""
    released = [
        {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 32001, "max_length": 4096},
        {"do_sample": True, "eos_token_id": [5, 3], "repetition_penalty": 1.05, "temperature": 1e-6},
        {"cache_implementation": "hybrid", "do_sample": True, "top_k": 64, "top_p": 0.95, "eos_token_id": [1, 106]},
    ]
    for settings in released:
        vllm_engine.check_generation("m", GenerationConfig(**settings))
    for name, value in (("no_repeat_ngram_size", 3), ("bad_words_ids", [[5]]), ("min_new_tokens", 4)):
        with pytest.raises(InputError, match=f"m/generation_config.json: {name} has no counterpart in vLLM"):
            vllm_engine.check_generation("m", GenerationConfig(**{name: value}))


def test_adapters_that_vllm_can_run():
    lora = {"peft_type": "LORA", "r": 8}
    assert [vllm_engine.room_for("a", lora | {"r": rank}) for rank in (4, 8, 9, 128)] == [8, 8, 16, 128]
    assert vllm_engine.room_for("a", lora | {"rank_pattern": {"q_proj": 40}}) == 64
    for change in ({"modules_to_save": ["multi_modal_projector"]}, {"peft_type": "IA3"}, {"r": 1024}):
        with pytest.raises(InputError, match="merge"):
            vllm_engine.room_for("a", lora | change)


def test_a_prompt_has_one_token_for_each_picture(kit):
    for parts in questions()[:3]:
        (message,) = turn(parts)
        text = vllm_engine.render(kit.processor, [message])
        pictures = sum(not isinstance(part, str) for part in parts)
        tokens = vllm_engine.prompt_tokens(kit.processor, text, pictures)
        begun = kit.processor.tokenizer.bos_token_id
        assert begun is None or tokens.count(begun) == 1
        with pytest.raises(ValueError, match=f"{pictures} places for pictures, and there are {pictures + 1}"):
            vllm_engine.prompt_tokens(kit.processor, text, pictures + 1)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "gemma3"])
def test_checkpoints_for_vllm_have_wide_heads(family, tmp_path):
    config = json.loads((build(family, tmp_path / family, True) / "config.json").read_text())
    text = config.get("text_config", config)
    assert text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"] == 32
    assert config["position_balance"] is True


CLUSTER = {
    "scontrol": "printf 'node-a\\nnode-b\\n'",
    "srun": """told=
while :; do
    case $1 in
        --nodelist | --exclude) told="$told $1 $2"; shift 2 ;;
        --nodes | --ntasks | --ntasks-per-node) shift 2 ;;
        --overlap) shift ;;
        *) break ;;
    esac
done
echo "$told: $1 ${2:-}" >> "$LOG"
exec "$@\"""",
    "hostname": "echo 10.0.0.1 fe80::1",
    "ray": 'echo "ray $*" >> "$LOG"',
    "evaluate": 'echo "$RAY_ADDRESS $*" >> "$LOG"; exit 3',
}
RAY = "init = lambda **named: None\nnodes = lambda: [{'Alive': True}, {'Alive': True}]\n"


def test_slurm_starts_ray_on_all_nodes_and_the_command_on_the_first(tmp_path):
    (tmp_path / "ray.py").write_text(RAY)
    for name, text in CLUSTER.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(tmp_path),
        "LOG": str(tmp_path / "log"),
        "SLURM_JOB_NODELIST": "node-[a-b]",
        "SLURM_JOB_NUM_NODES": "2",
    }
    script = ["sh", ROOT / "scripts" / "slurm_vllm.sh"]
    assert subprocess.run([*script, "evaluate", "two words"], env=environment, timeout=60).returncode == 3
    log = (tmp_path / "log").read_text().splitlines()
    assert "ray start --head --node-ip-address 10.0.0.1 --port 6379 --block" in log
    assert "ray start --address 10.0.0.1:6379 --block" in log
    assert " --exclude node-a: sh -c" in log
    assert "10.0.0.1:6379 two words" in log
    assert "ray stop" in log
    assert subprocess.run(script, env=environment, capture_output=True).returncode == 2
