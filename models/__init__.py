"""The model zoo: `load_model` gives any checkpoint of the five families, with balanced positions or without.

Importing this package loads nothing heavy; torch and transformers come in with the first use of a name below.
"""

_EXPORTS = {
    "assemble_llava": "models.assemble",
    "load_model": "models.load",
    "register_auto_classes": "models.load",
}
__all__ = list(_EXPORTS)


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module 'models' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_EXPORTS[name]), name)
