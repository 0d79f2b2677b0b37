"""Checkpoints in the layout of the LLaVA code base, read into the forks' classes.

As published for liuhaotian/llava-v1.5-7b, liuhaotian/llava-v1.6-mistral-7b and lmms-lab/llama3-llava-next-8b: a
language model's config.json with `mm_*` fields, `model.mm_projector.*`, `model.image_newline`, and the vision tower's
weights either inside the checkpoint or in the tower's own folder.
"""

import json
import re
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, CLIPVisionConfig, CLIPVisionModel, GenerationConfig, PreTrainedConfig
from transformers.models.llama import LlamaConfig
from transformers.models.llava.processing_llava import LlavaProcessor
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor
from transformers.models.mistral import MistralConfig
from transformers.processing_utils import ProcessorMixin

from models.errors import InputError
from models.modeling_llava import LlavaConfig
from models.modeling_llava_next import LlavaNextConfig
from models.processors import image_processor_class
from models.quiet import quiet_transformers
from models.reading import WEIGHT_ERRORS, read_json, read_shards, told_as
from models.sentencepiece_tokens import match_sentencepiece

IMAGE_TOKEN, TURN_END = "<image>", "<|eot_id|>"
MODEL_TYPES = ("llava", "llava_llama", "llava_mistral")
# CLIP ViT-L/14-336, so that a checkpoint with the tower's weights inside needs nothing else.
KNOWN_TOWERS = {
    "openai/clip-vit-large-patch14-336": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 336,
        "patch_size": 14,
        "projection_dim": 768,
    }
}
# Names in the original checkpoint <-> names in the released checkpoints of the transformers layout, in which the loaded
# model is also saved. The first that matches holds.
KEYS = [
    ("model.vision_tower.vision_tower.vision_model.", "vision_tower.vision_model."),
    ("model.mm_projector.0.", "multi_modal_projector.linear_1."),
    ("model.mm_projector.2.", "multi_modal_projector.linear_2."),
    ("model.image_newline", "image_newline"),
    ("lm_head.", "language_model.lm_head."),
    ("model.", "language_model.model."),
]
VOCABULARY = ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight")
# What of a repository on the hub is needed: all but weights, and those.
DESCRIPTION_FILES = ["*.json", "*.model", "*.txt", "*.jinja"]
FILES = [*DESCRIPTION_FILES, "*.safetensors", "*.bin"]
# Buffers that older releases saved; computed anew.
BUFFERS = re.compile(r"rotary_emb\.inv_freq$|embeddings\.position_ids$")


def is_original_layout(config: dict) -> bool:
    """Whether a config.json is of the LLaVA code base."""
    return "mm_vision_tower" in config


def read(
    folder: Path, language: Path | None = None, trained: dict[str, torch.Tensor] | None = None
) -> tuple[PreTrainedConfig, dict[str, torch.Tensor], ProcessorMixin]:
    """The checkpoint in `folder`: config, weights under released names, processor. InputError if it is broken.

    `language`: the folder that has its tokenizer and weights; `trained`: weights that take the place of these.
    """
    config, processor = read_description(folder, language)
    found = read_weights(language or folder) | (trained or {})
    weights = {new_name(name): tensor for name, tensor in found.items() if not BUFFERS.search(name)}
    if not any(name.startswith("vision_tower.") for name in weights):
        tower = read_json(str(folder), "config.json")["mm_vision_tower"]
        weights |= read_tower_weights(folder, tower, find_tower(folder, tower))
    config.text_config.vocab_size = add_token_rows(folder, weights, config.image_token_id + 1)
    return config, weights, processor


def read_description(folder: Path, language: Path | None = None) -> tuple[PreTrainedConfig, ProcessorMixin]:
    """Config and processor of the checkpoint in `folder`, from all its files but weights. InputError if it is broken.

    The vocabulary is as large as config.json and tokenizer say; weights may hold more rows. `language`: as for `read`.
    """
    original = read_json(str(folder), "config.json")
    check_supported(folder, original)
    tower = original["mm_vision_tower"]
    tower_folder = find_tower(folder, tower)
    vision_config = read_tower_config(folder, tower, tower_folder)
    check_layer(folder, original, vision_config)
    tokenizer = read_tokenizer(language or folder)
    image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    with told_as(f"{folder}/config.json: cannot be read"):
        vocab_size = max(original.get("vocab_size", 0), image_token_id + 1)
        config = build_config(original, vision_config, image_token_id, vocab_size)
    return config, build_processor(original, config, tokenizer, tower_folder)


