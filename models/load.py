"""A checkpoint -> (model, processor). The only place that reads `position_balance` from a config.json."""

import json
import logging
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
)
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, PreTrainedModel
from transformers.processing_utils import ProcessorMixin

from models import llava_original
from models.errors import InputError
from models.modeling_gemma3 import Gemma3ForConditionalGeneration
from models.modeling_llava import LlavaForConditionalGeneration
from models.modeling_llava_next import LlavaNextForConditionalGeneration
from models.modeling_qwen2_5_vl import Qwen2_5_VLForConditionalGeneration
from models.processors import finish_processor, load_processor
from models.quiet import quiet_transformers

logger = logging.getLogger(__name__)

FORKS = {
    "llava": LlavaForConditionalGeneration,
    "llava_next": LlavaNextForConditionalGeneration,
    "qwen2_5_vl": Qwen2_5_VLForConditionalGeneration,
    "gemma3": Gemma3ForConditionalGeneration,
}

# Towers whose number of tokens to an image the LLaVA forks know.
VISION_TOWERS = ("clip_vision_model", "siglip_vision_model")


def load_model(
    model_path: str | Path, position_balance: bool | None = None, **from_pretrained_arguments
) -> tuple[PreTrainedModel | PeftModel, ProcessorMixin]:
    """Load a checkpoint of the zoo, in eval mode, with its processor.

    Args:
        model_path: a folder or hub id in the transformers layout, a folder or hub id in the original LLaVA layout, or
            a PEFT adapter (its base is loaded from where its adapter_config.json says and the adapter put on it).
        position_balance: None: what config.json says (absent: false, with one notice). A bool overrides it.
        **from_pretrained_arguments: for transformers' `from_pretrained`: dtype, device_map, attn_implementation, ...

    Returns:
        The model, whose `config.position_balance` is the flag in force, and the processor: padding on the left, the
        family's chat template.

    Raises:
        InputError: the path, config.json or weights are not what they should be; every load checks that no weight is
            missing, unexpected or of another shape.
    """
    if position_balance is not None and not isinstance(position_balance, bool):
        raise InputError(f"position_balance={position_balance!r}: pass True, False or None (what config.json says)")
    path = str(model_path)
    if not path:
        raise InputError("the model path is empty; give a checkpoint's folder or hub id")
    adapter = read_json(path, "adapter_config.json", required=False)
    if adapter is not None:
        return load_adapter(path, adapter, position_balance, from_pretrained_arguments)
    config = read_json(path, "config.json")
    balance = position_balance
    if position_balance is None or "position_balance" in config:
        own_flag = read_flag(path, config)
        balance = own_flag if position_balance is None else position_balance
    if llava_original.is_original_layout(config):
        return load_llava_original(path, balance, from_pretrained_arguments)
    fork = FORKS.get(config.get("model_type"))
    if fork is None:
        if balance:
            raise InputError(
                f"{path}/config.json: position_balance is true, but model_type {config.get('model_type')!r} has no "
                f"fork here; supported: {', '.join(FORKS)}"
            )
        return load_stock(path, from_pretrained_arguments)
    model_config = fork.config_class.from_pretrained(path)
    model_config.position_balance = balance
    check_towers(path, model_config)
    model = load_weights(fork, path, config=model_config, **from_pretrained_arguments)
    return model, load_processor(path, model.config)


def register_auto_classes() -> None:
    """Make transformers' Auto classes and pipelines of this process build the forks; acts only when called.

    transformers 5.17 ignores a registration for its own config classes, so the forks' configs take over the types.
    Where torchvision is missing, its AutoProcessor cannot load Qwen2.5-VL: give the pipeline `load_model`'s processor.
    """
    for model_type, fork in FORKS.items():
        AutoConfig.register(model_type, fork.config_class, exist_ok=True)
        AutoModelForImageTextToText.register(fork.config_class, fork, exist_ok=True)


def read_flag(path: str, config: dict) -> bool:
    """`position_balance` of a config.json (design law 1); absent is false, anything but a JSON boolean an error."""
    if "position_balance" not in config:
        logger.warning('%s/config.json has no "position_balance": running the original model (false)', path)
        return False
    value = config["position_balance"]
    if not isinstance(value, bool):
        raise InputError(
            f'{path}/config.json: "position_balance" is {json.dumps(value)}; '
            'write "position_balance": true or "position_balance": false'
        )
    return value


