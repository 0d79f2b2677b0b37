"""Merging LoRA: the same logits on every family, whole or absent, and only into what the adapter was trained on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear
from safetensors.torch import load_file, save_file

from models import load_model
from models.errors import InputError
from models.fingerprint import base_identity
from models.tiny import FAMILIES, build_tiny
from tests.pictures import picture
from train import merge_lora

SCRIPT = Path(merge_lora.__file__)
TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


def make_adapter(base: Path, folder: Path, flag: bool | None = False, training: bool = True, **settings) -> Path:
    """A LoRA adapter as training writes it, with random matrices."""
    model, _ = load_model(base, position_balance=False, dtype="float32")
    torch.manual_seed(5)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=TARGETS, init_lora_weights=False, **settings))
    for name, weight in adapted.named_parameters():
        if "modules_to_save" in name:
            weight.data += 0.1 * torch.randn_like(weight)
    adapted.save_pretrained(folder)
    edit_json(folder / "adapter_config.json", base_model_name_or_path=str(base))
    (folder / "config.json").unlink()
    if flag is not None:
        (folder / "config.json").write_text(json.dumps({"position_balance": flag}))
    else:  # as other tools write it
        edit_json(folder / "adapter_config.json", auto_mapping=None)
    if training:
        described = {"position_balance": flag, "base": {"path": str(base), "files": base_identity(base)}}
        (folder / "training.json").write_text(json.dumps(described))
    return folder


def without_flag(checkpoint: Path, folder: Path) -> Path:
    """A copy whose config.json does not say, as a released one."""
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    del config["position_balance"]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def edit_json(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def merge(adapter, out, *more) -> int:
    command = ["--model_path", adapter, "--save_model_path", out, *more]
    return merge_lora.main([str(word) for word in command])


def logits(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


def refused(adapter, out, message, *more):
    """Exit status 2, one line, nothing written."""
    with pytest.raises(InputError, match=message) as error:
        merge(adapter, out, *more)
    assert "\n" not in str(error.value)
    assert not list(out.parent.glob(f"*{out.name}*"))


@pytest.fixture(scope="module")
def adapter(tiny_folders, tmp_path_factory):
    """Of the tiny LLaVA, flag off; tests must not write there."""
    return make_adapter(tiny_folders["llava"], tmp_path_factory.mktemp("adapter") / "llava")


@pytest.fixture
def copy(adapter, tmp_path):
    return shutil.copytree(adapter, tmp_path / "adapter")


@pytest.mark.parametrize("flag", [False, True])
def test_same_logits_as_base_and_adapter(kit, tmp_path, flag, capsys):
    projector = {"modules_to_save": ["multi_modal_projector"]} if kit.family == "llava_next_mistral" else {}
    base = without_flag(kit.folder, tmp_path / "base")
    adapter = make_adapter(base, tmp_path / "adapter", flag, **projector)
    assert merge(adapter, tmp_path / "out") == 0
    assert "largest difference of a logit, read back in float32" in capsys.readouterr().out
    merged, processor = load_model(tmp_path / "out", dtype="float32")
    apart, _ = load_model(adapter, dtype="float32")
    assert type(merged) is type(kit.fork)
    assert merged.config.position_balance is flag
    assert processor.chat_template == kit.processor.chat_template
    inputs = kit.inputs((picture(90, 60), "what?"))
    difference = (logits(merged, inputs) - logits(apart, inputs)).abs().max()
    assert difference < 1e-5
    assert (logits(merged, inputs) - logits(kit.with_flag(flag), inputs)).abs().max() > 1e-2
    assert json.loads((tmp_path / "out" / "training.json").read_text())["position_balance"] is flag
    # Under the names of the released checkpoints: other tools read it, too.
    names = [load_file(folder / "model.safetensors").keys() for folder in (tmp_path / "out", kit.folder)]
    assert names[0] == names[1]


@pytest.mark.parametrize(("family", "dtype"), [*((family, "bfloat16") for family in FAMILIES), ("llava", "float16")])
def test_half_precision(tiny_folders, tmp_path, family, dtype, capsys):
    """--dtype, and a base that is in it; what is written is each weight's sum, rounded once."""
    base = tiny_folders[family]
    adapter = make_adapter(base, tmp_path / "adapter")
    assert merge(adapter, tmp_path / "out", "--dtype", dtype) == 0
    assert f"read back in {dtype}" in capsys.readouterr().out
    merged, _ = load_model(tmp_path / "out")
    assert merged.dtype == getattr(torch, dtype)
    half, processor = load_model(base, False, dtype=dtype)
    half.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    assert merge(adapter, tmp_path / "again", "--model_base", tmp_path / "base", "--force") == 0
    again = load_model(tmp_path / "again")[0].state_dict()
    assert all(torch.equal(again[name], weight) for name, weight in merged.state_dict().items())
    name = "model.language_model.layers.1.mlp.down_proj"
    apart = load_model(adapter, dtype=dtype)[0].get_submodule(f"base_model.model.{name}")
    exact = apart.base_layer.weight.float() + apart.get_delta_weight("default").float()
    found = merged.get_submodule(name).weight
    assert (found.float() - exact).abs().max() <= exact.abs().max() * torch.finfo(merged.dtype).eps