def check_supported(folder: Path, original: dict) -> None:
    """InputError for the variants of the code base that the three published checkpoints do not use."""
    anyres = original.get("image_aspect_ratio") == "anyres"
    expected = {
        "model_type": MODEL_TYPES,
        "mm_projector_type": ("mlp2x_gelu",),
        "mm_patch_merge_type": ("spatial_unpad",) if anyres else ("flat", None),
        "mm_vision_select_feature": ("patch", None),
        "mm_use_im_start_end": (False, None),
        "mm_resampler_type": (None,),
        "image_aspect_ratio": ("anyres", "pad", "square", None),
    }
    for field, values in expected.items():
        if original.get(field) not in values:
            allowed = " or ".join("absent" if value is None else json.dumps(value) for value in values)
            raise InputError(
                f"{folder}/config.json: {field} is {json.dumps(original.get(field))}; supported: {allowed}"
            )
    pinpoints = original.get("image_grid_pinpoints")
    if anyres and not (isinstance(pinpoints, list) and all(isinstance(p, list) and len(p) == 2 for p in pinpoints)):
        raise InputError(f"{folder}/config.json: image_grid_pinpoints is not a list of [width, height]")
    if not isinstance(original["mm_vision_tower"], str):
        raise InputError(f"{folder}/config.json: mm_vision_tower is not a name; write the tower's folder or hub id")


def check_layer(folder: Path, original: dict, vision_config: CLIPVisionConfig) -> None:
    """InputError if the tower has no such layer."""
    layer = original.get("mm_vision_select_layer", -2)
    if (
        not isinstance(layer, int)
        or not -vision_config.num_hidden_layers - 1 <= layer <= vision_config.num_hidden_layers
    ):
        raise InputError(
            f"{folder}/config.json: mm_vision_select_layer is {json.dumps(layer)}, but the vision tower has "
            f"{vision_config.num_hidden_layers} layers"
        )


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of the checkpoint's safetensors or .bin files, mapped from disk; nothing in a file can execute."""
    for single, index in (
        ("model.safetensors", "model.safetensors.index.json"),
        ("pytorch_model.bin", "pytorch_model.bin.index.json"),
    ):
        if (folder / index).is_file():
            files = [folder / shard for shard in read_shards(folder / index)]
        else:
            files = [folder / single]
        if all(file.is_file() for file in files):
            weights = {}
            for file in files:
                weights |= read_tensors(file)
            return weights
        if len(files) > 1:
            missing = next(file.name for file in files if not file.is_file())
            raise InputError(f"{folder}: {missing} is missing, which {index} names; download it again")
    raise InputError(f"{folder}: no weights (model.safetensors or pytorch_model.bin, or their shards with an index)")


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of one file by name; InputError if it is broken or holds anything else."""
    with told_as(f"{file}: cannot be read; download it again", *WEIGHT_ERRORS):
        if file.suffix == ".safetensors":
            return load_file(file)
        with open(file, "rb") as opened:
            is_zip = opened.read(2) == b"PK"  # the format before torch 1.6 cannot be mapped
        tensors = torch.load(file, map_location="cpu", mmap=is_zip, weights_only=True)
    if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise InputError(f"{file}: not a file of named weights; download it again")
    return tensors


def new_name(name: str) -> str:
    """Name of a weight in the transformers layout."""
    return next((new + name[len(old) :] for old, new in KEYS if name.startswith(old)), name)


def find_tower(folder: Path, tower: str) -> Path | None:
    """The vision tower's own folder: as named, or in or beside the checkpoint; None: known only by its hub id."""
    candidates = (Path(tower), folder / tower, folder.parent / tower, folder.parent / Path(tower).name)
    return next((candidate for candidate in candidates if (candidate / "config.json").is_file()), None)


def read_tower_config(folder: Path, tower: str, tower_folder: Path | None) -> CLIPVisionConfig:
    """The vision tower's config, from its folder, from KNOWN_TOWERS or the hub; InputError if it cannot be had."""
    if tower_folder is None and tower in KNOWN_TOWERS:
        return CLIPVisionConfig(**KNOWN_TOWERS[tower])
    with told_as(no_tower(folder, tower)):
        return CLIPVisionConfig.from_pretrained(tower_folder or tower)


def read_tower_weights(folder: Path, tower: str, tower_folder: Path | None) -> dict[str, torch.Tensor]:
    """The vision tower's weights under released names; InputError if they cannot be had."""
    with told_as(no_tower(folder, tower), *WEIGHT_ERRORS), quiet_transformers():
        model, report = CLIPVisionModel.from_pretrained(tower_folder or tower, output_loading_info=True)
    if report["missing_keys"]:
        raise InputError(f"{tower_folder or tower}: not a complete CLIP vision tower ({min(report['missing_keys'])})")
    return {f"vision_tower.vision_model.{name}": tensor for name, tensor in model.state_dict().items()}


def no_tower(folder: Path, tower: str) -> str:
    return (
        f"{folder}/config.json: mm_vision_tower {tower!r} is neither a folder nor to be had from the hub; "
        f"put the tower's files into {folder.parent / Path(tower).name}"
    )