def read_json(path: str, name: str, required: bool = True) -> dict | None:
    """The JSON object in file `name` of a folder or hub id; None if it is not there and not required."""
    file = Path(path) / name
    if not Path(path).is_dir():
        if Path(path).exists():
            raise InputError(f"{path}: a file; give the checkpoint's folder")
        try:
            file = Path(hf_hub_download(path, name))
        except LocalEntryNotFoundError:
            if required:
                raise InputError(f"{path}: no such folder, and the hub cannot be reached for this id") from None
        except EntryNotFoundError:
            pass  # the id exists, without this file
        except (HfHubHTTPError, HFValidationError, OSError):
            raise InputError(f"{path}: no such folder, and no such id on the hub") from None
    if not file.is_file():
        if required:
            raise InputError(f"{path}: no {name}; give the folder that a checkpoint was downloaded or saved to")
        return None
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}/{name}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}/{name}: not a JSON object")
    return value


def check_towers(path: str, config) -> None:
    """InputError unless the number of an image's tokens is known for this vision tower (flag on only)."""
    tower = config.vision_config.model_type
    if config.position_balance and config.model_type.startswith("llava") and tower not in VISION_TOWERS:
        raise InputError(
            f"{path}/config.json: position_balance is true, but vision tower {tower!r} is not one of "
            f"{', '.join(VISION_TOWERS)}"
        )


def load_weights(model_class: type, path: str | None, **arguments) -> PreTrainedModel:
    """`from_pretrained` that fails unless every weight was found, in its shape, and none was left over."""
    where = path if path is not None else "the checkpoint"
    try:
        with quiet_transformers():
            model, report = model_class.from_pretrained(
                path, output_loading_info=True, ignore_mismatched_sizes=True, **arguments
            )
    except (OSError, SafetensorError) as error:
        raise InputError(f"{where}: weights cannot be read ({str(error).splitlines()[0]})") from error
    for problem in ("missing", "unexpected", "mismatched"):
        keys = sorted(str(key) for key in report[f"{problem}_keys"])
        if keys:
            raise InputError(
                f"{where}: {len(keys)} {problem} weights (first: {keys[0]}); config.json and weights do not belong "
                "together, or the download is incomplete"
            )
    return model


def load_stock(path: str, arguments: dict) -> tuple[PreTrainedModel, ProcessorMixin]:
    """A model without a fork: transformers' own class, flag off."""
    try:
        AutoConfig.from_pretrained(path)
        processor = AutoProcessor.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {str(error).splitlines()[0]}") from error
    model = load_weights(AutoModelForImageTextToText, path, **arguments)
    model.config.position_balance = False
    processor.tokenizer.padding_side = "left"
    return model, processor


def load_llava_original(path: str, balance: bool, arguments: dict) -> tuple[PreTrainedModel, ProcessorMixin]:
    """A checkpoint in the layout of the LLaVA code base (models/llava_original.py)."""
    folder = Path(path) if Path(path).is_dir() else Path(snapshot_download(path))
    config, state, processor = llava_original.read(folder)
    config.position_balance = balance
    fork = FORKS[config.model_type]
    model = load_weights(fork, None, config=config, state_dict=state, **arguments)
    model.generation_config = llava_original.generation_config(folder, config, processor)
    model.name_or_path = path
    return model, finish_processor(processor, config, path)


def load_adapter(
    path: str, adapter: dict, position_balance: bool | None, arguments: dict
) -> tuple[PeftModel, ProcessorMixin]:
    """A PEFT adapter on its base. The flag: the argument, else the adapter folder's config.json, else the base's."""
    base = adapter.get("base_model_name_or_path")
    if not base:
        raise InputError(f"{path}/adapter_config.json: no base_model_name_or_path; write the base checkpoint's path")
    if position_balance is None:
        own_config = read_json(path, "config.json", required=False)
        if own_config is not None and "position_balance" in own_config:
            position_balance = read_flag(path, own_config)
    model, processor = load_model(base, position_balance, **arguments)
    try:
        adapted = PeftModel.from_pretrained(model, path)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: the adapter does not fit {base} ({str(error).splitlines()[0]})") from error
    expected = set(get_peft_model_state_dict(adapted))
    found = adapter_keys(path)
    for problem, keys in (("missing", expected - found), ("unexpected", found - expected)):
        if keys:
            raise InputError(f"{path}: {len(keys)} {problem} adapter weights (first: {min(keys)}) for {base}")
    return adapted.eval(), processor


def adapter_keys(path: str) -> set[str]:
    """Names of the weights in an adapter's file."""
    folder = Path(path) if Path(path).is_dir() else Path(snapshot_download(path))
    file = folder / "adapter_model.safetensors"
    if file.is_file():
        with safe_open(file, framework="pt") as weights:
            return set(weights.keys())
    return set(torch.load(folder / "adapter_model.bin", map_location="meta", weights_only=True))
