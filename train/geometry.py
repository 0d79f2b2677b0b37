"""The released models in full size without their weights, and batches for them: what costs are counted on."""

import json
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

from models.errors import InputError
from models.load import FORKS
from models.modeling_llava import tokens_per_image
from models.modeling_llava_next import tokens_of_images
from models.reading import read_json, told_as
from train.settings import ROOT, Settings

# Values of the released config.json files, by name of the file in configs/models; what is left out is transformers'
# default. tests/test_costs.py holds them against the sizes on the model cards.
MISTRAL_7B = {
    "model_type": "mistral",
    "vocab_size": 32064,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
}
LLAMA_3_8B = MISTRAL_7B | {"model_type": "llama", "vocab_size": 128320}
QWEN_7B = {
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
}
QWEN_32B = QWEN_7B | {
    "hidden_size": 5120,
    "intermediate_size": 27648,
    "num_hidden_layers": 64,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
}
QWEN_VISION = {"depth": 32, "hidden_size": 1280, "num_heads": 16}
GEMMA_12B = {
    "vocab_size": 262208,
    "hidden_size": 3840,
    "intermediate_size": 15360,
    "num_hidden_layers": 48,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 256,
}
SIGLIP_SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 896,
    "patch_size": 14,
    "vision_use_head": False,
}
GEOMETRIES = {
    "llava_1_5_7b": ("llava", {}),
    "llava_1_6_mistral_7b": ("llava_next", {"text_config": MISTRAL_7B}),
    "llama3_llava_next_8b": ("llava_next", {"text_config": LLAMA_3_8B}),
    "qwen2_5_vl_7b": (
        "qwen2_5_vl",
        {"text_config": QWEN_7B, "vision_config": QWEN_VISION | {"intermediate_size": 3420, "out_hidden_size": 3584}},
    ),
    "qwen2_5_vl_32b": (
        "qwen2_5_vl",
        {"text_config": QWEN_32B, "vision_config": QWEN_VISION | {"intermediate_size": 3456, "out_hidden_size": 5120}},
    ),
    "gemma3_12b": ("gemma3", {"text_config": GEMMA_12B, "vision_config": SIGLIP_SO400M}),
}
LLAVA_1_5_PARTS = ("clip-vit-large-patch14-336", "vicuna-7b-v1.5")


def model_config(settings: Settings, recipe: str, geometry: str | None = None):
    """The config of the model that a recipe trains.

    Of `geometry`, a name of GEOMETRIES, if given; else of the folder that `model_path` names, where there is one; else
    of the released model that `model_path`, or the two parts, or lastly the recipe's name, stand for.
    """
    path = settings.model_path
    if geometry is None and path and (Path(path) / "config.json").is_file():
        model_type = read_json(path, "config.json").get("model_type")
        if model_type not in FORKS:
            raise InputError(f"{path}/config.json: model_type {model_type!r} is not one of {', '.join(FORKS)}")
        with told_as(f"{path}/config.json: cannot be read"):
            config = FORKS[model_type].config_class.from_pretrained(path)
    else:
        model_type, values = GEOMETRIES[geometry or released_geometry(settings, recipe)]
        config = FORKS[model_type].config_class(**values)
    config.position_balance = bool(settings.position_balance)
    return config


def released_geometry(settings: Settings, recipe: str) -> str:
    """The name in GEOMETRIES of the released model that a recipe starts from, or InputError."""
    parts = tuple((path or "").split("/")[-1].lower() for path in (settings.vision_tower, settings.language_model))
    if parts == LLAVA_1_5_PARTS:
        return "llava_1_5_7b"
    for name in GEOMETRIES:
        entry = json.loads((ROOT / "configs" / "models" / f"{name}.json").read_text(encoding="utf-8"))
        if (settings.model_path or "").rstrip("/") in (entry["hub_id"], *entry["same_weights"]):
            return name
    for name in GEOMETRIES:
        if recipe.startswith(name.rsplit("_", 1)[0]):
            return name
    raise InputError(
        f"{recipe}: {settings.model_path or settings.language_model} is neither a folder here nor a released model; "
        f"give --geometry, one of {', '.join(GEOMETRIES)}"
    )


def empty_model(config, settings: Settings) -> torch.nn.Module:
    """The fork of `config` on the meta device, in the precision in which the recipe loads it."""
    with torch.device("meta"):
        return new_model(config, settings)


