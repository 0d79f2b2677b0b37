"""Train and merge with LLaMA-Factory, on this repository's models: what `llamafactory-cli train` and `export` do.

    python train/llama_factory.py train configs/llama_factory/qwen2_5_vl_train.yaml

Any YAML of LLaMA-Factory's will do; `key=value` behind it overrides it. With several GPUs (or FORCE_TORCHRUN=1, or a
`deepspeed` key) one process is started for each; `torchrun --nproc_per_node 8 train/llama_factory.py train x.yaml`
works as well. Whether BaPA is on is what `position_balance` says in the config.json of `model_name_or_path`: it is
written beside the adapters and into the merged checkpoint. docs/llama_factory.md says how to install LLaMA-Factory.
"""

import argparse
import dataclasses
import difflib
import importlib.util
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel, TrainerCallback

from data.files import write_atomic
from models.errors import ArgumentParser, InputError, run_script
from models.fingerprint import base_identity
from models.load import FORKS, read_flag, register_auto_classes, stated_flag
from models.outside import read_yaml_mapping
from models.provenance import provenance, versions
from models.reading import read_json, told_as
from models.writing import new_folder

INSTALL = (
    "in an environment of its own: pip install -r requirements.txt -r configs/llama_factory/requirements.txt && "
    "pip install --no-deps llamafactory==0.9.5 (docs/llama_factory.md)"
)


class KeepFork(TrainerCallback):
    """Stops a run before its first step if the model is not a fork, and writes the flag beside saved adapters."""

    def __init__(self, config: dict, training: dict):
        self.config, self.training = config, training

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        require_fork(model, self.config["position_balance"])

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            write_beside(Path(args.output_dir) / f"checkpoint-{state.global_step}", self.config, self.training)


def read_settings(config: str, overrides: list[str]) -> dict:
    """The YAML with the overrides in, read as LLaMA-Factory reads it; InputError for what it would not understand."""
    content = read_yaml_mapping(Path(config), "give a YAML file, as in configs/llama_factory")
    for override in overrides:
        if "=" not in override or override.startswith("-"):
            raise InputError(f"{override}: write key=value, as LLaMA-Factory does")
    if "position_balance" in [*content, *(override.split("=")[0] for override in overrides)]:
        raise InputError(f"{config}: position_balance belongs into the config.json of model_name_or_path")
    if importlib.util.find_spec("llamafactory") is None:
        raise InputError(f"LLaMA-Factory is not installed here; {INSTALL}")
    from omegaconf import OmegaConf

    with told_as(f"{config}: cannot be read"):
        merged = OmegaConf.merge(OmegaConf.load(config), OmegaConf.from_cli(overrides))
        settings = OmegaConf.to_container(merged, resolve=True)
    if "warmup_ratio" in settings:
        # Gone from transformers 5.17, where warmup_steps below 1 is that ratio.
        settings["warmup_steps"] = settings.pop("warmup_ratio")
    return settings


def check_settings(config: str, settings: dict, folder_key: str) -> None:
    """Raise InputError for unknown keys, and for missing ones that name what is read or written."""
    with told_as(f"LLaMA-Factory cannot be imported; install it anew, {INSTALL}", ImportError, OSError):
        import llamafactory.train.tuner  # noqa: F401 - which imports all that training does, torchaudio for instance
        from llamafactory import hparams
    names = ("ModelArguments", "DataArguments", "TrainingArguments", "FinetuningArguments", "GeneratingArguments")
    known = [field.name for name in names for field in dataclasses.fields(getattr(hparams, name))]
    for key in settings:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(f"{config}: LLaMA-Factory has no key {key}{hint}")
    for key in ("model_name_or_path", folder_key):
        if not isinstance(settings.get(key), str) or not settings[key]:
            raise InputError(f"{config}: no {key}; write one, or add {key}=... to the command")


def read_base(settings: dict) -> dict:
    """config.json of `model_name_or_path` with the flag in it; InputError if it is not a checkpoint of a fork."""
    path = settings["model_name_or_path"]
    hub = {"revision": settings.get("model_revision", "main"), "cache_dir": settings.get("cache_dir")}
    config = read_json(path, "config.json", **hub)
    if config.get("model_type") not in FORKS or "mm_vision_tower" in config:
        raise InputError(
            f"{path}/config.json: model_type {config.get('model_type')!r} in this layout cannot be trained here; "
            f"give a checkpoint in the transformers layout of {', '.join(FORKS)}"
        )
    flag = read_flag(path, config)
    for key in ("packing", "neat_packing"):
        # Packed rows come without what tells their samples apart: positions would run on from one to the next.
        if flag and settings.get(key):
            raise InputError(f"{key}: position_balance is on in {path}/config.json; train/sft.py packs with it")
    return config | {"position_balance": flag}


def require_forks_registered(model_type: str) -> None:
    """Raise InputError unless transformers' Auto class, which LLaMA-Factory asks, builds the fork."""
    built = AutoModelForImageTextToText._model_mapping[type(AutoConfig.for_model(model_type))]
    if built is not FORKS[model_type]:
        raise InputError(f"model_type {model_type}: transformers would build {built.__module__}, not this repository's")


def require_fork(model, position_balance: bool) -> None:
    """Raise InputError unless the model that is about to be trained, a PEFT model or not, is a fork with that flag."""
    inner = next((module for module in model.modules() if isinstance(module, PreTrainedModel)), model)
    if type(inner) not in FORKS.values() or inner.config.position_balance is not position_balance:
        raise InputError(
            f"LLaMA-Factory built {type(inner).__module__}.{type(inner).__name__} instead of this repository's class; "
            "leave out keys that exchange the model (use_unsloth, mixture_of_depths, use_kt, ...)"
        )


