"""What decides a checkpoint: hashes of its files, quick enough for full-size weights.

`fingerprint` is for answers: all that loading reads. `base_identity` is for adapters: weights and geometry only.
"""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import BinaryIO

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError

from models.errors import InputError
from models.outside import is_there, json_object, read_json_object

# What `from_pretrained` reads from a checkpoint's folder.
MODEL_FILES = (
    *("*config.json", "*token*", "*chat_template*", "vocab*", "merges.txt"),
    *("*.index.json", "*.safetensors", "*.bin", "additional_chat_templates/*"),
)
# The weights that are loaded: the first of these patterns that finds any.
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
FLAG = "position_balance"
SAMPLE_BYTES = 4096
SAMPLES = 256
MAX_HEADER_BYTES = 100_000_000  # the format's own limit


def fingerprint(folder: Path, seen: frozenset[Path] = frozenset()) -> dict[str, str]:
    """File name -> size and hash, of the files that decide a checkpoint's answers; {} if `folder` is none.

    Of a safetensors file all names, shapes and types count, and 4 KiB at the start, middle and end of each tensor:
    reading it all would take minutes. Other files count whole. The files of the base of a PEFT adapter, or of a LLaVA
    projector alone, are there as `base/...`. Other sub-folders are not: loading reads none (but see
    `fingerprint_tower`), and training leaves its own checkpoints in them. `seen`: folders that are hashed already.
    """
    paths = sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern) if path.is_file()})
    files = {path.relative_to(folder).as_posix(): _hash_file(path) for path in paths}
    base = _base_of(folder)
    seen |= {folder.resolve()}
    # Adapters that name themselves or each other are refused when the model is loaded.
    if base and is_there(base) and Path(base).resolve() not in seen:
        files |= {f"base/{name}": value for name, value in fingerprint(Path(base), seen).items()}
    return files


def fingerprint_tower(folder: Path) -> dict[str, str]:
    """`fingerprint` of the folder that a loaded checkpoint's vision tower has of its own; {} if it has none."""
    # It imports torch, which the rest does without.
    from models.towers import tower_folder

    base = _base_of(folder)
    tower = tower_folder(folder) or (tower_folder(Path(base)) if base and is_there(base) else None)
    return fingerprint(tower) if tower else {}


def base_identity(base: str | Path, revision: str | None = None) -> dict[str, str]:
    """File name -> hash, of what an adapter's base must share with the checkpoint that the adapter was trained on.

    That is the weights (as `fingerprint` hashes them; where a folder has them twice, those that loading takes) and
    config.json as a JSON object without `position_balance`, which users edit. The vision tower that a checkpoint in
    the original LLaVA layout has beside it counts as `tower/...`. Tokenizer, image processor, chat template and
    generation settings do not: they are the user's to change, and go with the base into what is merged. The same
    weights in other shards, another dtype or layout are another base.

    Args:
        base: a folder or hub id; of a hub id, the files that loading left in the cache.
        revision: of the hub id.

    Returns:
        {} if there is no such folder, here or in the cache.
    """
    folder = _cached_folder(base, revision)
    if folder is None:
        return {}
    files = _identity(folder)
    named = _named_in(folder / "config.json", "mm_vision_tower")
    if named:
        # It imports torch, which the rest does without.
        from models.llava_original import find_tower

        tower = find_tower(folder, named)
        files |= {f"tower/{name}": value for name, value in _identity(tower).items()} if tower else {}
    return files


def hash_json(value) -> str:
    """SHA-256 of a value as JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _identity(folder: Path) -> dict[str, str]:
    found = (sorted(folder.glob(pattern)) for pattern in WEIGHTS)
    files = {path.name: _hash_file(path) for path in next(filter(None, found), [])}
    config = folder / "config.json"
    if config.is_file():
        files["config.json"] = _hash_without_flag(config)
    return files


def _hash_without_flag(config: Path) -> str:
    try:
        settings = read_json_object(config, finite=False)
        return hash_json({name: value for name, value in settings.items() if name != FLAG})
    except InputError:  # which loading will report
        return _hash_file(config)


def _base_of(folder: Path) -> str | None:
    """The checkpoint that `folder` only adds to, as it names it: an adapter, or a projector alone (llava_parts.py)."""
    has_weights = any(path for pattern in WEIGHTS for path in folder.glob(pattern))
    if not has_weights and (folder / "mm_projector.bin").is_file():
        return _named_in(folder / "config.json", "_name_or_path")
    return _named_in(folder / "adapter_config.json", "base_model_name_or_path")


def _cached_folder(base: str | Path, revision: str | None) -> Path | None:
    if is_there(base) and Path(base).is_dir():
        return Path(base)
    with contextlib.suppress(HFValidationError, OSError):
        return Path(snapshot_download(str(base), revision=revision, local_files_only=True))
    return None


def _named_in(path: Path, field: str) -> str | None:
    """A string of a JSON file; None if there is none. A broken file is reported when the model is loaded."""
    with contextlib.suppress(InputError):
        value = read_json_object(path, finite=False).get(field)
        return value if isinstance(value, str) else None
    return None


def hash_sampled(path: Path) -> str:
    """Size and hash of a file, of which no more than SAMPLES pieces are read if it is large: optimizers have gigabytes.

    Of safetensors all names, shapes and types count, and samples of each tensor.
    """
    size = path.stat().st_size
    if path.suffix == ".safetensors" or size <= 2 * SAMPLES * SAMPLE_BYTES:
        return _hash_file(path)
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for number in range(SAMPLES):
            file.seek((size - SAMPLE_BYTES) * number // (SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
    return f"{size} bytes, {digest.hexdigest()}"


def _hash_file(path: Path) -> str:
    with open(path, "rb") as file:
        digest = _sample_tensors(file) if path.suffix == ".safetensors" else None
        if digest is None:
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256")
    return f"{path.stat().st_size} bytes, {digest.hexdigest()}"


def _sample_tensors(file: BinaryIO):
    """Hash of the header of a safetensors file and of samples of each tensor; None if the header is broken."""
    length = int.from_bytes(file.read(8), "little")
    header = file.read(min(length, MAX_HEADER_BYTES))
    digest = hashlib.sha256(header)
    try:
        tensors = json_object(header, "header")
        tensors.pop("__metadata__", None)
        spans = sorted((int(tensor["data_offsets"][0]), int(tensor["data_offsets"][1])) for tensor in tensors.values())
    except (ValueError, KeyError, TypeError, IndexError):
        return None
    for start, end in spans:
        last = max(start, end - SAMPLE_BYTES)
        for place in sorted({start, (start + last) // 2, last}):
            file.seek(8 + length + place)
            digest.update(file.read(min(SAMPLE_BYTES, end - place)))
    return digest
