"""A checkpoint -> (model, processor). The only place that reads `position_balance` from a config.json."""

import copy
import json
import logging
import sys
from pathlib import Path

import torch
import transformers
from huggingface_hub import snapshot_download
from peft import PeftConfig, PeftModel
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.processing_utils import ProcessorMixin

from models import llava_original, llava_parts
from models.adapters import OLD_WEIGHTS, adapter_base, check_flag_is_known, renamed_config
from models.errors import InputError
from models.literal_text import keep_literals
from models.modeling_gemma3 import Gemma3ForConditionalGeneration
from models.modeling_llava import LlavaForConditionalGeneration, tokens_per_image
from models.modeling_llava_next import LlavaNextForConditionalGeneration
from models.modeling_qwen2_5_vl import Qwen2_5_VLForConditionalGeneration
from models.processors import finish_processor, load_processor
from models.quiet import quiet_transformers
from models.reading import HUB_ARGUMENTS, WEIGHT_ERRORS, check_shards, read_json, told_as
from models.sentencepiece_tokens import match_sentencepiece

logger = logging.getLogger(__name__)

FORKS = {
    "llava": LlavaForConditionalGeneration,
    "llava_next": LlavaNextForConditionalGeneration,
    "qwen2_5_vl": Qwen2_5_VLForConditionalGeneration,
    "gemma3": Gemma3ForConditionalGeneration,
}
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")


def load_model(
    model_path: str | Path, position_balance: bool | None = None, **from_pretrained_arguments
) -> tuple[PreTrainedModel | PeftModel, ProcessorMixin]:
    """Load a checkpoint of the zoo, in eval mode, with its processor.

    Args:
        model_path: a folder or hub id in the transformers layout, a folder or hub id in the original LLaVA layout, or
            a PEFT adapter (its base is loaded from where its adapter_config.json says and the adapter put on it).
        position_balance: None: what config.json says (absent: false, with one notice). A bool overrides it. Later,
            `model.config.position_balance` may be set on the config that the model has, not on a copy.
        **from_pretrained_arguments: for transformers' `from_pretrained`: dtype, device_map, attn_implementation,
            revision, ...

    Returns:
        The model, whose `config.position_balance` is the flag in force, and the processor: padding on the left, the
        family's chat template. `save_pretrained` of both, into one folder, is a checkpoint in the transformers layout.

    Raises:
        InputError: the path, config.json or weights are not what they should be; every load checks that no weight is
            missing, unexpected or of another shape.
    """
    if position_balance is not None and not isinstance(position_balance, bool):
        raise InputError(f"position_balance={position_balance!r}: pass True, False or None (what config.json says)")
    for name in ("config", "state_dict", "subfolder", "output_loading_info", "key_mapping", "trust_remote_code"):
        if name in from_pretrained_arguments:
            raise InputError(f"{name}: load_model sets it itself; leave it out")
    path = str(model_path)
    if not path:
        raise InputError("the model path is empty; give a checkpoint's folder or hub id")
    hub = {name: from_pretrained_arguments[name] for name in HUB_ARGUMENTS if name in from_pretrained_arguments}
    adapter = read_json(path, "adapter_config.json", required=False, **hub)
    if adapter is not None:
        return load_adapter(path, adapter, position_balance, from_pretrained_arguments, hub)
    config = read_json(path, "config.json", **hub)
    flag_in(path, config)  # an error also where an argument overrides it
    balance = read_flag(path, config) if position_balance is None else position_balance
    check_generation_config(path, **hub)
    if llava_original.is_original_layout(config):
        model, processor = load_llava_original(path, balance, from_pretrained_arguments, hub)
    else:
        model, processor = load_transformers(path, config, balance, from_pretrained_arguments, hub)
    clear_sampling(model)
    return model, processor


def register_auto_classes() -> None:
    """Make transformers' Auto classes and pipelines of this process build the forks; acts only when called.

    Of AutoModelForImageTextToText, AutoModelForMultimodalLM and, for Gemma3, AutoModelForCausalLM; AutoModel gives the
    fork's model without its head. transformers 5.17 ignores a registration for its own config classes, so the forks'
    configs take over the types. Libraries that take `architectures` of config.json from the module transformers (TRL)
    get the forks, too. All of them read the flag in config.json: one that was set in memory alone, on a model that
    such a library builds again from its path (the reference model of TRL's DPO), is not known to them. Where
    torchvision is missing, AutoProcessor cannot load Qwen2.5-VL: give the pipeline `load_model`'s processor.
    """
    for model_type, fork in FORKS.items():
        AutoConfig.register(model_type, fork.config_class, exist_ok=True)
        for auto_class in (AutoModelForImageTextToText, AutoModelForMultimodalLM):
            auto_class.register(fork.config_class, fork, exist_ok=True)
        AutoModel.register(fork.config_class, fork.inner_class, exist_ok=True)
        for module in (transformers, sys.modules["transformers"]):  # it puts another object into its own place
            setattr(module, fork.__name__, fork)
    AutoModelForCausalLM.register(FORKS["gemma3"].config_class, FORKS["gemma3"], exist_ok=True)


