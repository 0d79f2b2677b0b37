"""A released geometry in full size with random weights and a tokenizer of bytes: speed, where no weights can be had."""

import copy

import torch
from transformers import GenerationConfig

from models import tiny
from models.errors import InputError
from models.load import FORKS
from models.processors import set_pixel_bounds
from train.geometry import GEOMETRIES, new_model
from train.settings import Settings

FAMILY = "qwen2_5_vl"  # whose processor needs nothing of the checkpoint but its tokens
IDS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
PIXELS = (56 * 56, 12_845_056)  # of a picture, as released


def check_geometry(geometry: str) -> None:
    """Raise InputError for a geometry that is none, or of another family."""
    names = [name for name, (family, _) in GEOMETRIES.items() if family == FAMILY]
    if geometry not in names:
        raise InputError(f"--geometry {geometry}: choose one of {', '.join(names)}")


def random_weights(geometry: str, device: torch.device, position_balance: bool | None) -> tuple:
    """(model, processor), in eval mode; bfloat16 on a GPU, float32 on the CPU. Replies mean nothing.

    Raises InputError as `check_geometry` does.
    """
    check_geometry(geometry)
    _, values = GEOMETRIES[geometry]
    _, small, processor = tiny.PARTS[FAMILY]()
    set_pixel_bounds(processor, *PIXELS, geometry)
    config = FORKS[FAMILY].config_class(**copy.deepcopy(values) | {name: getattr(small, name) for name in IDS})
    config.position_balance = bool(position_balance)
    tokenizer = processor.tokenizer
    tokens = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    for name, value in tokens.items():
        setattr(config.text_config, name, value)
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        model = new_model(config, Settings(stage="lora", bf16=device.type != "cpu")).eval()
    model.generation_config = GenerationConfig(**tokens, suppress_tokens=tiny.visual_tokens(config))
    return model, processor
