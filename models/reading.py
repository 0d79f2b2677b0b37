"""Reading a checkpoint's files, from a folder or the hub: whatever third-party readers raise becomes one line."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError

from models.errors import InputError

# What readers of weights raise for files that are missing, cut short or not what their name says.
WEIGHT_ERRORS = (OSError, EOFError, ValueError, RuntimeError, UnpicklingError, SafetensorError)
# Arguments of from_pretrained that say where on the hub a file is: every reader of a checkpoint must get them.
HUB_ARGUMENTS = ("revision", "cache_dir", "token", "local_files_only", "force_download")


@contextmanager
def told_as(message: str, *errors: type[Exception]) -> Iterator[None]:
    """Turn `errors` (default: any) of a third-party reader into an InputError: `message` and the reason's first line.

    Errors of ours and a full GPU are passed on. Put nothing of our own into the with block.
    """
    caught = errors or (Exception,)
    try:
        yield
    except (InputError, torch.OutOfMemoryError):
        raise
    except caught as error:
        reason = str(error).strip() or type(error).__name__
        raise InputError(f"{message} ({reason.splitlines()[0]})") from error


def is_hub_id(path: str) -> bool:
    """Whether `path`, which is no folder here, can be meant as `owner/name` on the hub."""
    owner, *name = path.split("/")
    return len(name) == 1 and bool(owner and name[0]) and owner[0] not in ".~" and not Path(owner).exists()


def read_json(path: str, name: str, required: bool = True, **hub_arguments) -> dict | None:
    """The JSON object in file `name` of a folder or hub id; None if it is not there and not required."""
    file = Path(path) / name
    if not Path(path).is_dir():
        if Path(path).exists():
            raise InputError(f"{path}: a file; give the checkpoint's folder")
        if not is_hub_id(path):
            raise InputError(f"{path}: no such folder; give the folder that a checkpoint was downloaded or saved to")
        try:
            file = Path(hf_hub_download(path, name, **hub_arguments))
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
    with told_as(f"{path}/{name}: not JSON; restore it from the checkpoint", OSError, ValueError):
        value = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise InputError(f"{path}/{name}: not a JSON object; restore it from the checkpoint")
    return value
