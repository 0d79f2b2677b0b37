"""What training in the LLaVA code base leaves beside a language model, which it does not copy.

A projector alone (`mm_projector.bin`, stage 1), or LoRA in PEFT's files with all else that was trained
(`non_lora_trainables.bin`). Both folders have the config.json of the whole LLaVA. As its llava/model/builder.py does,
language model and tokenizer are those of the base.
"""

from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from transformers import PreTrainedConfig
from transformers.processing_utils import ProcessorMixin

from models import llava_original
from models.errors import InputError
from models.reading import read_json, told_as

BESIDE_LORA, PROJECTOR = "non_lora_trainables.bin", "mm_projector.bin"
LANGUAGE_MODELS = ("llama", "mistral", *llava_original.MODEL_TYPES)


def is_projector(folder: Path) -> bool:
    """Whether a folder in the LLaVA code base's layout has a projector and no whole model."""
    whole = [path for pattern in ("*.safetensors*", "pytorch_model*.bin*") for path in folder.glob(pattern)]
    return (folder / PROJECTOR).is_file() and not whole


def projector_base(folder: Path, config: dict) -> str:
    """The language model that a projector was trained on, by its config.json; InputError if it does not say."""
    base = config.get("_name_or_path")
    if not isinstance(base, str) or not base or Path(base).resolve() == folder.resolve():
        raise InputError(
            f"{folder}/config.json: a projector alone; write the folder of its language model as _name_or_path"
        )
    return base


def read(
    folder: Path, parts: str, base: str, **hub_arguments
) -> tuple[PreTrainedConfig, dict[str, torch.Tensor], ProcessorMixin, Path]:
    """Config, weights under released names and processor of `folder` on its `base`, a folder or hub id.

    `parts` is the file with the weights that replace or join those of the base. Also returns the base's folder.
    Raises InputError if one of the files is missing or `base` is no language model.
    """
    if not (folder / parts).is_file():
        raise InputError(f"{folder}: {parts} is missing, which holds the projector; copy it there")
    model_type = read_json(base, "config.json", **hub_arguments).get("model_type")
    if model_type not in LANGUAGE_MODELS:
        raise InputError(f"{base}/config.json: model_type {model_type!r} is no language model that {folder} can be on")
    language = Path(base)
    if not language.is_dir():
        with told_as(f"{base}: cannot be had from the hub"):
            language = Path(snapshot_download(base, allow_patterns=llava_original.FILES, **hub_arguments))
    trained = {_name(name): tensor for name, tensor in llava_original.read_tensors(folder / parts).items()}
    return *llava_original.read(folder, language, trained), language


def _name(name: str) -> str:
    """Name in a whole checkpoint of a weight of `parts`, which PEFT and the trainer may have put prefixes before."""
    while name.startswith(("base_model.", "model.model.")):
        name = name.partition(".")[2]
    return name if name.startswith(("model.", "lm_head.")) else f"model.{name}"