def read_tokenizer(folder: Path):
    """The language model's tokenizer with `<image>` added behind its last token, and a padding token.

    Of a `tokenizer.model` it gives the ids of the slow tokenizer, which the code base takes, whatever config.json says.
    """
    # (Quiet: transformers does not know the config's model_type.)
    with told_as(f"{folder}: no readable tokenizer"), quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    match_sentencepiece(tokenizer, slow=True)
    tokenizer.add_tokens([IMAGE_TOKEN], special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def add_token_rows(folder: Path, weights: dict[str, torch.Tensor], tokens: int) -> int:
    """Give embedding and head rows for at least `tokens` tokens, in place; returns the vocabulary's size.

    A new row is the mean of the old ones: its logit is the mean of all logits, so greedy decoding never picks it.
    """
    for name in VOCABULARY:
        if name not in weights:
            raise InputError(
                f"{folder}: no weight {name} (its name in the transformers layout); the download is incomplete"
            )
        rows = weights[name]
        if rows.shape[0] < tokens:
            weights[name] = torch.cat([rows, mean_row(rows).expand(tokens - rows.shape[0], -1)])
    return weights[VOCABULARY[0]].shape[0]


def mean_row(rows: torch.Tensor) -> torch.Tensor:
    """Mean of the rows of a matrix, (1, columns), computed in float32."""
    return rows.float().mean(0, keepdim=True).to(rows.dtype)


def build_config(original: dict, vision_config, image_token_id: int, vocab_size: int) -> PreTrainedConfig:
    """The fork's config; whatever of the original config.json is the language model's goes into `text_config`."""
    mistral = "mistral" in original.get("model_type", "") or "Mistral" in str(original.get("architectures"))
    text_class = MistralConfig if mistral else LlamaConfig
    known = text_class().to_dict().keys() | {"rope_theta", "rope_scaling"}
    text = {name: value for name, value in original.items() if name in known and name != "model_type"}
    shared = {
        "vision_config": vision_config,
        "text_config": text_class(**text | {"vocab_size": vocab_size}),
        "image_token_index": image_token_id,
        "vision_feature_layer": original.get("mm_vision_select_layer", -2),
        "vision_feature_select_strategy": "default",
        "dtype": original.get("torch_dtype"),
    }
    if original.get("image_aspect_ratio") == "anyres":
        # (width, height) in the code base, (height, width) in transformers: the order decides ties.
        pinpoints = [[height, width] for width, height in original["image_grid_pinpoints"]]
        return LlavaNextConfig(**shared, image_grid_pinpoints=pinpoints)
    return LlavaConfig(**shared, image_seq_length=(vision_config.image_size // vision_config.patch_size) ** 2)


def build_processor(original: dict, config, tokenizer, tower_folder: Path | None) -> ProcessorMixin:
    side = config.vision_config.image_size
    common = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    described = ("preprocessor_config.json", "processor_config.json")  # the latter where a whole model is the tower's
    if tower_folder is not None and any((tower_folder / name).is_file() for name in described):
        tower = image_processor_class("clip", "CLIPImageProcessor").from_pretrained(tower_folder)
        common |= {"image_mean": tower.image_mean, "image_std": tower.image_std}
    if isinstance(config, LlavaNextConfig):
        common["image_grid_pinpoints"] = config.image_grid_pinpoints
        images = image_processor_class("llava_next", "LlavaNextImageProcessor")(**common)
        return LlavaNextProcessor(images, tokenizer)
    # LLaVA-1.5 squares a picture with the mean colour instead of cropping it.
    common["do_pad"] = original.get("image_aspect_ratio") == "pad"
    images = image_processor_class("llava", "LlavaImageProcessor")(**common)
    return LlavaProcessor(images, tokenizer)


def generation_config(folder: Path, config, processor: ProcessorMixin) -> GenerationConfig:
    """The checkpoint's own generation settings; a reply also ends with Llama-3's turn, and holds no image token."""
    has_own = (folder / "generation_config.json").is_file()
    with told_as(f"{folder}/generation_config.json: cannot be read; restore or remove it"):
        settings = GenerationConfig.from_pretrained(folder) if has_own else GenerationConfig()
    tokenizer = processor.tokenizer
    ends = settings.eos_token_id or config.text_config.eos_token_id or tokenizer.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends])
    if TURN_END in tokenizer.get_vocab():
        ends.add(tokenizer.convert_tokens_to_ids(TURN_END))
    settings.eos_token_id = sorted(ends) if len(ends) > 1 else ends.pop()
    settings.bos_token_id = settings.bos_token_id or tokenizer.bos_token_id
    settings.pad_token_id = tokenizer.pad_token_id
    settings.suppress_tokens = [config.image_token_id]
    return settings
