"""The second folder that loading may read: that of the vision tower, of a checkpoint in the original LLaVA layout."""

from pathlib import Path

from models.llava_original import find_tower, is_original_layout
from models.outside import read_json_object


def tower_folder(folder: Path) -> Path | None:
    """The vision tower's own folder, in or beside the checkpoint in `folder`; None if it has none of its own.

    `folder` has been loaded, so its config.json is sound; it may also be a hub id, of which no folder is known.
    """
    path = folder / "config.json"
    config = read_json_object(path, finite=False) if path.is_file() else {}
    return find_tower(folder, config["mm_vision_tower"]) if is_original_layout(config) else None
