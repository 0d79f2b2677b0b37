"""Adapters whose adapter_config.json names layers as earlier releases of transformers did.

Expected weights: those of the same adapter written with today's names, which plain PEFT reads.
"""

import json
from pathlib import Path

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model

from models import load_model
from models.errors import InputError

OLD = {
    "llava": "language_model.model.layers",
    "llava_next_mistral": "language_model.model.layers",
    "llava_next_llama3": "language_model.model.layers",
    "gemma3": "language_model.model.layers",
    "qwen2_5_vl": "model.layers",
}
TARGETS = r".*language_model.*\.(q_proj|v_proj)"


def edit(file: Path, **fields) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.fixture
def adapter(tiny_folders, tmp_path):
    """A function that writes an adapter of a family and gives its folder and the logit that it adds to."""

    def written(family: str, **settings) -> Path:
        base, _ = load_model(tiny_folders[family], position_balance=False, dtype="float32")
        torch.manual_seed(5)
        config = LoraConfig(**{"r": 4, "target_modules": TARGETS, "init_lora_weights": False} | settings)
        get_peft_model(base, config).save_pretrained(tmp_path / "adapter")
        edit(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path=str(tiny_folders[family]))
        return tmp_path / "adapter"

    return written


def merged(folder) -> dict[str, torch.Tensor]:
    return load_model(folder, dtype="float32")[0].merge_and_unload().state_dict()


def plain(folder, tiny_folders, family) -> dict[str, torch.Tensor]:
    """By PEFT alone, from the files as they are."""
    base, _ = load_model(tiny_folders[family], position_balance=False, dtype="float32")
    return PeftModel.from_pretrained(base, folder).merge_and_unload().state_dict()


def same(found: dict, expected: dict) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize("written", ["{}", "^{}", "escaped"])
def test_patterns_of_alpha(adapter, tiny_folders, family, written):
    """PEFT lets a pattern that matches nothing pass, and scales those layers as all others."""
    layer = "0.self_attn.q_proj"
    folder = adapter(family, lora_alpha=8, alpha_pattern={f"model.language_model.layers.{layer}": 64})
    expected = plain(folder, tiny_folders, family)
    name = f"{OLD[family]}.{layer}"
    key = name.replace(".", r"\.") if written == "escaped" else written.format(name)
    edit(folder / "adapter_config.json", alpha_pattern={key: 64})
    if written != "^{}":  # which PEFT anchors anew
        assert not same(plain(folder, tiny_folders, family), expected)
    assert same(merged(folder), expected)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_patterns_of_rank(adapter, tiny_folders, family):
    layer = "0.self_attn.q_proj"
    folder = adapter(family, rank_pattern={f"model.language_model.layers.{layer}": 2})
    expected = plain(folder, tiny_folders, family)
    edit(folder / "adapter_config.json", rank_pattern={f"{OLD[family]}.{layer}": 2})
    assert same(merged(folder), expected)


def test_a_pattern_that_names_no_layer_is_refused(adapter):
    folder = adapter("llava")
    for field in ("rank_pattern", "alpha_pattern"):
        edit(folder / "adapter_config.json", rank_pattern={}, alpha_pattern={})
        edit(folder / "adapter_config.json", **{field: {"no.such.layer": 2}})
        with pytest.raises(InputError, match=f"{field} names 'no.such.layer', which no layer"):
            load_model(folder)
    edit(folder / "adapter_config.json", alpha_pattern={"(": 2})
    with pytest.raises(InputError, match="is no regular expression"):
        load_model(folder)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma3"])
def test_targets_by_their_old_names(adapter, tiny_folders, family):
    """Whole paths, and the patterns of ms-swift and LLaMA-Factory, which leave out a part by its old name."""
    folder = adapter(family)
    expected = plain(folder, tiny_folders, family)
    config = folder / "adapter_config.json"
    layers = range(json.loads((tiny_folders[family] / "config.json").read_text())["text_config"]["num_hidden_layers"])
    paths = [f"{OLD[family]}.{layer}.self_attn.{name}" for layer in layers for name in ("q_proj", "v_proj")]
    start = OLD[family].partition(".")[0]
    patterns = (
        rf"^({start})(?=\.).*\.(q_proj|v_proj)$",
        rf"^({start})(?!.*(lm_head|output|emb|wte|shared|visual)).*(q_proj|v_proj)",
        r"^(?!.*(visual|vision_tower)).*(?:q_proj|v_proj).*",
    )
    for targets in (paths, *patterns):
        edit(config, target_modules=targets)
        assert same(merged(folder), expected), targets


def test_modules_to_save_by_their_old_names(adapter, tiny_folders):
    folder = adapter("llava", modules_to_save=["lm_head", "multi_modal_projector"])
    expected = plain(folder, tiny_folders, "llava")
    old = ["language_model.lm_head", "multi_modal_projector"]
    edit(folder / "adapter_config.json", modules_to_save=old)
    assert same(merged(folder), expected)


def test_targets_that_name_no_layer_are_refused(adapter):
    folder = adapter("llava")
    for targets in (["no_such_layer"], r".*no_such_layer", "("):
        edit(folder / "adapter_config.json", target_modules=targets)
        with pytest.raises(InputError, match="target_modules|[Tt]arget modules"):
            load_model(folder)


def test_adapters_that_name_each_other(adapter, tmp_path):
    one, two = adapter("llava"), tmp_path / "two"
    two.mkdir()
    for file in one.iterdir():
        (two / file.name).write_bytes(file.read_bytes())
    edit(one / "adapter_config.json", base_model_name_or_path=str(two))
    edit(two / "adapter_config.json", base_model_name_or_path=str(one))
    with pytest.raises(InputError, match="is an adapter itself; merge that one first"):
        load_model(one)


def test_adapters_that_are_not_lora(adapter, tiny_folders, tmp_path):
    """Their files name no layers that LoRA has; their targets stay as they are."""
    base, _ = load_model(tiny_folders["qwen2_5_vl"], position_balance=False, dtype="float32")
    settings = {
        "target_modules": r"model\.language_model\..*\.(k_proj|down_proj)",
        "feedforward_modules": ["down_proj"],
    }
    torch.manual_seed(5)
    get_peft_model(base, IA3Config(init_ia3_weights=False, **settings)).save_pretrained(tmp_path / "ia3")
    edit(tmp_path / "ia3" / "adapter_config.json", base_model_name_or_path=str(tiny_folders["qwen2_5_vl"]))
    assert same(merged(tmp_path / "ia3"), plain(tmp_path / "ia3", tiny_folders, "qwen2_5_vl"))


def test_peft_saves_what_has_no_config(tiny_folders, tmp_path):
    """Its save_pretrained is ours once a fork was built, and other models must not notice."""
    load_model(tiny_folders["llava"], position_balance=True)
    plain_module = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
    get_peft_model(plain_module, LoraConfig(r=2, target_modules=["0"])).save_pretrained(tmp_path, True, ["default"])
    assert (tmp_path / "adapter_config.json").is_file()
    assert not (tmp_path / "config.json").exists()
