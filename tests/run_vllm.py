"""vLLM itself on tiny checkpoints in float32: replies are those of transformers, with the flag off and on.

    sh scripts/test_vllm.sh

Not part of the suite: it runs in an environment with vLLM (docs/vllm.md). Engines that only compute run in this
process, which saves most of their start; the server and the probe are processes as users start them.
"""

import base64
import gc
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from itertools import product
from pathlib import Path

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
}
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB; otherwise nearly all memory

import peft
import pytest
import torch
from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory
from vllm.lora.request import LoRARequest

from eval import vllm_engine
from eval.generate import prepare, render
from eval.items import picture_parts
from models import load_model
from models.errors import InputError
from models.processors import has_first_token
from models.tiny import FAMILIES, build_tiny
from tests.pictures import picture
from tests.probe_runs import arguments, manifest_of, read_rows, write_probe, write_rows
from tests.vllm_checkpoints import build, questions, turn, video

ROOT = Path(__file__).resolve().parent.parent
FLAGS = (False, True)
NEW_TOKENS = 12
# Of a log-probability. With the flag off, vLLM's own model was seen to differ from transformers by up to 1.5e-6, and
# Gemma3's from transformers without its mask among the tokens of an image, which vLLM's CPU attention has not, as well.
BOUND = 1e-5
PLAIN = {"enforce_eager": True, "enable_prefix_caching": False}
# A prefix is cached by whole blocks, and the prompts are short.
CACHED = {"enforce_eager": True, "enable_prefix_caching": True, "block_size": 32}
# Fewer tokens at a time than a picture has: 16 and more in LLaVA, 3 to 8 in Qwen2.5-VL.
CHUNKED = {family: {"max_num_batched_tokens": 8, "max_num_seqs": 4} for family in FAMILIES}
CHUNKED["qwen2_5_vl"] = {"max_num_batched_tokens": 4, "max_num_seqs": 4}
# Here 8, which cuts pictures but is not less than one: vLLM 0.32 makes room for no more pictures than tokens at a time,
# two of Gemma3 beside each other share a line break, and with room for one alone its scheduler spins, flag off or on.
CHUNKED["gemma3"] = {"max_num_batched_tokens": 8, "max_num_seqs": 1}
COMPILED = {"enforce_eager": False, "enable_prefix_caching": True}
LORA = {"enable_lora": True, "max_loras": 1, "max_lora_rank": 8}


class Reference:
    """transformers' replies to `questions` by a checkpoint, with the log-probability of each token."""

    def __init__(self, folder: Path, flag: bool, adapter: Path | None = None, causal: bool = False):
        self.model, self.processor = load_model(adapter or folder, position_balance=flag, dtype="float32")
        self.causal = causal  # images' tokens see each other one way only

    def reply(self, messages: list[dict], **visual) -> tuple[list[int], list[float]]:
        inputs = prepare(self.processor, [(0, messages)]).inputs | visual
        if self.causal and "token_type_ids" in inputs:
            inputs["token_type_ids"] = torch.zeros_like(inputs["token_type_ids"])
        return self.generate(inputs)

    def generate(self, inputs: dict) -> tuple[list[int], list[float]]:
        settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False}
        with torch.inference_mode():
            found = self.model.generate(**inputs, **settings, output_logits=True, return_dict_in_generate=True)
        tokens = found.sequences[0, inputs["input_ids"].shape[1] :].tolist()
        scores = torch.stack(found.logits)[:, 0].log_softmax(-1)
        return tokens, [row[token].item() for row, token in zip(scores, tokens, strict=True)]

    def prompt(self, messages: list[dict]) -> dict:
        """The same prompt for vLLM, as eval/vllm_engine.py gives it."""
        pictures = [part["picture"] for part in picture_parts(messages)]
        tokens = vllm_engine.prompt_tokens(self.processor, render(self.processor, messages), len(pictures))
        return {"prompt_token_ids": tokens} | ({"multi_modal_data": {"image": pictures}} if pictures else {})

    def sampling(self) -> SamplingParams:
        """Greedy, with log-probabilities, by the settings of the checkpoint."""
        params = vllm_engine.sampling(self.model.generation_config, NEW_TOKENS)
        params.logprobs = 0
        return params


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    return {family: build(family, root / family) for family in FAMILIES}


@pytest.fixture(scope="session")
def adapters(folders, tmp_path_factory) -> dict[str, Path]:
    """Family -> an adapter as training writes it, with weights that matter."""
    root = tmp_path_factory.mktemp("adapters")
    return {family: write_adapter(folder, root / family) for family, folder in folders.items()}


