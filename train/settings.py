"""The settings of a training run: a dataclass, filled from a recipe (configs/train/*.yaml), then the command line."""

import argparse
import dataclasses
import difflib
import typing
from dataclasses import dataclass, field
from pathlib import Path

from models.errors import ArgumentParser, InputError
from models.names import check_name
from models.outside import read_yaml_mapping, yaml_value
from models.ranges import check_range

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("pretrain", "finetune", "lora")
# transformers' that need no settings of their own.
SCHEDULES = (
    "cosine",
    "linear",
    "constant",
    "constant_with_warmup",
    "cosine_with_restarts",
    "polynomial",
    "inverse_sqrt",
)


def setting(default, help_text: str, choices: tuple = (), decides: bool = True):
    """A field of Settings. `decides`: a run that resumes with another value would not be the same run."""
    metadata = {"help": help_text, "decides": decides} | ({"choices": list(choices)} if choices else {})
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class Settings:
    """Every key of a recipe, each also a flag of the command line. Paths are relative to where the script is run."""

    # What is trained
    stage: str = setting("lora", "pretrain: the projector; finetune: language model and projector; lora", STAGES)
    model_path: str | None = setting(None, "a checkpoint of the zoo: folder or hub id")
    vision_tower: str | None = setting(
        None, "instead of model_path, with language_model: assemble LLaVA from two parts"
    )
    language_model: str | None = setting(None, "a Llama-type language model, folder or hub id")
    position_balance: bool | None = setting(None, "BaPA on or off; left out: as the checkpoint's config.json says")
    freeze_vision_tower: bool = setting(True, "finetune only: false trains the vision tower, too")
    lora_rank: int = setting(8, "rank of LoRA's matrices")
    lora_alpha: int = setting(16, "LoRA's updates are scaled by lora_alpha / lora_rank")
    lora_dropout: float = setting(0.0, "dropout before LoRA's matrices")
    lora_target: list[str] = setting(["all"], "linear layers of the language model by the end of their names, or all")
    projector: str = setting("frozen", "of a LoRA run", ("frozen", "full", "lora"))
    projector_learning_rate: float | None = setting(None, "left out: learning_rate")

    # Data
    data: list[str] = setting([], "files in LLaVA's or the messages form, .json or .jsonl")
    data_weights: list[float] = setting([], "passes over each file in one epoch: 0.5 is half of it, 2 is twice")
    image_folder: list[str] = setting(["."], "where the images are: one folder for all files, or one for each")
    follow_paths: bool = setting(False, "read images that the data name out of image_folder, too")
    template: str = setting(
        "checkpoint",
        "what is asked and learnt: as evaluation asks, or as LLaMA-Factory trains Qwen2.5-VL and Gemma3",
        ("checkpoint", "llama_factory"),
    )
    image_aspect_ratio: str | None = setting(None, "LLaVA-1.5: pad to a square, or crop one", ("pad", "square", "crop"))
    image_max_pixels: int | None = setting(None, "Qwen2.5-VL: scale larger images down while training")
    box_coordinates: str | None = setting(
        None,
        "what boxes of `objects` are written in; left out: pixels of the scaled picture, where that has any size",
        ("resized_pixels", "normalized_1000", "normalized_1"),
    )
    cutoff_len: int = setting(2048, "samples of more tokens, image tokens included, are dropped and listed")
    packing: bool = setting(False, "rows of several samples, up to cutoff_len tokens, without padding")
    group_by: str = setting("none", "modality_length: a step holds samples of like length", ("none", "modality_length"))
    skip_malformed: bool = setting(False, "leave malformed samples out and list them instead of stopping")
    max_bad_samples: int = setting(100, "more unreadable images than this stop the run", decides=False)

    # Optimisation
    num_epochs: float = setting(1.0, "passes over the data")
    max_steps: int = setting(-1, "updates; overrides num_epochs if positive")
    global_batch_size: int = setting(8, "rows in one update, over all processes and accumulation steps")
    learning_rate: float = setting(1e-4, "the peak, in AdamW")
    lr_scheduler: str = setting("cosine", "transformers' name of the schedule", SCHEDULES)
    warmup_ratio: float = setting(0.1, "part of the updates in which the learning rate rises")
    weight_decay: float = setting(0.0, "AdamW's")
    max_grad_norm: float = setting(1.0, "gradients are clipped to this norm")
    seed: int = setting(42, "of fresh weights, dropout and the order of the data")

    # The machine
    per_device_batch_size: int = setting(1, "rows in one forward pass; accumulation follows from it", decides=False)
    bf16: bool = setting(True, "compute in bfloat16; trained weights stay in float32 without DeepSpeed")
    tf32: bool = setting(True, "let float32 products use TF32, on GPUs that have it")
    gradient_checkpointing: bool = setting(False, "less memory, a third more time", decides=False)
    attn_implementation: str | None = setting(None, "sdpa (as left out), eager or flash_attention_2", decides=False)
    deepspeed: str | None = setting(None, "configs/deepspeed/zero2.json or zero3.json")
    num_workers: int = setting(4, "processes that prepare data, for each training process", decides=False)

    # The run
    output_dir: str = setting("", "an empty or new folder")
    resume: str = setting("none", "auto: go on from the last whole checkpoint, if any", ("none", "auto"), decides=False)
    overwrite: bool = setting(False, "delete the run that is in output_dir", decides=False)
    save_steps: int = setting(500, "a checkpoint every so many updates", decides=False)
    save_total_limit: int = setting(1, "whole checkpoints to keep", decides=False)
    logging_steps: int = setting(1, "a line of log.jsonl every so many updates", decides=False)
    report_to: str = setting("none", "", ("none", "tensorboard", "wandb", "trackio"), decides=False)


