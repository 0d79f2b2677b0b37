"""The second folder that loading may read: that of the vision tower, of a checkpoint in the original LLaVA layout."""

import json
from pathlib import Path

from models.llava_original import find_tower, is_original_layout


def tower_folder(folder: Path) -> Path | None:
    """The vision tower's own folder, in or beside the checkpoint in `folder`; None if it has none of its own.

    `folder` has been loaded, so its config.json is sound; it may also be a hub id, of which no folder is known.
    """
    path = folder / "config.json"
    config = json.loads(path.read_bytes()) if path.is_file() else {}
    return find_tower(folder, config["mm_vision_tower"]) if is_original_layout(config) else None