def read_flag(path: str, config: dict, name: str = "config.json") -> bool:
    """`position_balance` of a config.json (design law 1); absent is false, anything but a JSON boolean an error."""
    flag = flag_in(path, config, name)
    if flag is None:
        logger.warning('%s/config.json has no "position_balance": running the original model (false)', path)
    return bool(flag)


def flag_in(path: str, config: dict, name: str = "config.json") -> bool | None:
    """`position_balance` of a config.json, None if it does not say; InputError where it cannot be meant so."""
    for part, settings in config.items():
        if part.endswith("_config") and isinstance(settings, dict) and "position_balance" in settings:
            raise InputError(f'{path}/{name}: "position_balance" stands in {part}; write it at the top, beside {part}')
    if "position_balance" not in config:
        return None
    value = config["position_balance"]
    if not isinstance(value, bool):
        raise InputError(
            f'{path}/{name}: "position_balance" is {json.dumps(value)}; '
            'write "position_balance": true or "position_balance": false'
        )
    return value


def stated_flag(path: str, name: str = "config.json", **hub_arguments) -> bool | None:
    """`position_balance` in file `name` of a folder or hub id; None if there is no such file or it does not say."""
    config = read_json(path, name, required=False, **hub_arguments)
    return None if config is None else flag_in(path, config, name)