def test_an_original_llava_base_and_an_adapter_of_other_tools(tmp_path, capsys):
    """Nothing says what it was trained on: merged with one notice, with the base's flag."""
    base = build_tiny("llava", tmp_path / "base", layout="llava")
    edit_json(base / "config.json", position_balance=True)
    adapter = make_adapter(base, tmp_path / "adapter", flag=None, training=False)
    assert merge(adapter, tmp_path / "out") == 0
    assert capsys.readouterr().err.count("warning: ") == 1
    model, _ = load_model(tmp_path / "out")
    assert model.config.position_balance is True
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "llava"
    assert not (tmp_path / "out" / "training.json").exists()


def test_another_base_is_refused(tiny_folders, copy, tmp_path, capsys):
    other = build_tiny("llava", tmp_path / "other", seed=1)
    refused(copy, tmp_path / "out", r"other/model.safetensors: is not what .*llava.*--force", "--model_base", other)
    assert merge(copy, tmp_path / "out", "--model_base", other, "--force") == 0
    assert "other/model.safetensors" in capsys.readouterr().err
    # Another family is no base at all, and what does not fit does not fit.
    edit_json(copy / "config.json", model_type="llava")
    wrong = tiny_folders["qwen2_5_vl"]
    refused(copy, tmp_path / "o2", "an adapter for llava, but .* is qwen2_5_vl; name", "--model_base", wrong, "--force")
    edit_json(copy / "adapter_config.json", r=8)
    refused(copy, tmp_path / "o2", "the adapter cannot be put on", "--force")


def test_the_flag_of_the_base(tiny_folders, tmp_path, capsys):
    """It does not make another base, but must not contradict the adapter; nor need it say anything."""
    base = without_flag(tiny_folders["llava"], tmp_path / "base")
    adapter = make_adapter(base, tmp_path / "adapter", flag=True)
    moved = shutil.copytree(base, tmp_path / "moved")
    edit_json(moved / "config.json", position_balance=True)
    assert merge(adapter, tmp_path / "out", "--model_base", moved) == 0
    assert "warning" not in capsys.readouterr().err
    edit_json(moved / "config.json", position_balance=False)
    refused(adapter, tmp_path / "o2", "moved/config.json: position_balance is false, but true", "--model_base", moved)
    assert merge(adapter, tmp_path / "o2", "--model_base", moved, "--force") == 0
    assert load_model(tmp_path / "o2")[0].config.position_balance is True
    assert "moved/config.json: position_balance" in capsys.readouterr().err


def test_the_flag_of_the_adapter(tiny_folders, tmp_path):
    base = without_flag(tiny_folders["llava"], tmp_path / "base")
    adapter = make_adapter(base, tmp_path / "adapter", flag=True)
    edit_json(adapter / "config.json", position_balance=False)
    refused(adapter, tmp_path / "out", "adapter/config.json: position_balance is false, but true in .*training.json")
    assert merge(adapter, tmp_path / "out", "--force") == 0
    assert load_model(tmp_path / "out")[0].config.position_balance is False
    (adapter / "config.json").unlink()
    assert merge(adapter, tmp_path / "o2") == 0
    assert load_model(tmp_path / "o2")[0].config.position_balance is True


