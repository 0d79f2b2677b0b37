"""Folders that training in the LLaVA code base leaves: LoRA with what was trained beside it, and a projector alone.

What they must come to is a whole checkpoint in the same layout, with the products of LoRA added by hand.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models import load_model
from models.errors import InputError
from models.fingerprint import fingerprint, fingerprint_tower
from models.tiny import build_tiny
from tests.pictures import picture
from train import merge_lora

RANK, ALPHA = 4, 8


@pytest.fixture(scope="module", params=["llava", "llava_next_mistral"])
def whole(request, tmp_path_factory) -> Path:
    return build_tiny(request.param, tmp_path_factory.mktemp("original") / "whole", layout="llava")


def config_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def parts(whole: Path, root: Path) -> tuple[Path, Path, Path]:
    """(a language model, LoRA on it, the whole checkpoint that the two come to), as the code base writes them."""
    torch.manual_seed(3)
    weights, config = load_file(whole / "model.safetensors"), config_of(whole)
    language, lora, merged = root / "vicuna", root / "llava-lora", root / "merged"
    shutil.copytree(whole, language)
    shutil.rmtree(language / "vision_tower")
    plain = {name: value for name, value in config.items() if not name.startswith(("mm_", "image_"))}
    kind = config["model_type"].removeprefix("llava_")
    (language / "config.json").write_text(json.dumps(plain | {"model_type": kind}))
    own = {
        name: tensor
        for name, tensor in weights.items()
        if not name.startswith(("model.mm_", "model.image", "model.vis"))
    }
    save_file(own, language / "model.safetensors", metadata={"format": "pt"})

    lora.mkdir()
    shutil.copytree(whole / "vision_tower", lora / "vision_tower")
    start = "model.vision_tower.vision_tower."
    tower = {name.removeprefix(start): tensor for name, tensor in weights.items() if name.startswith(start)}
    save_file(tower, lora / "vision_tower" / "model.safetensors", metadata={"format": "pt"})
    (lora / "config.json").write_text(json.dumps(config | {"_name_or_path": str(language)}))
    adapter = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(language),
        "r": RANK,
        "lora_alpha": ALPHA,
        "target_modules": ["q_proj", "v_proj", "down_proj"],
    }
    (lora / "adapter_config.json").write_text(json.dumps(adapter))
    beside, matrices, sums = {}, {}, dict(weights)
    for name, tensor in weights.items():
        if name.startswith(("model.mm_", "model.image")):
            sums[name] = tensor + 0.1 * torch.randn_like(tensor)
            beside[f"base_model.model.{name}"] = sums[name]
        elif name.startswith("model.layers") and name.split(".")[-2] in adapter["target_modules"]:
            a, b = torch.randn(RANK, tensor.shape[1]) / 4, torch.randn(tensor.shape[0], RANK) / 4
            matrices[f"base_model.model.{name.replace('weight', 'lora_A.weight')}"] = a
            matrices[f"base_model.model.{name.replace('weight', 'lora_B.weight')}"] = b
            sums[name] = tensor + ALPHA / RANK * b @ a
    torch.save(beside, lora / "non_lora_trainables.bin")
    torch.save(matrices, lora / "adapter_model.bin")
    shutil.copytree(whole, merged)
    save_file(sums, merged / "model.safetensors", metadata={"format": "pt"})
    return language, lora, merged


def logits(folder, **arguments) -> torch.Tensor:
    model, processor = load_model(folder, dtype="float32", **arguments)
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it?"}]}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    with torch.no_grad():
        return model(**processor(text=[text], images=[[picture(80, 60)]], return_tensors="pt")).logits


@pytest.mark.parametrize("flag", [True, False])
def test_lora_of_the_code_base(whole, tmp_path, flag):
    language, lora, merged = parts(whole, tmp_path)
    found, expected = logits(lora, position_balance=flag), logits(merged, position_balance=flag)
    assert (found - expected).abs().max() < 1e-4
    assert (expected - logits(whole, position_balance=flag)).abs().max() > 1e-2


def test_lora_of_the_code_base_is_merged(whole, tmp_path):
    language, lora, merged = parts(whole, tmp_path)
    config = config_of(lora) | {"position_balance": True}
    (lora / "config.json").write_text(json.dumps(config))
    out = tmp_path / "out"
    assert merge_lora.main(["--model_path", str(lora), "--save_model_path", str(out)]) == 0
    assert config_of(out)["position_balance"] is True
    assert (logits(out) - logits(merged, position_balance=True)).abs().max() < 1e-4


def test_a_projector_alone(whole, tmp_path):
    language, lora, merged = parts(whole, tmp_path)
    projector = tmp_path / "llava-pretrain"
    shutil.copytree(lora, projector, ignore=shutil.ignore_patterns("adapter*", "non_lora*"))
    beside = torch.load(lora / "non_lora_trainables.bin")
    torch.save(
        {name.removeprefix("base_model.model."): tensor for name, tensor in beside.items()},
        projector / "mm_projector.bin",
    )
    weights = load_file(whole / "model.safetensors") | torch.load(projector / "mm_projector.bin")
    expected = shutil.copytree(whole, tmp_path / "expected")
    save_file(weights, expected / "model.safetensors", metadata={"format": "pt"})
    for flag in (True, False):
        assert torch.equal(logits(projector, position_balance=flag), logits(expected, position_balance=flag))
    (projector / "config.json").write_text(json.dumps(config_of(whole)))
    with pytest.raises(InputError, match="a projector alone; write the folder of its language model as _name_or_path"):
        load_model(projector)


def test_the_language_model_and_the_tower_decide_answers_too(whole, tmp_path):
    """A run is not continued on another base: all files that loading reads are hashed."""
    language, lora, _ = parts(whole, tmp_path)
    projector = tmp_path / "llava-pretrain"
    shutil.copytree(lora, projector, ignore=shutil.ignore_patterns("adapter*", "non_lora*"))
    shutil.copyfile(lora / "non_lora_trainables.bin", projector / "mm_projector.bin")
    for folder in (lora, projector):
        before, tower = fingerprint(folder), fingerprint_tower(folder)
        assert "base/model.safetensors" in before
        assert tower.keys() >= {"config.json", "model.safetensors"}
        config = config_of(language)
        (language / "config.json").write_text(json.dumps(config | {"rope_theta": 7}))
        after = fingerprint(folder)
        (language / "config.json").write_text(json.dumps(config))
        assert {name for name in before if before[name] != after[name]} == {"base/config.json"}


def test_what_is_missing_is_named(whole, tmp_path):
    language, lora, _ = parts(whole, tmp_path)
    (lora / "non_lora_trainables.bin").rename(lora / "elsewhere")
    with pytest.raises(InputError, match=r"non_lora_trainables\.bin is missing, which holds the projector"):
        load_model(lora)
    (lora / "elsewhere").rename(lora / "non_lora_trainables.bin")
    (language / "config.json").write_text(json.dumps(config_of(language) | {"model_type": "opt"}))
    with pytest.raises(InputError, match="model_type 'opt' is no language model"):
        load_model(lora)
    shutil.rmtree(language)
    with pytest.raises(InputError, match="its base cannot be loaded: .*vicuna: no such folder"):
        load_model(lora)