def write_adapter(base: Path, folder: Path, **settings) -> Path:
    model, _ = load_model(base, dtype="float32")
    linear = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    config = peft.LoraConfig(r=8, lora_alpha=16, target_modules=linear, init_lora_weights=False, **settings)
    torch.manual_seed(1)
    peft.get_peft_model(model, config).save_pretrained(folder)
    return folder


def start(folder: Path, **settings) -> LLM:
    limits = {"image": 2, **settings.pop("limit_mm_per_prompt", {})}
    common = {"dtype": "float32", "max_model_len": 1024, "max_num_seqs": 8, "limit_mm_per_prompt": limits}
    return LLM(str(folder), **(common | settings))


def stop(llm: LLM) -> None:
    llm.llm_engine.engine_core.shutdown()
    cleanup_dist_env_and_memory()
    gc.collect()


def compare(found, expected: list[tuple[list[int], list[float]]]) -> float:
    """The largest difference of a log-probability, once all tokens are the same."""
    largest = 0.0
    for output, (tokens, scores) in zip(found, expected, strict=True):
        reply = output.outputs[0]
        assert list(reply.token_ids) == tokens, f"{output.request_id}: {list(reply.token_ids)} instead of {tokens}"
        theirs = [step[token].logprob for step, token in zip(reply.logprobs, tokens, strict=True)]
        largest = max(largest, *(abs(a - b) for a, b in zip(theirs, scores, strict=True)))
    return largest


def is_balanced(llm: LLM) -> bool:
    model = llm.llm_engine.model_executor.driver_worker.worker.model_runner.get_model()
    return type(model).__module__ == "models.vllm_models"


@pytest.mark.parametrize(("family", "flag"), product(FAMILIES, FLAGS))
def test_replies_are_those_of_transformers(family, flag, folders, adapters, tmp_path):
    """Eager with adapters, in chunks with a prefix cache, compiled: flag off, on, and by config.json alone."""
    folder = shutil.copytree(folders[family], tmp_path / "checkpoint")
    if flag:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"position_balance": True}))
    asked = [turn(parts) for parts in questions()]
    causal = family == "gemma3"
    reference = Reference(folder, flag, causal=causal)
    expected = [reference.reply(messages) for messages in asked]
    prompts, params = [reference.prompt(messages) for messages in asked], reference.sampling()
    assert len({tuple(tokens) for tokens, _ in expected}) > 15, "replies that hardly differ show little"

    reference.model.config.position_balance = not flag
    _, other = reference.reply(asked[2])
    assert max(abs(a - b) for a, b in zip(other, expected[2][1], strict=False)) > 100 * BOUND, "the flag shows"
    reference.model.config.position_balance = flag

    adapted = Reference(folder, flag, adapters[family], causal=causal)
    with_adapter = [adapted.reply(messages) for messages in asked]
    assert with_adapter != expected

    llm = start(folder, **PLAIN, **LORA)
    assert is_balanced(llm) == flag
    differences = {"eager": compare(llm.generate(prompts, params, use_tqdm=False), expected)}
    request = LoRARequest("adapter", 1, str(adapters[family]))
    found = llm.generate(prompts, params, use_tqdm=False, lora_request=request)
    differences["adapter"] = compare(found, with_adapter)
    # Not mixed in one batch: on the CPU vLLM 0.32, its own models too, then gives all of them the adapter.
    compare(llm.generate(prompts, params, use_tqdm=False), expected)
    stop(llm)

    llm = start(folder, **CACHED, **CHUNKED[family])
    differences["chunked"] = compare(llm.generate(prompts, params, use_tqdm=False), expected)
    again = llm.generate(prompts, params, use_tqdm=False)
    differences["cached"] = compare(again, expected)
    with_pictures = [output.num_cached_tokens for output, prompt in zip(again, prompts, strict=True) if len(prompt) > 1]
    assert max(with_pictures) >= 32, "no prefix came from the cache"
    stop(llm)

    llm = start(folder, **COMPILED)
    differences["compiled"] = compare(llm.generate(prompts, params, use_tqdm=False), expected)
    stop(llm)
    print(family, flag, {name: f"{value:.1e}" for name, value in differences.items()})
    assert max(differences.values()) < BOUND
    if causal:
        real = Reference(folder, flag)
        gap = max(
            abs(a - b)
            for messages, (tokens, scores) in zip(asked, expected, strict=True)
            for theirs, mine in [real.reply(messages)]
            if theirs == tokens
            for a, b in zip(mine, scores, strict=True)
        )
        print(f"{family} {flag}: {gap:.1e} from transformers with its mask among the tokens of an image")