def test_bad_input_is_named(tiny_folders, copy, tmp_path):
    refused(tiny_folders["llava"], tmp_path / "out", "no adapter_config.json")
    refused(tmp_path / "none", tmp_path / "out", "none: no such folder")
    refused(copy, tmp_path / "out", "no such folder.*--model_base names another", "--model_base", tmp_path / "gone")
    refused(copy, tmp_path / "out", "an adapter itself; merge it first", "--model_base", copy)
    with pytest.raises(InputError, match="--save_model_path .*: exists and is not an empty folder"):
        merge(copy, tiny_folders["llava"])
    edit_json(copy / "training.json", position_balance="yes")
    refused(copy, tmp_path / "out", 'training.json: "position_balance" is "yes"')
    edit_json(copy / "training.json", position_balance=True, base={"path": "x"})
    edit_json(copy / "adapter_config.json", base_model_name_or_path=None)
    refused(copy, tmp_path / "out", "name the base by --model_base")
    edit_json(copy / "adapter_config.json", peft_type="IA3")
    refused(copy, tmp_path / "out", "peft_type 'IA3'; supported: LORA")


def test_an_adapter_of_nans_is_not_merged(copy, tmp_path):
    file = copy / "adapter_model.safetensors"
    weights = load_file(file)
    weights[min(weights)] = torch.full_like(weights[min(weights)], torch.nan)
    save_file(weights, file)
    refused(copy, tmp_path / "out", "the adapter cannot be merged .NaNs")


def spoil_weight(folder, scale):
    file = folder / "model.safetensors"
    weights = load_file(file)
    weights["vision_tower.vision_model.post_layernorm.bias"] *= scale  # which no logit depends on
    save_file(weights, file, metadata={"format": "pt"})


def test_what_was_written_wrongly_is_not_left(copy, tmp_path, monkeypatch, capsys):
    """A weight changed on disk, a file cut short, and weights rounded to less than the dtype holds."""
    save = merge_lora.save

    def changed(model, processor, dtype, folder):
        written = save(model, processor, dtype, folder)
        spoil_weight(folder, 1.01)
        return written

    def cut(model, processor, dtype, folder):
        written = save(model, processor, dtype, folder)
        os.truncate(folder / "model.safetensors", 99_999)
        return written

    def coarse(model, processor, dtype, folder):
        for weight in model.parameters():
            weight.data = weight.data.to(torch.float8_e4m3fn)
        return save(model, processor, dtype, folder)

    for fault, message in (
        (changed, "1 weights read back are not those that were merged"),
        (cut, "cannot be read back"),
        (coarse, "saving in bfloat16 changes a logit by"),
    ):
        monkeypatch.setattr(merge_lora, "save", fault)
        assert merge(copy, tmp_path / "out", "--dtype", "bfloat16") == 1
        assert message in capsys.readouterr().err
        assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_layer_left_out_is_seen_in_any_precision(copy, tmp_path, monkeypatch, capsys):
    merge_one = Linear.merge

    def forgetful(self, *args, **kwargs):
        if self.in_features != 96 or self.lora_A["default"].weight.sum() > 0:  # one of the two down_proj
            merge_one(self, *args, **kwargs)

    monkeypatch.setattr(Linear, "merge", forgetful)
    assert merge(copy, tmp_path / "out", "--dtype", "bfloat16") == 1
    assert "merging changes a logit by" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_killed_merge_leaves_nothing_under_the_name(copy, tmp_path):
    command = [sys.executable, SCRIPT, "--model_path", copy, "--save_model_path", tmp_path / "out"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not list(tmp_path.glob(".out.*/out/*.safetensors")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert merge(copy, tmp_path / "out") == 0


def test_the_command_line(copy, tmp_path):
    command = [sys.executable, SCRIPT, "--model_path", "adapter", "--save_model_path", "out", "--model_base", "none"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "none: no such folder" in line
    assert "Traceback" not in result.stderr


def test_a_tied_head_is_refused_by_name(tiny_folders, tmp_path, capsys):
    """Merged, it would change the embeddings as well; where it has a weight of its own, it is merged."""
    for family, status in (("gemma3", 2), ("qwen2_5_vl", 0)):
        base, _ = load_model(tiny_folders[family], position_balance=False)
        adapter = tmp_path / family
        get_peft_model(base, LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False)).save_pretrained(
            adapter
        )
        if status:
            with pytest.raises(InputError, match=r"adapts lm_head, whose weight is tied .*tie_word_embeddings"):
                merge(adapter, tmp_path / f"{family}-merged")
        else:
            assert merge(adapter, tmp_path / f"{family}-merged") == 0
