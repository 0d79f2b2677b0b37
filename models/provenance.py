"""Which code and which libraries compute something, and how two such records differ."""

import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path

import models


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


def differences(there: dict, here: dict) -> str:
    """`field: there -> here` of every field that differs, in one short line; empty if none does."""
    names = [name for name in sorted(there.keys() | here.keys()) if there.get(name) != here.get(name)]
    return "; ".join(_difference(name, there.get(name), here.get(name)) for name in names)


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
