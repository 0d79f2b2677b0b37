"""A benchmark's items, before any model: reading them, their pictures, and the order to ask them in."""

import io
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image, ImageOps

from data.files import numbered_json_lines
from models.errors import InputError


class PictureError(Exception):
    """A picture that cannot be read. The message is a one-line reason that starts with the file's name."""


def read_items(
    path: Path,
    fields: dict[str, type | tuple[type, ...]],
    key: tuple[str, ...],
    check: Callable[[dict], str | None] = lambda item: None,
) -> list[dict]:
    """The items of a JSON-lines file, in its order.

    `fields` maps a needed field to its type or types. `key` names the fields that tell an item from every
    other. `check` returns what else is wrong with an item, or None.

    Raises InputError naming the file and the line (both lines where two items have the same key).
    """
    items, line_of = [], {}
    for number, item in numbered_json_lines(path):
        where = f"{path}, line {number}"
        for field, types in fields.items():
            if field not in item:
                raise InputError(f"{where}: field `{field}` is missing")
            if not isinstance(item[field], types):
                names = " or ".join(kind.__name__ for kind in (types if isinstance(types, tuple) else (types,)))
                raise InputError(f"{where}: field `{field}` is {json.dumps(item[field])[:60]}; {names} is expected")
        complaint = check(item)
        if complaint:
            raise InputError(f"{where}: {complaint}")
        first = line_of.setdefault(item_key(item, key), number)
        if first != number:
            raise InputError(
                f"{path}, lines {first} and {number}: one item twice ({describe_key(item, key)}); delete one"
            )
        items.append(item)
    return items


def item_key(item: dict, key: tuple[str, ...]) -> tuple:
    """The values that tell this item from every other."""
    return tuple(item[field] for field in key)


def describe_key(item: dict, key: tuple[str, ...]) -> str:
    """The item's key as people read it: `id=7, position=center`."""
    return ", ".join(f"{field}={item[field]}" for field in key)


def leaves_folder(folder: Path, name: str) -> bool:
    """Whether the file `name` of `folder` really lies outside it: absolute, by `..`, or through a symbolic
    link.
    """
    root = os.path.realpath(folder)
    return not os.path.realpath(os.path.join(root, name)).startswith(os.path.join(root, ""))


def picture_parts(messages: list[dict]) -> list[dict]:
    """The image parts of chat messages, in reading order."""
    contents = [message["content"] for message in messages if not isinstance(message["content"], str)]
    return [part for content in contents for part in content if part["type"] == "image"]


def open_picture(part: dict) -> Image.Image:
    """The picture of an image part (`path`, or `image` with its bytes), upright and RGB as transformers loads
    it.

    Raises PictureError for one that is missing or cannot be decoded.
    """
    try:
        with Image.open(_source(part)) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except Exception as error:
        name = Path(part["path"]).name if "path" in part else "picture"
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise PictureError(f"{name}: {reason}") from None


def longest_first(messages: list[list[dict]]) -> list[int]:
    """Indices of `messages` so that prompts of like length are neighbours and the longest come first.

    Length is the number of pictures, then their pixels, then the characters of text; ties keep their order.
    """
    with ThreadPoolExecutor(8) as threads:
        pixels = list(threads.map(lambda prompt: sum(map(_pixels, picture_parts(prompt))), messages))
    lengths = [
        (len(picture_parts(prompt)), size, len(json.dumps(without_pictures(prompt))))
        for prompt, size in zip(messages, pixels, strict=True)
    ]
    return sorted(range(len(messages)), key=lambda index: lengths[index], reverse=True)


def without_pictures(messages: list[dict]) -> list[dict]:
    """The messages with bare image parts, as chat templates and hashes need them."""
    return [
        message
        if isinstance(message["content"], str)
        else {**message, "content": [_bare(part) for part in message["content"]]}
        for message in messages
    ]


def _bare(part: dict) -> dict:
    return {"type": "image"} if part["type"] == "image" else part


def _source(part: dict) -> Path | io.BytesIO:
    return Path(part["path"]) if "path" in part else io.BytesIO(part["image"])


def _pixels(part: dict) -> int:
    """Pixels by the file's header; 0 for a broken file, which is reported when it is opened."""
    try:
        with Image.open(_source(part)) as image:
            return image.width * image.height
    except Exception:
        return 0
