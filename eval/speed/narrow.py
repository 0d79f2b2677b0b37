"""The released geometries, their widths and depths cut down: as many tokens, few enough weights for a CPU."""

import copy

import torch

from models.errors import InputError
from models.load import FORKS
from train.geometry import GEOMETRIES, batch_of, image_tokens, new_model
from train.settings import Settings

# Geometry of configs/models -> height and width of its picture, px: the probe's canvas.
CANVAS = (840, 840)
FAMILIES = ("llava_1_5_7b", "llava_1_6_mistral_7b", "llama3_llava_next_8b", "qwen2_5_vl_7b", "gemma3_12b")
TEXT = {
    "vocab_size": 1024,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
VISION = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4}
QWEN_VISION = {"hidden_size": 128, "intermediate_size": 256, "depth": 3, "num_heads": 4, "out_hidden_size": 256}
SPECIAL = {"image": 1001, "video": 1002, "vision_start": 1003, "vision_end": 1004, "boi": 1005, "eoi": 1006}


def narrow_config(geometry: str):
    """The config of a released geometry with TEXT's and VISION's sizes; its patches, tiles and windows are kept."""
    model_type, values = GEOMETRIES[geometry]
    values = copy.deepcopy(values)
    qwen, gemma = model_type == "qwen2_5_vl", model_type == "gemma3"
    text = values.get("text_config", {}) | TEXT
    if qwen:
        text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]}
        text.pop("head_dim")
    values["text_config"] = text
    values["vision_config"] = values.get("vision_config", {}) | (QWEN_VISION if qwen else VISION)
    if not qwen and not gemma:
        values["vision_config"] |= {"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14}
    suffix = "_token_id" if qwen else "_token_index"
    names = (
        ("image", "video", "vision_start", "vision_end") if qwen else ("image", "boi", "eoi") if gemma else ("image",)
    )
    values |= {f"{name}{suffix}": SPECIAL[name] for name in names}
    return FORKS[model_type].config_class(**values)


def narrow_model(geometry: str, device: torch.device) -> torch.nn.Module:
    """The fork of `narrow_config` with random weights from seed 0, float32, in eval mode; flag off."""
    if geometry not in GEOMETRIES:
        raise InputError(f"--geometry {geometry}: choose one of {', '.join(GEOMETRIES)}")
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(0)
        model = new_model(narrow_config(geometry), Settings(stage="lora", bf16=False))
    return model.eval()


def prompt_of(model: torch.nn.Module, text_tokens: int, rows: int = 1) -> dict[str, torch.Tensor]:
    """A batch of `rows` prompts with one CANVAS each and `text_tokens` tokens of text, on the model's device."""
    tokens = image_tokens(model.config, CANVAS) + text_tokens
    batch = batch_of(model.config, rows, tokens, CANVAS)
    return {name: tensor.contiguous().to(model.device) for name, tensor in batch.items()}