def describe(settings: dict, config: dict) -> dict:
    """What training.json says of a run, as train/sft.py writes it, without the keys that open accounts."""
    base = settings["model_name_or_path"]
    return {
        "settings": {key: value for key, value in settings.items() if not key.endswith(("token", "api_key"))},
        "position_balance": config["position_balance"],
        "base": {"path": base, "revision": None if Path(base).is_dir() else settings.get("model_revision", "main")},
        "versions": versions() | {name: version(name) for name in ("llamafactory", "peft", "accelerate")},
        "provenance": provenance(),
    }


def write_beside(folder: Path, config: dict, training: dict) -> None:
    """Put two files beside an adapter, if `folder` has one: whichever way it is used later, it is used as trained.

    config.json has the flag for `load_model`; training.json has the hashes of the base that the adapter belongs to.
    """
    if (folder / "adapter_config.json").is_file():
        base = training["base"]
        base |= {"files": base_identity(base["path"], base["revision"])}  # of a hub id they are here only by now
        write_atomic(folder / "training.json", json.dumps(training, indent=2, ensure_ascii=False) + "\n")
        write_atomic(folder / "config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def train(settings: dict, config: dict) -> None:
    from llamafactory.train.tuner import run_exp

    training = describe(settings, config)
    run_exp(args=settings, callbacks=[KeepFork(config, training)])
    if int(os.environ.get("RANK", "0")) == 0:
        write_beside(Path(settings["output_dir"]), config, training)


def export(settings: dict, config: dict) -> None:
    """Merge into `export_dir`, which is whole or absent."""
    from llamafactory.train.tuner import export_model

    for adapter in adapters_of(settings):
        check_adapter(adapter, settings["model_name_or_path"], config["position_balance"])
    with new_folder(settings["export_dir"], "export_dir") as folder:
        export_model(settings | {"export_dir": str(folder)})


def adapters_of(settings: dict) -> list[str]:
    """`adapter_name_or_path`, which LLaMA-Factory takes as a list or as names with commas between them."""
    adapters = settings.get("adapter_name_or_path") or []
    return [name.strip() for name in adapters.split(",")] if isinstance(adapters, str) else adapters


def check_adapter(adapter: str, base: str, position_balance: bool) -> None:
    """Raise InputError if the adapter says that it was trained with the other flag, or on another base."""
    read_json(adapter, "adapter_config.json")
    trained = stated_flag(adapter)
    if trained not in (None, position_balance):
        raise InputError(
            f"{adapter}: trained with position_balance {json.dumps(trained)}; {base}/config.json has "
            f"{json.dumps(position_balance)}: set it there as in training"
        )
    training = read_json(adapter, "training.json", required=False) or {}
    expected = (training.get("base") or {}).get("files")
    if expected and Path(base).is_dir() and expected != base_identity(base):
        raise InputError(f"{adapter}: trained on {training['base'].get('path')}, whose weights {base} does not have")


def needs_launch(settings: dict) -> bool:
    """Whether LLaMA-Factory would train in several processes and this is not one of them yet."""
    from llamafactory.extras.misc import get_device_count, is_env_enabled

    several = is_env_enabled("FORCE_TORCHRUN") or get_device_count() > 1 or bool(settings.get("deepspeed"))
    return several and "WORLD_SIZE" not in os.environ


def launch(arguments: list[str]) -> NoReturn:
    """Become torchrun of this script: LLaMA-Factory's launcher would start its own file, without the forks.

    The environment is LLaMA-Factory's: NPROC_PER_NODE (else all GPUs), and for several nodes NNODES, NODE_RANK,
    MASTER_ADDR and MASTER_PORT.
    """
    from llamafactory.extras.misc import get_device_count

    place = ["--standalone"]
    if int(os.environ.get("NNODES", "1")) > 1:
        names = {"NNODES": None, "NODE_RANK": None, "MASTER_ADDR": None, "MASTER_PORT": "29500"}
        values = {name: os.environ.get(name, default) for name, default in names.items()}
        for name, value in values.items():
            if value is None:
                raise InputError(f"NNODES is {values['NNODES']}: set {name}, too")
        place = [word for name, value in values.items() for word in (f"--{name.lower()}", value)]
    processes = os.environ.get("NPROC_PER_NODE", str(max(1, get_device_count())))
    command = ["-m", "torch.distributed.run", *place, "--nproc_per_node", processes, str(Path(__file__).resolve())]
    os.execv(sys.executable, [sys.executable, *command, *arguments])


def main(argv: list[str] | None = None) -> int:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("action", choices=("train", "export"))
    parser.add_argument("config", help="a YAML file of LLaMA-Factory's, as in configs/llama_factory")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="what the YAML file says otherwise")
    arguments = parser.parse_args(argv)
    settings = read_settings(arguments.config, arguments.overrides)
    # LLaMA-Factory 0.9.5 asks for transformers up to 5.6; docs/llama_factory.md says what was run with 5.17.
    os.environ["DISABLE_VERSION_CHECK"] = "1"
    check_settings(arguments.config, settings, "output_dir" if arguments.action == "train" else "export_dir")
    if Path(settings["model_name_or_path"]).is_dir():
        # The adapter remembers its base by this path, and is used from other folders.
        settings["model_name_or_path"] = str(Path(settings["model_name_or_path"]).resolve())
    config = read_base(settings)
    register_auto_classes()
    require_forks_registered(config["model_type"])
    if arguments.action == "export":
        export(settings, config)
    elif needs_launch(settings):
        launch([arguments.action, arguments.config, *arguments.overrides])
    else:
        train(settings, config)
    return 0


if __name__ == "__main__":
    run_script(main)
