"""The zoo as a model of lmms-eval and the spatial probe as one of its tasks (docs/lmms_eval.md).

lmms-eval finds `manifest` by the entry point in pyproject.toml; nothing else of this repository imports this package,
and importing it does not import lmms-eval.
"""


def manifest():
    """What lmms-eval lists as model `bapa`: for chat messages, and with --force_simple for plain contexts."""
    from lmms_eval.models.registry_v2 import ModelManifest

    path = f"{__name__}.model"
    return ModelManifest("bapa", simple_class_path=f"{path}.SimpleBapa", chat_class_path=f"{path}.Bapa")
