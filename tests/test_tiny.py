"""Tiny checkpoints: complete, in the released layout, and the picture changes what they say."""

import json

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import AutoProcessor, AutoTokenizer

from models.errors import InputError
from models.tiny import FAMILIES, build_tiny, main
from tests.conftest import UPSTREAM
from tests.pictures import picture

# A few keys of each released checkpoint's safetensors.
RELEASED = {
    "llava": (
        "language_model.model.layers.0.self_attn.q_proj.weight",
        "language_model.lm_head.weight",
        "multi_modal_projector.linear_1.weight",
        "vision_tower.vision_model.embeddings.patch_embedding.weight",
    ),
    "llava_next": ("image_newline", "language_model.lm_head.weight", "vision_tower.vision_model.pre_layrnorm.weight"),
    "qwen2_5_vl": ("model.layers.0.self_attn.q_proj.weight", "visual.blocks.0.attn.qkv.weight", "lm_head.weight"),
    "gemma3": (
        "language_model.model.embed_tokens.weight",
        "multi_modal_projector.mm_input_projection_weight",
        "vision_tower.vision_model.post_layernorm.weight",
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_complete_and_small(tiny_folders, family):
    folder = tiny_folders[family]
    assert sum(file.stat().st_size for file in folder.rglob("*")) < 5e6
    config = json.loads((folder / "config.json").read_text())
    upstream = UPSTREAM[config["model_type"]]
    assert config["architectures"] == [upstream.__name__]
    with safe_open(folder / "model.safetensors", framework="pt") as weights:
        keys = set(weights.keys())
    assert keys >= set(RELEASED[config["model_type"]])
    model, report = upstream.from_pretrained(folder, output_loading_info=True)
    assert not any(report[f"{problem}_keys"] for problem in ("missing", "unexpected", "mismatched"))
    assert AutoTokenizer.from_pretrained(folder).decode(AutoTokenizer.from_pretrained(folder)("é? ")["input_ids"])
    if config["model_type"] != "qwen2_5_vl":  # whose plain processor needs torchvision
        assert AutoProcessor.from_pretrained(folder).chat_template


def test_the_picture_changes_the_logits(kit):
    red = Image.new("RGB", (90, 60), "red")
    one, other = kit.inputs((picture(90, 60, 1), "?")), kit.inputs((red, "?"))
    for flag in (False, True):
        model = kit.with_flag(flag)
        with torch.no_grad():
            before, after = model(**one).logits[0, -1], model(**other).logits[0, -1]
        assert (before - after).std() > 0.05 * before.std()


def test_same_seed_same_weights(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        build_tiny("gemma3", tmp_path / name, seed=seed)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_bad_requests(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(InputError, match="not an empty folder"):
        build_tiny("llava", tmp_path / "full")
    with pytest.raises(InputError, match="llava families only"):
        main(["--family", "gemma3", "--output_dir", str(tmp_path / "new"), "--layout", "llava"])
    with pytest.raises(InputError, match="are parts of family llava"):
        build_tiny("gemma3", tmp_path / "new", part="vision_tower")
    assert not (tmp_path / "new").exists()
