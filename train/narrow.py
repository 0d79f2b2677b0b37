"""The released geometries, their widths and depths cut down: as many tokens, few enough weights for a CPU."""

import copy

import torch

from models.errors import InputError
from models.load import FORKS
from train.geometry import GEOMETRIES, batch_of, image_tokens, new_model, patch_grid
from train.settings import Settings

# Geometry of configs/models -> height and width of its picture, px: the probe's canvas.
CANVAS = (840, 840)
LORA = "qwen2_5_vl_7b"  # of the paper's LoRA
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


def narrow_model(geometry: str, device: torch.device, layers: int | None = None) -> torch.nn.Module:
    """The fork of `narrow_config` with random weights from seed 0, float32, in eval mode; flag off.

    `layers`, of the language model, instead of TEXT's.
    """
    if geometry not in GEOMETRIES:
        raise InputError(f"--geometry {geometry}: choose one of {', '.join(GEOMETRIES)}")
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(0)
        config = narrow_config(geometry)
        config.text_config.num_hidden_layers = layers or config.text_config.num_hidden_layers
        model = new_model(config, Settings(stage="lora", bf16=False))
    return model.eval()


def prompt_of(model: torch.nn.Module, text_tokens: int, rows: int = 1) -> dict[str, torch.Tensor]:
    """A batch of `rows` prompts with one CANVAS each and `text_tokens` tokens of text, on the model's device."""
    tokens = image_tokens(model.config, CANVAS) + text_tokens
    batch = batch_of(model.config, rows, tokens, CANVAS)
    return {name: tensor.contiguous().to(model.device) for name, tensor in batch.items()}


def skeleton(geometry: str) -> torch.nn.Module:
    """The fork of `narrow_config` without weights: its methods of positions need only the config."""
    config = narrow_config(geometry)
    with torch.device("meta"):
        return FORKS[config.model_type](config)


def many_pictures(config, rows: int, tokens: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Prompts of nothing but CANVASes with a token of text around each, about `tokens` long, without padding.

    What `generate` gives a family's positions: `input_ids` and `attention_mask`, (rows, tokens), and sizes of pictures.
    """
    picture = image_tokens(config, CANVAS)
    count = max(1, (tokens - 1) // (picture + 2))
    ids = torch.ones(rows, max(tokens, picture + 3), dtype=torch.long)
    for number in range(count):
        start = 2 + number * (picture + 2)
        ids[:, start : start + picture] = config.image_token_id
    ids = ids.to(device)
    found = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if config.model_type == "llava_next":
        found["image_sizes"] = torch.tensor([CANVAS] * rows * count, device=device)
    if config.model_type == "qwen2_5_vl":
        grid = [1, *patch_grid(config, CANVAS)]
        found["image_grid_thw"] = torch.tensor([grid] * rows * count, device=device)
        found["mm_token_type_ids"] = (ids == config.image_token_id).long()
    return found
