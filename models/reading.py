"""Reading a checkpoint's files, from a folder or the hub: whatever third-party readers raise becomes one line."""

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError

from models.errors import InputError
from models.names import wrong_name
from models.outside import json_object, read_bytes, read_json_object

# What readers of weights raise for files that are missing, cut short or not what their name says.
# The second line: what transformers raises where config.json has a value of another type than its classes expect.
WEIGHT_ERRORS = (
    *(OSError, EOFError, ValueError, RuntimeError, UnpicklingError, SafetensorError),
    *(KeyError, IndexError, TypeError, AttributeError, ArithmeticError),
)
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
    if reason := wrong_name(path):
        raise InputError(f"{path[:40]}...: the name {reason}; give the checkpoint's folder or hub id")
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
    content, where, advice = read_bytes(file), f"{path}/{name}", "restore it from the checkpoint"
    if content.startswith(codecs.BOM_UTF8):  # transformers reads the file again, and takes none
        raise InputError(f"{where}: starts with a byte order mark; save it as UTF-8 without one")
    return json_object(content, where, advice, finite=False)


def read_shards(index: Path) -> list[str]:
    """The names of the files that an index of weights names, sorted. Raises InputError if it is no index."""
    advice = "download it again"
    names = read_json_object(index, advice, finite=False).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise InputError(f"{index}: not an index of shards: field `weight_map` is no object of names; {advice}")
    for weight, name in names.items():
        if not isinstance(name, str) or Path(name).name != name or "\0" in name:
            raise InputError(f"{index}: not an index of shards: {weight} is in {str(name)!r}, no file's name; {advice}")
    return sorted(set(names.values()))


def check_shards(folder: Path) -> None:
    """Raise InputError for an index of weights in `folder` that is broken, or names a file that is not there."""
    for whole in ("model.safetensors", "pytorch_model.bin"):  # in the order in which transformers looks for them
        index = folder / f"{whole}.index.json"
        if (folder / whole).is_file() or not index.is_file():
            if (folder / whole).is_file():
                return
            continue
        for name in read_shards(index):
            if not (folder / name).is_file():
                raise InputError(f"{folder}: {name} is missing, which {index.name} names; download it again")
        return