def load_transformers(
    path: str, config: dict, balance: bool, arguments: dict, hub: dict
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """A checkpoint in the transformers layout: a fork, or with the flag off transformers' own class."""
    model_type = config.get("model_type")
    fork = FORKS.get(model_type) if isinstance(model_type, str) else None
    unreadable = f"{path}/config.json: cannot be read"
    for part in ("text_config", "vision_config"):
        # For null, transformers would build a part of its default size, gigabytes of random weights.
        if part in config and not isinstance(config[part], dict):
            raise InputError(
                f"{path}/config.json: {part} is {json.dumps(config[part])[:60]}, not an object; restore it"
            )
    if fork is not None:
        with told_as(unreadable):
            model_config = fork.config_class.from_pretrained(path, **hub)
        model_config.position_balance = balance
        if balance and model_type.startswith("llava"):
            with told_as(f"{path}/config.json: position_balance is true, but", ValueError, ArithmeticError):
                tokens_per_image(model_config)
        model = load_weights(fork, path, path, model_config, **arguments)
        return model, load_processor(path, model.config, **hub)
    if balance:
        raise InputError(
            f"{path}/config.json: position_balance is true, but model_type {model_type!r} has no fork here; "
            f"supported: {', '.join(FORKS)}"
        )
    with told_as(unreadable):
        model_config = AutoConfig.from_pretrained(path, trust_remote_code=False, **hub)
    if type(model_config) not in AutoModelForImageTextToText._model_mapping:
        raise InputError(f"{path}/config.json: model_type {model_type!r} is not a model of images and text")
    with told_as(f"{path}: tokenizer or image processor cannot be loaded"):
        processor = AutoProcessor.from_pretrained(path, trust_remote_code=False, **hub)
    model = load_weights(AutoModelForImageTextToText, path, path, model_config, **arguments)
    model.config.position_balance = False
    tokenizer = getattr(processor, "tokenizer", processor)
    tokenizer.padding_side = "left"
    match_sentencepiece(tokenizer)
    keep_literals(tokenizer)
    return model, processor


def check_generation_config(path: str, **hub_arguments) -> None:
    """InputError for a generation_config.json that cannot be read: transformers would go on without its settings."""
    values = read_json(path, "generation_config.json", required=False, **hub_arguments)
    if values is not None:
        with told_as(f"{path}/generation_config.json: cannot be read; restore it from the checkpoint"):
            GenerationConfig.from_dict(values)


def check_attention(model_class: type, config: PreTrainedConfig, choice) -> None:
    """InputError unless the attention `choice` (of `attn_implementation`) can be had here, before weights are read."""
    build = getattr(model_class, "_from_config", None) or model_class.from_config
    problem = f"attn_implementation={choice!r}: cannot be used here; choose sdpa or eager"
    with told_as(problem), quiet_transformers(), torch.device("meta"):
        build(copy.deepcopy(config), attn_implementation=choice)


def load_weights(
    model_class: type, path: str, source: str | None, config: PreTrainedConfig | None = None, **arguments
) -> PreTrainedModel:
    """`from_pretrained(source)` that fails unless every weight was found, in its shape, and none was left over.

    `config` None: the source's own; an `attn_implementation` among the arguments is then not checked before.
    """
    if source is not None:
        check_shards(Path(source))
    if config is not None and arguments.get("attn_implementation") is not None:
        check_attention(model_class, config, arguments["attn_implementation"])
    unreadable = f"{path}: weights cannot be read; download them again"
    missing_package = f"{path}: cannot be loaded without a package that is not installed here; install it"
    with told_as(unreadable, *WEIGHT_ERRORS), told_as(missing_package, ImportError), quiet_transformers():
        fixed = {"output_loading_info": True, "ignore_mismatched_sizes": True, "trust_remote_code": False}
        model, report = model_class.from_pretrained(source, config=config, **fixed, **arguments)
    for problem in ("missing", "unexpected", "mismatched"):
        # A mismatched entry is (name, shape in the file, shape in the model).
        keys = sorted(key if isinstance(key, str) else key[0] for key in report[f"{problem}_keys"])
        if keys:
            raise InputError(
                f"{path}: {len(keys)} {problem} weights (first: {keys[0]}); config.json and weights do not belong "
                "together, or the download is incomplete"
            )
    return model


def load_llava_original(
    path: str, balance: bool, arguments: dict, hub: dict, base: str | None = None
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """A checkpoint in the layout of the LLaVA code base (models/llava_original.py).

    `base`: the language model of a LoRA folder (models/llava_parts.py), whose adapter is not put on yet.
    """
    folder = Path(path)
    if not folder.is_dir():
        with told_as(f"{path}: cannot be had from the hub"):
            folder = Path(snapshot_download(path, allow_patterns=llava_original.FILES, **hub))
    language = folder
    if base is None and llava_parts.is_projector(folder):
        base = llava_parts.projector_base(folder, read_json(path, "config.json", **hub))
        config, state, processor, language = llava_parts.read(folder, llava_parts.PROJECTOR, base)
    elif base is not None:
        config, state, processor, language = llava_parts.read(folder, llava_parts.BESIDE_LORA, base)
    else:
        config, state, processor = llava_original.read(folder)
    config.position_balance = balance
    # The hub's arguments have done their work: these weights are at hand.
    arguments = {name: value for name, value in arguments.items() if name not in hub}
    model = load_weights(FORKS[config.model_type], path, None, config, state_dict=state, **arguments)
    model.generation_config = llava_original.generation_config(language, config, processor)
    model.name_or_path = path
    return model, finish_processor(processor, config, path)


def load_adapter(
    path: str, adapter: dict, position_balance: bool | None, arguments: dict, hub: dict
) -> tuple[PeftModel, ProcessorMixin]:
    """A PEFT adapter on its base. The flag: the argument, else the adapter folder's config.json, else the base's."""
    base = adapter_base(path, adapter)
    described = read_json(path, "config.json", required=False, **hub) or {}
    if position_balance is None:
        position_balance = flag_in(path, described)
        check_flag_is_known(path, adapter, position_balance)
    own = {name: value for name, value in arguments.items() if name not in ("revision", "force_download")}
    if adapter.get("revision"):
        own["revision"] = adapter["revision"]  # which PEFT means for the base
    try:
        if llava_original.is_original_layout(described):
            balance = read_flag(path, described) if position_balance is None else position_balance
            model, processor = load_llava_original(path, balance, arguments, hub, base)
        else:
            model, processor = load_model(base, position_balance, **own)
    except InputError as error:
        raise InputError(f"{path}: its base cannot be loaded: {error}") from error
    own_type, base_type = described.get("model_type"), model.config.model_type
    if own_type in FORKS and own_type != base_type:
        raise InputError(f"{path}: an adapter for {own_type}, but {base} is {base_type}; name the base it belongs to")
    keys = OLD_WEIGHTS.get(model.config.model_type)
    with told_as(f"{path}: the adapter cannot be put on {base}"):
        config = renamed_config(PeftConfig.from_pretrained(path, **hub), model, path, **hub)
        config.inference_mode = True
        adapted = PeftModel(model, config)
        report = adapted.load_adapter(path, "default", key_mapping=keys, **hub)
    # PEFT lists the base's weights as missing, too: an adapter holds none of them.
    missing = sorted(key for key in report.missing_keys if "lora_" in key or "modules_to_save" in key)
    for problem, found in (("missing", missing), ("unexpected", sorted(report.unexpected_keys))):
        if found:
            raise InputError(f"{path}: {len(found)} {problem} adapter weights (first: {found[0]}) for {base}")
    return adapted.eval(), processor


def without_adapter(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The fork below PEFT's wrapper, whose layers still hold the adapter; any other model itself."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def clear_sampling(model: PreTrainedModel) -> None:
    """Drop sampling values that a checkpoint carries without sampling: transformers would refuse to save them."""
    settings = model.generation_config
    if settings is not None and not settings.do_sample:
        for name in SAMPLING:
            setattr(settings, name, None)
