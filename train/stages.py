"""What a stage trains: which weights, in which precision, at which learning rate."""

import re

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from models.errors import InputError
from models.load import without_adapter
from train.settings import Settings


def trainable_model(model: torch.nn.Module, settings: Settings) -> torch.nn.Module | PeftModel:
    """A fork as `load_model` gives it -> the same ready for `settings.stage`, in training mode.

    Without DeepSpeed, which keeps copies of its own, trained weights are float32 and the others as bf16 says.
    """
    model.requires_grad_(False)
    if settings.stage == "lora":
        model = get_peft_model(model, lora_config(model, settings), autocast_adapter_dtype=not settings.deepspeed)
    else:
        for weight in tuned_weights(model, settings):
            weight.requires_grad_(True)
    if not settings.deepspeed:
        frozen = torch.bfloat16 if settings.bf16 else torch.float32
        for weight in model.parameters():
            weight.data = weight.data.to(torch.float32 if weight.requires_grad else frozen)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        # Upstream makes all embeddings ask for gradients, which only reentrant checkpointing needs and which would send
        # the backward pass through a frozen vision tower.
        without_adapter(model).disable_input_require_grads()
    return model.train()


def tuned_weights(model: torch.nn.Module, settings: Settings) -> list[torch.nn.Parameter]:
    """The weights that stages pretrain and finetune train; LLaVA-NeXT's newline goes with the projector."""
    weights = [*model.model.get_submodule(model.projector_name).parameters()]
    weights += [weight for name, weight in model.model.named_parameters(recurse=False) if name == "image_newline"]
    if settings.stage == "finetune":
        weights += [*model.model.language_model.parameters(), *model.lm_head.parameters()]
        if not settings.freeze_vision_tower:
            weights += [*model.model.get_submodule(model.tower_name).parameters()]
    return weights


def lora_config(model: torch.nn.Module, settings: Settings) -> LoraConfig:
    """PEFT's config: linear layers of the language model, found by name, and the projector as the settings say."""
    patterns = [rf"model\.language_model\..*\.({'|'.join(map(re.escape, lora_layers(model, settings)))})"]
    kept = None
    if settings.projector == "full":
        kept = [model.projector_name.split(".")[-1]]
    elif settings.projector == "lora":
        layers = linear_layers(model.model.get_submodule(model.projector_name))
        if not layers:
            raise InputError(f"projector: lora: {model.config.model_type}'s has no linear layer; choose full or frozen")
        patterns.append(rf"model\.{re.escape(model.projector_name)}\.({'|'.join(map(re.escape, layers))})")
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules="|".join(f"({pattern})" for pattern in patterns),
        modules_to_save=kept,
    )


def lora_layers(model: torch.nn.Module, settings: Settings) -> list[str]:
    """Last names of the language model's linear layers that get LoRA; InputError for one that it does not have."""
    there = sorted({name.split(".")[-1] for name in linear_layers(model.model.language_model)})
    if settings.lora_target == ["all"]:
        return there
    if not settings.lora_target:
        raise InputError(f"lora_target: no layer is given; there are {', '.join(there)}, or all")
    for name in settings.lora_target:
        if name not in there:
            raise InputError(f"lora_target: no linear layer is called {name!r}; there are {', '.join(there)}, or all")
    return settings.lora_target


def linear_layers(module: torch.nn.Module) -> list[str]:
    return [name for name, layer in module.named_modules() if isinstance(layer, torch.nn.Linear)]


def parameter_groups(model: torch.nn.Module, settings: Settings, decayed: set[str]) -> list[dict]:
    """AdamW's groups of the trained weights: the projector at its own learning rate, no decay but for `decayed`."""
    fork = without_adapter(model)
    projector = f".{fork.projector_name}."
    own = settings.projector_learning_rate
    rates = {False: settings.learning_rate, True: settings.learning_rate if own is None else own}
    groups: dict[tuple[bool, bool], list] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            key = (projector in f".{name}." or name.endswith("image_newline"), name in decayed)
            groups.setdefault(key, []).append(weight)
    return [
        {"params": weights, "lr": rates[in_projector], "weight_decay": settings.weight_decay if decays else 0.0}
        for (in_projector, decays), weights in sorted(groups.items(), key=lambda group: group[0])  # the first is logged
    ]
