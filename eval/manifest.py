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

import models
from data.files import write_atomic
from models.errors import InputError

# What `from_pretrained` reads from a checkpoint's folder.
MODEL_FILES = (
    *("*config.json", "*token*", "*chat_template*", "vocab*", "merges.txt"),
    *("*.index.json", "*.safetensors", "*.bin"),
)
WEIGHT_SUFFIXES = (".safetensors", ".bin")
SAMPLES, SAMPLE_BYTES = 16, 1 << 16


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
        return f"{answers}: continued with other code than before ({_changes(history[-1], here)})"
    return None


def check_same(answers: Path, manifest: dict, settings: dict) -> None:
    """Raise InputError with the differences unless all of `settings` are in the manifest with the same
    values.
    """
    changes = _changes({name: manifest.get(name) for name in settings}, settings)
    if changes:
        raise InputError(
            f"{answers}: answers of another run ({changes}); "
            "choose another --answers_file, or start anew with --overwrite"
        )


def fingerprint(folder: Path) -> dict[str, str]:
    """File name -> size and hash, of the files that decide a checkpoint's answers; {} if `folder` is none.

    Large weights are judged by 64 KiB at each of 16 places: reading gigabytes would take minutes. The files
    of the base of a PEFT adapter are there as `base/...`.
    """
    paths = sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern) if path.is_file()})
    files = {path.name: _hash_file(path) for path in paths}
    if "adapter_config.json" in files:
        # A broken file is reported when the model is loaded.
        with contextlib.suppress(ValueError, KeyError, TypeError):
            base = Path(json.loads((folder / "adapter_config.json").read_bytes())["base_model_name_or_path"])
            files |= {f"base/{name}": value for name, value in fingerprint(base).items()}
    return files


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


def _hash_file(path: Path) -> str:
    size, digest = path.stat().st_size, hashlib.sha256()
    with open(path, "rb") as file:
        if path.suffix in WEIGHT_SUFFIXES and size > SAMPLES * SAMPLE_BYTES:
            for sample in range(SAMPLES):
                file.seek((size - SAMPLE_BYTES) * sample // (SAMPLES - 1))
                digest.update(file.read(SAMPLE_BYTES))
        else:
            digest.update(file.read())
    return f"{size} bytes, {digest.hexdigest()}"


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()


def _changes(there: dict, here: dict) -> str:
    """`field: there -> here` of every field that differs."""
    there, here = _flat(there), _flat(here)
    return "; ".join(
        f"{name}: {_short(there.get(name))} -> {_short(here.get(name))}"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    )


def _flat(value: dict, prefix: str = "") -> dict:
    flat = {}
    for name, inner in value.items():
        flat |= _flat(inner, f"{prefix}{name}.") if isinstance(inner, dict) else {f"{prefix}{name}": inner}
    return flat


def _short(value) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:38]}...{text[-38:]}"


def _dump(manifest: dict) -> str:
    return json.dumps(manifest, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