# What transformers, PEFT, LLaVA and LLaMA-Factory call settings that are called otherwise here.
PER_UPDATE = "'global_batch_size': rows in one update, over all processes and accumulation steps"
OTHER_NAMES = {
    "gradient_accumulation_steps": f"{PER_UPDATE}; accumulation follows from it",
    "gradient_accumulation": f"{PER_UPDATE}; accumulation follows from it",
    "train_batch_size": PER_UPDATE,
    "batch_size": f"{PER_UPDATE}; or 'per_device_batch_size': rows in one forward pass",
    "per_device_train_batch_size": "'per_device_batch_size'",
    "num_train_epochs": "'num_epochs'",
    "epochs": "'num_epochs'",
    "max_train_steps": "'max_steps'",
    "lr": "'learning_rate'",
    "mm_projector_lr": "'projector_learning_rate'",
    "lr_scheduler_type": "'lr_scheduler'",
    "warmup_steps": "'warmup_ratio': a part of the updates",
    "r": "'lora_rank'",
    "lora_r": "'lora_rank'",
    "target_modules": "'lora_target'",
    "lora_target_modules": "'lora_target'",
    "finetuning_type": "'stage'",
    "model": "'model_path'",
    "model_name_or_path": "'model_path'",
    "model_max_length": "'cutoff_len'",
    "max_length": "'cutoff_len'",
    "max_seq_length": "'cutoff_len'",
    "data_path": "'data'",
    "dataset": "'data'",
    "image_dir": "'image_folder'",
    "media_dir": "'image_folder'",
    "image_path": "'image_folder'",
    "interleave_probs": "'data_weights': passes over each file in one epoch",
    "group_by_modality_length": "'group_by': modality_length",
    "group_by_length": "'group_by': modality_length",
    "dataloader_num_workers": "'num_workers'",
    "preprocessing_num_workers": "'num_workers'",
    "resume_from_checkpoint": "'resume': auto",
    "overwrite_output_dir": "'overwrite'",
    "flash_attn": "'attn_implementation'",
    "freeze_backbone": "'stage': pretrain",
    "tune_mm_mlp_adapter": "'stage': pretrain",
    "lora_enable": "'stage': lora",
    "fp16": "'bf16': true or false",
}
FIELDS = {item.name: item for item in dataclasses.fields(Settings)}


