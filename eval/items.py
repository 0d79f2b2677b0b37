"""A benchmark's items, before any model: their pictures, and the order to ask them in."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from data.pictures import open_rgb, picture_size, read_file, reason, to_rgb
from models.errors import InputError
from models.resized_pixels import too_many_pixels


class PictureError(Exception):
    """A picture that cannot be read. The message is a one-line reason that starts with the file's name."""


def picture_parts(messages: list[dict]) -> list[dict]:
    """The image parts of chat messages, in reading order."""
    contents = [message["content"] for message in messages if not isinstance(message["content"], str)]
    return [part for content in contents for part in content if part["type"] == "image"]


def open_picture(part: dict) -> tuple[Image.Image, str]:
    """The picture of an image part, upright and RGB (data/pictures.py), and the hash of its bytes as stored.

    The part has `path`, a file; or `image`, a function that gives such a file's bytes; or `picture`, one of Pillow's
    that is open already: it is hashed by its pixels in RGB. The hash is the first 16 hexadecimal digits of the SHA-256.
    Raises PictureError for a picture that is missing, cannot be decoded, or not be shown as it is.
    """
    try:
        if "picture" in part:
            picture = to_rgb(part["picture"])
            return picture, _hash(picture.tobytes())
        stored = _stored(part)
        return open_rgb(stored), _hash(stored)
    except Exception as error:
        name = Path(part["path"]).name if "path" in part else "picture"
        raise PictureError(f"{name}: {reason(error)}") from None


def open_for(processor, part: dict) -> tuple[Image.Image, str]:
    """`open_picture`, and a PictureError, too, for a picture too thin or too large for the processor's resize."""
    picture, stored = open_picture(part)
    if complaint := too_many_pixels(processor.image_processor, *picture.size):
        raise PictureError(f"{Path(part['path']).name if 'path' in part else 'picture'}: {complaint}")
    return picture, stored


def check_whole(pictures: int, prompts: int, model_path: str) -> None:
    """Raise InputError if a processor has made several pictures of some of the `prompts`, which have one each.

    Of the files of a checkpoint, tokenizer_config.json alone can make it do so: transformers takes processing arguments
    from there, and its own default, no pan and scan, before those of the image processor.
    """
    if pictures != prompts:
        raise InputError(
            f"{model_path}: its processor cuts a picture into several (pan and scan), which have no one grid of "
            "patches; delete do_pan_and_scan from its tokenizer_config.json"
        )


def hash_pictures(messages: list[dict]) -> list[str | None]:
    """What `open_picture` says of the stored bytes of each picture of a prompt; None for a file that cannot be read."""
    hashes = []
    for part in picture_parts(messages):
        try:
            hashes.append(_hash(_stored(part)))
        except (OSError, ValueError):
            hashes.append(None)
    return hashes


def image_field(hashes: list[str]) -> dict:
    """`image_sha256` of an answer's row, from the hashes of its pictures: a string, a list of several, or nothing."""
    if not hashes:
        return {}
    return {"image_sha256": hashes[0] if len(hashes) == 1 else hashes}


def longest_first(messages: list[list[dict]]) -> list[int]:
    """Indices of `messages` so that prompts of like length are neighbours and the longest come first.

    Length is the number of pictures, then their pixels, then the characters of text; ties keep their order.
    """
    with ThreadPoolExecutor(8) as threads:
        lengths = list(threads.map(prompt_length, messages))
    return sorted(range(len(messages)), key=lambda index: lengths[index], reverse=True)


def prompt_length(messages: list[dict]) -> tuple[int, int, int]:
    """What `longest_first` sorts a prompt by."""
    pictures = picture_parts(messages)
    return len(pictures), sum(map(_pixels, pictures)), len(json.dumps(without_pictures(messages)))


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


def _stored(part: dict) -> bytes:
    return read_file(part["path"]) if "path" in part else part["image"]()


def _hash(stored: bytes) -> str:
    return hashlib.sha256(stored).hexdigest()[:16]


def _pixels(part: dict) -> int:
    """Pixels by the file's header; 0 for a broken file, which is reported when it is opened."""
    try:
        width, height = _size(part)
    except Exception:  # whatever a table's picture is missing for
        return 0
    return width * height


def _size(part: dict) -> tuple[int, int]:
    if "picture" in part:
        return part["picture"].size
    return picture_size(part["path"] if "path" in part else part["image"]())
