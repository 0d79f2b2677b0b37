"""The manifest beside an answers file: all that decides what the answers are, so that no two runs get mixed.

It has no times, batch sizes or numbers of processes: those do not decide an answer, and the same run writes
the same bytes. `provenance` says which code wrote the answers; it may change between a run and its
continuation, with a warning, and then holds both.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path
from typing import BinaryIO

import models
from data.files import write_atomic
from models.errors import InputError

# What `from_pretrained` reads from a checkpoint's folder.
MODEL_FILES = (
    *("*config.json", "*token*", "*chat_template*", "vocab*", "merges.txt"),
    *("*.index.json", "*.safetensors", "*.bin", "additional_chat_templates/*"),
)
SAMPLE_BYTES = 4096
MAX_HEADER_BYTES = 100_000_000  # the format's own limit


def manifest_path(answers: Path) -> Path:
    """Where the manifest of an answers file lies."""
    return answers.with_name(f"{answers.name}.manifest.json")


def read_manifest(answers: Path) -> dict | None:
    """The manifest beside an answers file, or None. Raises InputError if it is not JSON."""
    path = manifest_path(answers)
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); start anew with --overwrite") from None
    if not isinstance(manifest, dict):
        raise InputError(f"{path}: not a JSON object; start anew with --overwrite")
    return manifest


def write_manifest(answers: Path, settings: dict, earlier: dict | None) -> str | None:
    """Write the manifest of a run with these settings; `earlier` is the manifest of the run it continues.

    Returns a line of warning if other code wrote the earlier answers.
    """
    here = provenance()
    history = (earlier or {}).get("provenance", [])
    if here not in history:
        write_atomic(manifest_path(answers), _dump({**settings, "provenance": [*history, here]}))
    if history and history[-1] != here:
        return f"{answers}: continued with other code than before ({differences(history[-1], here)})"
    return None


def check_same(answers: Path, manifest: dict, settings: dict) -> None:
    """Raise InputError with the differences unless all of `settings` are in the manifest with the same
    values.
    """
    changes = differences({name: manifest.get(name) for name in settings}, settings)
    if changes:
        raise InputError(
            f"{answers}: answers of another run ({changes}); "
            "choose another --answers_file, or start anew with --overwrite"
        )


def differences(there: dict, here: dict) -> str:
    """`field: there -> here` of every field that differs, in one short line; empty if none does."""
    names = [name for name in sorted(there.keys() | here.keys()) if there.get(name) != here.get(name)]
    return "; ".join(_difference(name, there.get(name), here.get(name)) for name in names)


def fingerprint(folder: Path) -> dict[str, str]:
    """File name -> size and hash, of the files that decide a checkpoint's answers; {} if `folder` is none.

    Of a safetensors file all names, shapes and types count, and 4 KiB at the start, middle and end of each tensor:
    reading it all would take minutes. Other files count whole. The files of the base of a PEFT adapter are there
    as `base/...`. Other sub-folders are not: loading reads none (but see `fingerprint_tower`), and training leaves
    its own checkpoints in them.
    """
    paths = sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern) if path.is_file()})
    files = {path.relative_to(folder).as_posix(): _hash_file(path) for path in paths}
    base = _named_in(folder / "adapter_config.json", "base_model_name_or_path")
    if base:
        files |= {f"base/{name}": value for name, value in fingerprint(Path(base)).items()}
    return files


def fingerprint_tower(folder: Path) -> dict[str, str]:
    """`fingerprint` of the folder that a loaded checkpoint's vision tower has of its own; {} if it has none."""
    # It imports torch, which everything above does without.
    from models.towers import tower_folder

    tower = tower_folder(Path(_named_in(folder / "adapter_config.json", "base_model_name_or_path") or folder))
    return fingerprint(tower) if tower else {}


def hash_json(value) -> str:
    """SHA-256 of a value as JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Versions of what computes an answer; None: not installed (without torchvision, Pillow scales the pictures)."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in ("torch", "transformers", "pillow", "torchvision"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def provenance() -> dict:
    """Which code runs: the path of `models`, the commit, whether files differ from it, the exact Python."""
    folder = Path(models.__file__).resolve().parent
    commit = _git(folder, "rev-parse", "HEAD")
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {
        "models": str(folder),
        "git_commit": commit,
        "git_dirty": None if changed is None else bool(changed),
        "python": platform.python_version(),
    }


def _named_in(path: Path, field: str) -> str | None:
    """A string of a JSON file; None if there is none. A broken file is reported when the model is loaded."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        value = json.loads(path.read_bytes())[field]
        return value if isinstance(value, str) else None
    return None


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
        tensors = json.loads(header)
        tensors.pop("__metadata__", None)
        spans = sorted(tuple(map(int, tensor["data_offsets"])) for tensor in tensors.values())
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    for start, end in spans:
        last = max(start, end - SAMPLE_BYTES)
        for place in sorted({start, (start + last) // 2, last}):
            file.seek(8 + length + place)
            digest.update(file.read(min(SAMPLE_BYTES, end - place)))
    return digest


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()


def _difference(name: str, there, here) -> str:
    if name.endswith("_sha256"):
        return f"{name} differs"
    if isinstance(there, dict) or isinstance(here, dict):
        there, here = there or {}, here or {}
        inner = [field for field in sorted(there.keys() | here.keys()) if there.get(field) != here.get(field)]
        if name.endswith("_files"):
            return f"{name}: {len(inner)} differ ({inner[0]}{', ...' if len(inner) > 1 else ''})"
        return "; ".join(_difference(f"{name}.{field}", there.get(field), here.get(field)) for field in inner)
    return f"{name}: {_short(there)} -> {_short(here)}"


def _short(value) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:28]}...{text[-28:]}"


def _dump(manifest: dict) -> str:
    return json.dumps(manifest, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