def new_model(config, settings: Settings) -> torch.nn.Module:
    """The fork of `config` with fresh random weights, on the default device."""
    attention = "eager" if settings.attn_implementation == "eager" else "sdpa"
    dtype = torch.bfloat16 if settings.bf16 else torch.float32
    return FORKS[config.model_type]._from_config(config, dtype=dtype, attn_implementation=attention)


def without_values(model: torch.nn.Module, fake: FakeTensorMode) -> torch.nn.Module:
    """Put tensors that have a shape, a type and device cpu, but no values, in the place of all weights and buffers.

    Unlike those on the meta device they pass through autocast, and through CPU kernels of attention, as real ones do.
    """
    made = {}

    def empty(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in made:  # tied weights stay one
            with fake:
                made[id(tensor)] = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
            if isinstance(tensor, torch.nn.Parameter):
                made[id(tensor)] = torch.nn.Parameter(made[id(tensor)], requires_grad=tensor.requires_grad)
        return made[id(tensor)]

    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            tensors.update({name: empty(tensor) for name, tensor in tensors.items() if tensor is not None})
    return model


def part_of(name: str) -> str:
    """The part of the model that a parameter belongs to, by its name."""
    if "lora_" in name:
        return "LoRA"
    if "multi_modal_projector" in name or ".merger." in name or name.endswith("image_newline"):
        return "projector"
    return "vision tower" if ".vision_tower." in name or ".visual." in name else "language model"


def count_parameters(model: torch.nn.Module) -> dict[str, dict[str, int]]:
    """Part -> {"all", "trained"}: its number of parameters; tied ones count once."""
    counts: dict[str, dict[str, int]] = {}
    for name, weight in model.named_parameters():
        part = counts.setdefault(part_of(name), {"all": 0, "trained": 0})
        part["all"] += weight.numel()
        part["trained"] += weight.numel() * weight.requires_grad
    return counts


def image_tokens(config, image_size: tuple[int, int]) -> int:
    """Tokens of one image of `image_size` (height, width) in pixels."""
    if config.model_type == "gemma3":
        return config.mm_tokens_per_image
    if config.model_type == "llava":
        return tokens_per_image(config)
    if config.model_type == "llava_next":
        return int(tokens_of_images(torch.tensor([image_size]), config)[0])
    rows, columns = patch_grid(config, image_size)
    return rows * columns // config.vision_config.spatial_merge_size**2


def patch_grid(config, image_size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of Qwen2.5-VL's patches: each side to the nearest multiple of a merged patch."""
    merged = config.vision_config.patch_size * config.vision_config.spatial_merge_size
    return tuple(max(1, round(side / merged)) * config.vision_config.spatial_merge_size for side in image_size)


def batch_of(config, rows: int, tokens: int, image_size: tuple[int, int]) -> dict[str, torch.Tensor]:
    """A batch of `rows` samples of `tokens` tokens each, one image of `image_size` (height, width) among them.

    Text token 1 throughout, all of it supervised; pixels are zeros, as a stride-0 tensor that takes no memory.
    InputError if the image alone has more tokens.
    """
    number = image_tokens(config, image_size)
    if tokens < number + 2:
        raise InputError(f"rows of {tokens} tokens cannot hold an image of {number} tokens and text; raise the length")
    input_ids = torch.ones(rows, tokens, dtype=torch.long)
    input_ids[:, 1 : number + 1] = config.image_token_id
    is_image = (input_ids == config.image_token_id).long()
    batch = {
        "input_ids": input_ids,
        "labels": input_ids.masked_fill(is_image.bool(), -100),
        "attention_mask": torch.ones_like(input_ids),
    }
    side = getattr(config.vision_config, "image_size", None)
    if config.model_type == "qwen2_5_vl":
        vision = config.vision_config
        grid = (1, *patch_grid(config, image_size))
        values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        shape = (rows * grid[1] * grid[2], values)
        batch |= {"image_grid_thw": torch.tensor([grid] * rows), "mm_token_type_ids": is_image}
    elif config.model_type == "llava_next":
        shape = (rows, 1 + tiles(config, image_size), 3, side, side)
        batch["image_sizes"] = torch.tensor([image_size] * rows)
    else:
        shape = (rows, 3, side, side)
    if config.model_type == "gemma3":
        batch["token_type_ids"] = is_image
    return batch | {"pixel_values": torch.zeros(1).expand(shape)}


def tiles(config, image_size: tuple[int, int]) -> int:
    """Tiles that LLaVA-NeXT cuts an image into, beside its base view."""
    rows, columns = get_anyres_image_grid_shape(
        image_size, config.image_grid_pinpoints, config.vision_config.image_size
    )
    return rows * columns