def test_a_video_has_one_position_for_each_temporal_patch(folders):
    """Qwen2.5-VL, beside a picture, flag off and on."""
    frames, told = video()
    for flag in FLAGS:
        reference = Reference(folders["qwen2_5_vl"], flag)
        processor = reference.processor
        content = [{"type": "image"}, {"type": "video"}, {"type": "text", "text": "what moves?"}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        if processor.video_token not in text:  # the tiny template knows pictures only
            text = text.replace("what moves?", f"<|vision_start|>{processor.video_token}<|vision_end|>what moves?")
        still = picture(90, 60)
        inputs = processor(
            text=[text],
            images=[still],
            videos=[torch.tensor(frames).permute(0, 3, 1, 2)],
            video_metadata=[told],
            return_tensors="pt",
            do_sample_frames=False,
        )
        expected = reference.generate(dict(inputs))
        llm = start(
            folders["qwen2_5_vl"], **PLAIN, limit_mm_per_prompt={"video": 1}, hf_overrides={"position_balance": flag}
        )
        data = {"image": [still], "video": [(frames, told | {"do_sample_frames": False})]}
        tokens = processor.tokenizer(text)["input_ids"]
        found = llm.generate(
            [{"prompt_token_ids": tokens, "multi_modal_data": data}], reference.sampling(), use_tqdm=False
        )
        assert len(found[0].prompt_token_ids) == inputs["input_ids"].shape[1]
        assert compare(found, [expected]) < BOUND
        stop(llm)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"model_impl": "transformers"}, "no counterpart here"),
        ({"hf_overrides": {"position_balance": "yes"}}, 'write "position_balance": true or "position_balance": false'),
        ({"enable_prompt_embeds": True}, "leave out --enable-prompt-embeds"),
    ],
)
def test_what_cannot_be_balanced_is_refused(settings, told, folders):
    with pytest.raises(ValueError, match=told):
        start(folders["llava"], **({"hf_overrides": {"position_balance": True}} | settings))


def test_pruned_videos_are_refused(folders):
    with pytest.raises(ValueError, match="leave out --video-pruning-rate"):
        start(folders["qwen2_5_vl"], hf_overrides={"position_balance": True}, video_pruning_rate=0.5)


def test_the_original_layout_is_refused_with_the_command_that_converts_it(folders, tmp_path):
    folder = build_tiny("llava_next_mistral", tmp_path / "original", layout="llava")
    with pytest.raises(ValueError, match="convert it once") as error:
        start(folder)
    command = next(line for line in str(error.value).splitlines() if "convert it once" in line).partition("once: ")[2]
    command = command.partition(" [type=")[0]
    subprocess.run(command.replace("python ", f"{sys.executable} ", 1), shell=True, check=True)
    converted = json.loads((tmp_path / "original-hf" / "config.json").read_text())
    assert converted["architectures"] == ["LlavaNextForConditionalGeneration"]
    with pytest.raises(InputError, match="convert it once"):
        vllm_engine.refuse_original_layout(str(folder), json.loads((folder / "config.json").read_text()))


def data_url(image) -> str:
    stored = io.BytesIO()
    image.save(stored, "PNG")
    return "data:image/png;base64," + base64.b64encode(stored.getvalue()).decode()


def ask_server(port: int, body: dict) -> dict:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as response:
        return json.load(response)


