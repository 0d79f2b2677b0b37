"""PEFT adapters: whose they are, with which flag they were trained, and layers by the names of earlier releases.

transformers 4.52 renamed the parts of these models, and adapter_config.json names layers: in `target_modules`,
`modules_to_save`, `rank_pattern` and `alpha_pattern`. PEFT renames the weights of an old adapter, not these names.
"""

import functools
import inspect
import logging
import re
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel
from peft.utils import SAFETENSORS_WEIGHTS_NAME, load_peft_weights
from safetensors import safe_open

from models.errors import InputError
from models.outside import is_there

logger = logging.getLogger(__name__)

# Layers that LoRA can adapt.
ADAPTED = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d, torch.nn.Embedding)

_LLAVA_NAMES = {
    "language_model.model.": "model.language_model.",
    "language_model.lm_head": "lm_head",
    "vision_tower.vision_model.": "model.vision_tower.",
    "model.vision_tower.vision_model.": "model.vision_tower.",
    "multi_modal_projector.": "model.multi_modal_projector.",
    "model.layers.": "model.language_model.layers.",  # in the LLaVA code base
}
# Model type -> beginning of a layer's name in earlier releases -> in this one.
OLD_NAMES = {
    "llava": _LLAVA_NAMES,
    "llava_next": _LLAVA_NAMES,
    "gemma3": _LLAVA_NAMES,
    "qwen2_5_vl": {"model.layers.": "model.language_model.layers.", "visual.": "model.visual."},
}
# Weights of Qwen2.5-VL's old adapters and of the LLaVA code base's; PEFT renames the others.
OLD_WEIGHTS = {
    "qwen2_5_vl": {"^" + re.escape(old): new for old, new in OLD_NAMES["qwen2_5_vl"].items()},
    "llava": {r"^model\.layers\.": "model.language_model.layers."},
    "llava_next": {r"^model\.layers\.": "model.language_model.layers."},
}


def adapter_base(path: str, adapter: dict) -> str:
    """The base checkpoint that the adapter_config.json of `path` names; InputError if it names none, or an adapter."""
    base = adapter.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise InputError(f"{path}/adapter_config.json: no base_model_name_or_path; write the base checkpoint's path")
    if is_there(base) and Path(base).resolve() == Path(path).resolve():
        raise InputError(f"{path}/adapter_config.json: base_model_name_or_path is this folder; write the base's path")
    if is_there(Path(base) / "adapter_config.json"):
        raise InputError(
            f"{path}/adapter_config.json: base_model_name_or_path {base} is an adapter itself; merge that one first"
        )
    return base


def check_flag_is_known(path: str, adapter: dict, stated: bool | None) -> None:
    """InputError if a fork was adapted, and nothing says with which flag; a notice if that can only be supposed."""
    if stated is not None:
        return
    mapping = adapter.get("auto_mapping")
    library = mapping.get("parent_library") if isinstance(mapping, dict) else None
    if isinstance(library, str) and re.fullmatch(r"(bapa\.)?models\.modeling_\w+", library):
        raise InputError(
            f"{path}: does not say with which position_balance it was trained; give --position_balance (or "
            'position_balance=...), or write {"position_balance": true} or {"position_balance": false} into '
            f"{path}/config.json"
        )
    logger.warning("%s does not say with which position_balance it was trained: the base's is used", path)


def keep_flag_with_adapters() -> None:
    """Make PEFT write a fork's config.json, which has the flag, beside an adapter; without it the flag is lost.

    PEFT has no hook for it. Acts once a process, and on forks alone.
    """
    upstream = PeftModel.save_pretrained
    if hasattr(upstream, "keeps_position_balance"):
        return

    signature = inspect.signature(upstream)

    @functools.wraps(upstream)
    def save_pretrained(self, save_directory, *args, **kwargs):
        upstream(self, save_directory, *args, **kwargs)
        given = signature.bind(self, save_directory, *args, **kwargs).arguments
        config = getattr(self.get_base_model(), "config", None)  # PEFT adapts modules without one, too
        if not given.get("is_main_process", True) or not hasattr(type(config), "position_balance"):
            return
        for name in given.get("selected_adapters") or self.peft_config:
            config.save_pretrained(Path(save_directory) / ("" if name == "default" else name))

    save_pretrained.keeps_position_balance = True
    PeftModel.save_pretrained = save_pretrained


