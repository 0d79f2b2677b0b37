"""The last checkpoint of a run -> the model that the run is for, in the run's folder."""

import json
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from data.files import write_atomic, writing
from models.outside import read_json_object
from models.writing import give_usual_modes
from train.run_folder import KEPT, TRAINING, WHOLE

# What of a checkpoint only a resumed run needs; and PEFT's empty form of a model card.
STATE = (
    *("README.md", "trainer_state.json", WHOLE, "optimizer.pt", "scheduler.pt"),
    *("latest", "zero_to_fp32.py", "zero_to_torch.py", "optimizer.bin", "pytorch_model_fsdp.bin"),
)


def publish(checkpoint: Path, folder: Path, training: dict, dtype: torch.dtype | None) -> None:
    """Copy model and processor from `checkpoint` into `folder`, weights as `dtype` (None: as they are).

    `training` is written last, as training.json: a folder that has it is complete. A run that was killed in here
    does it again.
    """
    with writing(folder, KEPT):
        _copy(checkpoint, folder, dtype)
        give_usual_modes(folder, "*")
    write_atomic(folder / TRAINING, json.dumps(training, indent=2, ensure_ascii=False) + "\n")


def _copy(checkpoint: Path, folder: Path, dtype: torch.dtype | None) -> None:
    total_size = 0  # of the weights as written; an index of several files says it, and is behind them in this order
    for path in sorted(checkpoint.iterdir()):
        if path.is_dir() or path.name in STATE or path.name.startswith("rng_state"):
            continue
        target = folder / path.name
        if dtype is not None and path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                weights = {name: file.get_tensor(name) for name in file.keys()}
                metadata = file.metadata()
            weights = {name: one.to(dtype) if one.is_floating_point() else one for name, one in weights.items()}
            save_file(weights, target, metadata=metadata)
            total_size += sum(one.nbytes for one in weights.values())
        elif dtype is not None and path.name.endswith(".safetensors.index.json"):
            index = read_json_object(path)
            index["metadata"]["total_size"] = total_size
            write_atomic(target, json.dumps(index, indent=2, sort_keys=True) + "\n")
        elif dtype is not None and path.name == "config.json":
            config = with_dtype(read_json_object(path, finite=False), str(dtype).removeprefix("torch."))
            write_atomic(target, json.dumps(config, indent=2) + "\n")
        else:
            shutil.copyfile(path, target)


def with_dtype(config, name: str):
    """A config.json with all its `dtype` fields, those of its parts included, set to `name`."""
    if not isinstance(config, dict):
        return config
    return {key: name if key == "dtype" else with_dtype(value, name) for key, value in config.items()}