@pytest.mark.parametrize("family", FAMILIES)
def test_vllm_serve_answers_over_http(family, tmp_path):
    """config.json says true, and nothing else does."""
    folder = build(family, tmp_path / family, position_balance=True)
    still = picture(90, 60, seed=3)
    reference = Reference(folder, True, causal=family == "gemma3")
    asked = turn([still, "what is it?"])
    tokens, _ = reference.reply(asked)
    text = reference.processor.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["vllm", "serve", str(folder), "--port", str(port), "--dtype", "float32", "--max-model-len", "1024"]
    log = open(tmp_path / "log", "w+")
    environment = {name: value for name, value in os.environ.items() if name != "VLLM_ENABLE_V1_MULTIPROCESSING"}
    server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    try:
        deadline = time.monotonic() + 900
        while True:
            assert server.poll() is None, Path(log.name).read_text()[-3000:]
            assert time.monotonic() < deadline, "the server does not come up"
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                time.sleep(1)
        content = [
            {"type": "image_url", "image_url": {"url": data_url(still)}},
            {"type": "text", "text": "what is it?"},
        ]
        bias = {str(token): -100 for token in reference.model.generation_config.suppress_tokens}
        body = {"model": str(folder), "messages": [{"role": "user", "content": content}], "temperature": 0}
        # By default the server's tokenizer puts no first token before a template that has none (docs/vllm.md).
        first = not has_first_token(reference.processor, render(reference.processor, asked))
        body |= {"max_tokens": NEW_TOKENS, "logit_bias": bias, "add_special_tokens": first, "return_token_ids": True}
        (choice,) = ask_server(port, body)["choices"]
        ends = reference.model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        assert [token for token in choice["token_ids"] if token not in ends] == [
            token for token in tokens if token not in ends
        ]
        # Tokens are bytes here: the server keeps back a character whose last bytes the reply has not come to.
        unfinished = "\N{REPLACEMENT CHARACTER}"
        assert choice["message"]["content"].rstrip(unfinished) == text.rstrip(unfinished)
    finally:
        server.terminate()
        server.wait(60)
        log.close()


def probe(folder: Path, canvases: Path, answers: Path, *more) -> subprocess.CompletedProcess:
    command = [sys.executable, "eval/probe.py", *arguments(folder, canvases, answers, *more)]
    environment = {name: value for name, value in os.environ.items() if name != "VLLM_ENABLE_V1_MULTIPROCESSING"}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=1800)


@pytest.mark.parametrize("flag", FLAGS)
def test_the_probe_writes_the_same_file_with_either_engine(flag, tmp_path):
    """From scratch with a broken picture, and again from half of the answers, with an adapter in its folder."""
    folder = build("qwen2_5_vl", tmp_path / "checkpoint", position_balance=flag)
    model = folder if flag else write_adapter(folder, tmp_path / "adapter")
    canvases = write_probe(tmp_path / "probe")
    broken = canvases / "images" / "000001_3.jpg"
    broken.write_bytes(broken.read_bytes()[:-200])
    expected, found = tmp_path / "transformers.jsonl", tmp_path / "vllm.jsonl"
    assert probe(model, canvases, expected).returncode == 1
    ran = probe(model, canvases, found, "--engine", "vllm")
    assert ran.returncode == 1, ran.stderr
    assert f"position_balance {str(flag).lower()}" in ran.stdout
    assert found.read_bytes() == expected.read_bytes()
    settings = json.loads(manifest_of(found).read_text())
    assert settings["engine"] == "vllm"
    assert any("vllm" in name for name in settings["versions"])
    assert settings["generation"] == json.loads(manifest_of(expected).read_text())["generation"]

    mixed = probe(model, canvases, found)
    assert mixed.returncode == 2
    assert 'engine: "vllm" -> "transformers"' in mixed.stderr

    if flag:
        kept = read_rows(found)[::2]
        write_rows(found, kept)
        answered = sum("prediction" in row for row in kept)
        assert 0 < answered < len(kept), "the row of the broken picture is kept, too, and asked again"
        again = probe(model, canvases, found, "--engine", "vllm")
        assert f"{answered} resumed, 1 errors" in again.stdout, again.stdout + again.stderr
        assert found.read_bytes() == expected.read_bytes()


def test_the_benchmark_compares_both_engines_over_the_same_items(tmp_path):
    """eval/benchmark.py engine: a row with a ratio; in float32 it asserts itself that the replies are the same."""
    folder = build("qwen2_5_vl", tmp_path / "checkpoint", position_balance=True)
    canvases, saved = write_probe(tmp_path / "probe"), tmp_path / "speed.json"
    data = ["--eval_file", canvases / "probe.jsonl", "--img_path", canvases / "images", "--output_json", saved]
    few = ["--model_path", folder, "--items", 2, "--rounds", 1]
    environment = {name: value for name, value in os.environ.items() if name != "VLLM_ENABLE_V1_MULTIPROCESSING"}
    command = [sys.executable, "eval/benchmark.py", "engine", *map(str, [*data, *few])]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=1800)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "engine: 0 of 2 replies differ" in ran.stdout
    (row,) = json.loads(saved.read_text())["rows"]
    assert (row["part"], row["first"], row["second"]) == ("engine", "transformers", "vLLM")
    assert row["ratio"]["units"] == 2
    assert min(row["ratio"]["seconds"]) > 0