def renamed_config(config: PeftConfig, model: torch.nn.Module, path: str, **hub_arguments) -> PeftConfig:
    """`config` of the adapter at `path` with the layers' present names, in place.

    `target_modules` by names that match other layers now than those that the file has weights for, but these by the
    names of an earlier release, or in a language model alone, become the list of these layers. Raises InputError for a
    pattern that no layer matches.
    """
    names = OLD_NAMES.get(model.config.model_type, {})
    layers = [name for name, module in model.named_modules() if isinstance(module, ADAPTED)]
    for field in ("target_modules", "modules_to_save", "exclude_modules"):
        value = getattr(config, field, None)
        if isinstance(value, (list, set, tuple)):
            setattr(config, field, type(value)(_new_name(name, names) for name in value))
    targets, where = getattr(config, "target_modules", None), f"{path}/adapter_config.json"
    adapted = {_new_name(name, names) for name in _adapted_layers(path, **hub_arguments)}
    if adapted and targets and targets != "all-linear":  # else it is not LoRA, whose layers its file names
        if set(_targeted(targets, layers, f"{where}: target_modules")) != adapted:
            before = {
                old + name.removeprefix(new): name
                for name in layers
                for old, new in names.items()
                if name.startswith(new)
            }
            language = {name: name for name in layers if ".language_model." in name}
            for known in (before, language):
                if {known[name] for name in _targeted(targets, known, where)} == adapted:
                    config.target_modules = adapted
    leaves = [name for name, module in model.named_modules() if not any(module.children())]  # quantised ones, too
    for field in ("rank_pattern", "alpha_pattern"):
        patterns = {_new_name(key, names): value for key, value in (getattr(config, field, None) or {}).items()}
        for key in patterns:
            if not _targeted(f"(.*\\.)?({key})", leaves, f"{where}: {field}"):
                raise InputError(
                    f"{where}: {field} names {key!r}, which no layer of {type(model).__name__} "
                    "is called; write the layer's name as model.named_modules() gives it"
                )
        if patterns:
            setattr(config, field, patterns)
    return config


def _adapted_layers(path: str, **hub_arguments) -> set[str]:
    """The layers that an adapter's file has LoRA weights for, by the names of its release."""
    file = Path(path) / SAFETENSORS_WEIGHTS_NAME
    if file.is_file():
        with safe_open(file, "pt") as opened:
            keys = list(opened.keys())
    else:
        keys = list(load_peft_weights(path, "cpu", **hub_arguments))
    return {key.partition(".lora_")[0].removeprefix("base_model.model.") for key in keys if ".lora_" in key}


def _targeted(targets, layers, where: str) -> list[str]:
    """Those of `layers` that PEFT would adapt: a pattern of whole names, or a list of names or of their ends."""
    if not isinstance(targets, str):
        return [name for name in layers if any(name == target or name.endswith(f".{target}") for target in targets)]
    try:
        return [name for name in layers if re.fullmatch(targets, name)]
    except re.error as error:
        raise InputError(f"{where}: {targets!r} is no regular expression ({error}); correct it") from None


def _new_name(name: str, names: dict[str, str]) -> str:
    """`name` with its beginning replaced by `names`; a leading ^ and escaped dots of a pattern are seen through."""
    anchor, body = ("^", name[1:]) if name.startswith("^") else ("", name)
    plain = body.replace("\\.", ".")
    for old, new in names.items():
        if plain.startswith(old):
            return anchor + (new + plain.removeprefix(old) if "\\" not in body else _escaped(new, old, body))
    return name


def _escaped(new: str, old: str, body: str) -> str:
    """`body`, an escaped pattern that begins like `old`, with `new` in that place."""
    return new.replace(".", r"\.") + body[len(old) + old.count(".") :]