def parse_settings(description: str, argv: list[str] | None = None) -> Settings:
    """Settings from `--config recipe.yaml` and the flags behind it; InputError for whatever is not a setting."""
    parser = ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", help="a recipe: configs/train/*.yaml")
    for name, item in FIELDS.items():
        several = {"nargs": "*"} if is_list(item) else {}
        default = f"default: {item.default}" if item.default not in (None, dataclasses.MISSING) else None
        text = "; ".join(filter(None, [item.metadata["help"], ", ".join(item.metadata.get("choices", ())), default]))
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS, help=text.replace("%", "%%"), **several)
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)  # deepspeed's launcher adds it; LOCAL_RANK says it, too
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        raise InputError(f"{unknown[0]}: {no_such_key(unknown[0].lstrip('-').split('=')[0])}")
    given = vars(arguments)
    recipe, _ = given.pop("config"), given.pop("local_rank")
    values = read_recipe(Path(recipe)) if recipe else {}
    values |= {name: checked(f"--{name}", name, from_text(name, value)) for name, value in given.items()}
    return Settings(**values)


def read_recipe(path: Path) -> dict:
    """The settings in a recipe, checked; InputError naming the file and the key."""
    recipe = read_yaml_mapping(path, "the recipes are in configs/train")
    for name in recipe:
        if name not in FIELDS:
            raise InputError(f"{path}: {no_such_key(str(name))}")
    return {name: checked(f"{path}: {name}", name, value) for name, value in recipe.items()}


def no_such_key(name: str) -> str:
    if name in OTHER_NAMES:
        return f"no setting is called {name!r}; here it is {OTHER_NAMES[name]}"
    near = difflib.get_close_matches(name, FIELDS, n=1, cutoff=0.0)
    return f"no setting is called {name!r}; the nearest is {near[0]!r}" if near else f"no setting is called {name!r}"


def is_list(item: dataclasses.Field) -> bool:
    return typing.get_origin(item.type) is list


def from_text(name: str, text: str | list[str]):
    """What flag `name` says, as YAML would read it where that is not text; `null` leaves an optional setting out."""
    if isinstance(text, list):
        return [from_text(name, one) for one in text]
    textual = str in (FIELDS[name].type, *typing.get_args(FIELDS[name].type))
    if textual and text != "null":
        return text
    try:
        return yaml_value(text, f"--{name}")
    except InputError:  # the text, of which `checked` says what is wrong
        return text


def checked(where: str, name: str, value):
    """`value` as the type of setting `name`, or InputError starting with `where`. YAML reads 1e-4 as text."""
    item = FIELDS[name]
    if is_list(item):
        (kind,) = typing.get_args(item.type)
        return [as_type(where, kind, one) for one in (value if isinstance(value, list) else [value])]
    kinds = [kind for kind in typing.get_args(item.type) or (item.type,) if kind is not type(None)]
    if value is None and len(typing.get_args(item.type)) > 1:
        return None
    value = as_type(where, kinds[0], value)
    choices = item.metadata.get("choices")
    if choices and value not in choices:
        raise InputError(f"{where} is {value!r}; choose one of {', '.join(choices)}")
    return value


def as_type(where: str, kind: type, value):
    if kind is float and not isinstance(value, bool):
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError):
            pass
    elif type(value) is kind:
        return value
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    raise InputError(f"{where} is {value!r}; {names[kind]} is expected")


def find_file(name: str) -> Path:
    """A file that a recipe names: relative to where the script is run, else to the repository."""
    return next((path for path in (Path(name), ROOT / name) if path.is_file()), Path(name))


def check_settings(settings: Settings, processes: int) -> None:
    """InputError for settings that do not go together; `processes` is how many train."""
    parts = [name for name in ("vision_tower", "language_model") if getattr(settings, name)]
    if bool(settings.model_path) == bool(parts) or len(parts) == 1:
        raise InputError("give model_path, or vision_tower and language_model (LLaVA from scratch)")
    if not settings.data:
        raise InputError("data: no file is given")
    if not settings.output_dir:
        raise InputError("output_dir: no folder is given")
    if len(settings.image_folder) not in (1, len(settings.data)):
        raise InputError("image_folder: give one folder for all files of data, or one for each")
    if settings.data_weights and len(settings.data_weights) != len(settings.data):
        raise InputError("data_weights: give one for each file of data, or none")
    if any(weight < 0 for weight in settings.data_weights) or (
        settings.data_weights and not sum(settings.data_weights)
    ):
        raise InputError("data_weights: a negative one, or nothing but zeros")
    for name, value in vars(settings).items():
        check_range(name, name, value)
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, str):
                check_name(one, name)
    for name in (
        "cutoff_len",
        "global_batch_size",
        "per_device_batch_size",
        "lora_rank",
        "save_steps",
        "save_total_limit",
        "logging_steps",
    ):
        if getattr(settings, name) < 1:
            raise InputError(f"{name} is {getattr(settings, name)}; 1 or more is expected")
    for name in ("num_workers", "max_bad_samples"):
        if getattr(settings, name) < 0:
            raise InputError(f"{name} is {getattr(settings, name)}; 0 or more is expected")
    if not 0 <= settings.lora_dropout < 1:
        raise InputError(f"lora_dropout is {settings.lora_dropout}; 0 or more and less than 1 is expected")
    if not 0 <= settings.warmup_ratio < 1:
        raise InputError(f"warmup_ratio is {settings.warmup_ratio}; a part of the updates is expected, 0 to below 1")
    if settings.num_epochs <= 0 and settings.max_steps < 1:
        raise InputError("num_epochs and max_steps: one of them must be positive")
    if settings.stage != "lora" and settings.projector != "frozen":
        raise InputError(
            f"projector: {settings.projector} is for stage lora; {settings.stage} trains the projector anyway"
        )
    if settings.packing and settings.per_device_batch_size != 1:
        raise InputError("packing makes one row of several samples; set per_device_batch_size: 1, and more cutoff_len")
    if settings.packing and settings.group_by != "none":
        raise InputError("packing leaves nothing to group; set group_by: none")
    at_once = settings.per_device_batch_size * processes
    if settings.global_batch_size % at_once:
        raise InputError(
            f"global_batch_size {settings.global_batch_size} does not divide by {at_once} (per_device_batch_size "
            f"{settings.per_device_batch_size} x {processes} processes); change one of them"
        )
