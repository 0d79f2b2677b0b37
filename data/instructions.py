"""Reading instruction data as a stream: LLaVA's files, and the messages with images of LLaMA-Factory and TRL.

A file is a JSON array or JSON lines, and every sample may be in another of these forms:

- LLaVA: {"id", "image", "conversations": [{"from": "human" | "gpt", "value"}]}, as in llava_v1_5_mix665k.json and
  blip_laion_cc_sbu_558k.json;
- messages: {"messages": [{"role", "content"}], "images": [...]}, or sharegpt's names for the same (`conversations`,
  `from`, `value`) with `images`; contents are text with `<image>` marks, or lists of typed parts.
"""

import os
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath

import ijson

from data.files import iter_json_lines
from data.inside import OutsideError, inside
from data.sample_fields import boxes, check_fields, is_learnt, system_prompt
from data.sources import IMAGE_SUFFIXES
from models.errors import InputError

IMAGE_MARK = "<image>"
QWEN_TAG = re.compile(r"<img>[^<>\n]+</img>")
TEXT_ONLY = "text only"
ROLES = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
LLAVA_FOLDERS = ("coco/train2017", "gqa/images", "ocr_vqa/images", "textvqa/train_images", "vg/VG_100K", "vg/VG_100K_2")


def read_samples(
    path: str | os.PathLike, on_malformed: Callable[[InputError], None] | None = None
) -> Iterator[dict[str, object]]:
    """The samples of a file in its order, in one form whatever theirs; memory does not grow with the file.

    Yields {"id": str, "index": int, "images": [str], "messages": [{"role", "content"}]}. `index` is the place in the
    file from 0, `images` are the names as written, roles are "system" (first only), "user" and "assistant" (these two
    alternate and the last is an assistant's), and contents have one `<image>` mark for each image. An answer that is
    not to be learnt has "supervised": False; a sample with boxes has "objects" (data/sample_fields.py).

    A malformed sample raises InputError, which names it; with `on_malformed` it is passed to that instead and left
    out. A file that is missing, empty or broken JSON raises InputError in any case.
    """
    for index, value in read_objects(path):
        try:
            sample = canonical_sample(path, index, value)
        except InputError as error:
            if on_malformed is None:
                raise
            on_malformed(error)
        else:
            yield sample


def read_objects(path: str | os.PathLike) -> Iterator[tuple[int, object]]:
    """(index, sample as written) of a JSON array or of JSON lines; which of the two is seen from the content.

    Raises InputError if the file is missing, unreadable, empty or broken (where is told).
    """
    if _is_array(path):
        yield from _array_items(path)
    else:
        for index, (_, value) in enumerate(iter_json_lines(path)):
            yield index, value


def _is_array(path: str | os.PathLike) -> bool:
    try:
        with open(path, "rb") as file:
            while block := file.read(4096):
                if block := block.lstrip():
                    return block.startswith(b"[")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give a JSON array or JSON lines of instruction samples") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a file of instruction samples") from None
    return False


def _array_items(path: str | os.PathLike) -> Iterator[tuple[int, object]]:
    index = -1
    with open(path, "rb") as file:
        items = ijson.items(file, "item", use_float=True)
        while True:
            try:
                value = next(items, items)
            except (ijson.JSONError, OSError) as error:
                reason = (str(error).splitlines() or [""])[0].strip()
                place = f"behind sample {index}" if index >= 0 else "before the first sample ends"
                raise InputError(
                    f"{path}: broken JSON {place}, byte {file.tell()} or shortly before ({reason}); restore the file"
                ) from None
            if value is items:
                break
            index += 1
            yield index, value
    if index < 0:
        raise InputError(f"{path}: an empty array; instruction samples are expected")


def canonical_sample(path: str | os.PathLike, index: int, value: object) -> dict[str, object]:
    """`value`, the sample at `index` of file `path`, in the form that `read_samples` gives.

    Of the LLaVA form, two habits of the original code (LLaVA's preprocess_v1 and preprocess_multimodal) are kept: a
    first turn that is no user's and a last question without an answer are dropped (the mix of 665k has such); the
    mark of a single image goes to the front of its turn, on a line of its own. Raises InputError if it is malformed.
    """
    where = f"{path}, sample {index}"
    if not isinstance(value, dict):
        raise InputError(f"{where}: a {type(value).__name__}, not a JSON object; mend or remove it")
    name = value.get("id")
    if isinstance(name, bool) or not isinstance(name, str | int | None):
        raise InputError(f'{where}: field "id" is a {type(name).__name__}; give a string or an integer')
    name = str(index) if name is None else str(name)
    where = f"{where} (id {name})"
    check_fields(value, where)
    field, messages = _messages(value, where)
    images = _images(value, value[field], where)
    if field == "conversations" and "images" not in value:
        messages = _like_llava(messages, images)
    _check_order(messages, f'{where}: field "{field}"')
    _check_marks(messages, len(images), f'{where}: field "{field}"')
    if not any(turn.get("supervised", True) for turn in messages if turn["role"] == "assistant"):
        raise InputError(f'{where}: field "{field}": no answer is to be learnt; remove the sample')
    sample = {"id": name, "index": index, "images": images, "messages": messages}
    objects = boxes(value, [turn["content"] for turn in messages], len(images), where)
    return sample | ({"objects": objects} if objects else {})


def image_names(value: dict, where: str) -> list[str]:
    """The images that a sample names, as written; `where` opens the message of the InputError for a mistyped field."""
    fields = [field for field in ("image", "images") if value.get(field) not in (None, [])]
    if len(fields) > 1:
        raise InputError(f'{where}: fields "image" and "images" are both given; keep one')
    names = value[fields[0]] if fields else []
    names = [names] if isinstance(names, str) else names
    if isinstance(names, list):  # a row of `datasets` has its pictures so
        names = [name.get("path") if isinstance(name, dict) and not name.get("bytes") else name for name in names]
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise InputError(f'{where}: field "{fields[0]}" is no path or list of paths; give strings that are not empty')
    return names


def _images(value: dict, turns: list, where: str) -> list[str]:
    """The images of a sample, which it names in fields of its own or in the typed parts of its turns."""
    names = image_names(value, where)
    contents = [turn.get("value", turn.get("content")) for turn in turns]
    parts = [part for content in contents if isinstance(content, list) for part in content if part["type"] == "image"]
    named = [part.get("image", part.get("path")) for part in parts]
    if not any(named):
        return names
    if not all(isinstance(name, str) and name for name in named) or names not in ([], named):
        raise InputError(f"{where}: its parts name other images than its fields, or not all; name each in one place")
    return named


def _messages(value: dict, where: str) -> tuple[str, list[dict]]:
    """(name of the field, messages with our roles and text as contents)."""
    fields = [field for field in ("conversations", "messages") if value.get(field) is not None]
    if len(fields) != 1:
        state = "both given; keep one" if fields else "both missing; give one, a list of turns"
        raise InputError(f'{where}: fields "conversations" and "messages" are {state}')
    turns = value[fields[0]]
    if not isinstance(turns, list) or not turns:
        state = "is empty" if turns == [] else f"is a {type(turns).__name__}"
        raise InputError(f'{where}: field "{fields[0]}" {state}; give a list of turns')
    messages = [_message(turn, f'{where}: field "{fields[0]}", turn {place}') for place, turn in enumerate(turns)]
    if system := system_prompt(value, where):
        messages.insert(0, {"role": "system", "content": _encodable(system, f"{where}: the system prompt")})
    return fields[0], messages


def _message(turn: object, where: str) -> dict[str, str | bool]:
    if not isinstance(turn, dict):
        raise InputError(f"{where} is a {type(turn).__name__}; give an object with role and content, or from and value")
    role = turn.get("from", turn.get("role"))
    if not isinstance(role, str) or role not in ROLES:
        raise InputError(f"{where} is from {role!r}; known are {', '.join(ROLES)}")
    content = turn.get("value", turn.get("content"))
    if isinstance(content, list):
        content = "".join(_part(part, where) for part in content)
    if not isinstance(content, str):
        raise InputError(f"{where} has no text but a {type(content).__name__}; give a string or a list of typed parts")
    message = {"role": ROLES[role], "content": _encodable(content, where)}
    learnt = is_learnt(turn, ROLES[role], where)
    return message if learnt or ROLES[role] != "assistant" else message | {"supervised": False}


def _part(part: object, where: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "image":
        return IMAGE_MARK
    if kind == "text" and isinstance(part.get("text"), str):
        return part["text"]
    raise InputError(f'{where} has an unknown part; known are {{"type": "text", "text": ...}} and {{"type": "image"}}')


def _encodable(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON can hold it; tokenizers cannot read it
        raise InputError(f"{where} has half a surrogate pair; remove that character") from None
    return text


def _like_llava(messages: list[dict], images: list[str]) -> list[dict]:
    head = [message for message in messages[:1] if message["role"] == "system"]
    turns = messages[len(head) :]
    if turns and turns[0]["role"] == "assistant":
        turns = turns[1:]
    if turns and turns[-1]["role"] == "user":
        turns = turns[:-1]
    marked = [turn for turn in turns if IMAGE_MARK in turn["content"]]
    if len(images) == 1 and len(marked) == 1 and marked[0]["content"].count(IMAGE_MARK) == 1:
        text = marked[0]["content"].replace(IMAGE_MARK, "").strip()
        marked[0]["content"] = f"{IMAGE_MARK}\n{text}".strip()
    return head + turns


def _check_order(messages: list[dict], where: str) -> None:
    first = 1 if messages and messages[0]["role"] == "system" else 0
    for place, message in enumerate(messages[first:]):
        expected = ("user", "assistant")[place % 2]
        if message["role"] != expected:
            raise InputError(
                f"{where}: a turn of the {message['role']} where the {expected}'s is due (turn {place + first} of "
                "those kept); user and assistant must alternate, after one system turn or none"
            )
    if (len(messages) - first) % 2:
        raise InputError(f"{where}: ends with a question; give the assistant's answer")
    if len(messages) == first:
        raise InputError(f"{where}: no question with an answer; give one or remove the sample")


def _check_marks(messages: list[dict], images: int, where: str) -> None:
    marks = sum(message["content"].count(IMAGE_MARK) for message in messages)
    if marks != images:
        raise InputError(f"{where}: {marks} {IMAGE_MARK} marks for {images} images; give one mark for each image")
    if any(IMAGE_MARK in message["content"] for message in messages if message["role"] != "user"):
        raise InputError(f"{where}: {IMAGE_MARK} in a turn that is not the user's; move it to the question")
    if any(QWEN_TAG.search(message["content"]) for message in messages):
        raise InputError(f"{where}: an image in a tag <img> (Qwen-VL's form); name it in `images`, write {IMAGE_MARK}")


def find_images(
    folder: str | os.PathLike, names: list[str], where: str, follow_paths: bool = False
) -> list[Path | None]:
    """`find_image` of each name. Raises InputError, after `where`, for a name that leads out of the folder."""
    try:
        return [find_image(folder, name, follow_paths) for name in names]
    except OutsideError as error:
        raise InputError(f"{where}: image {error}; mend the name, or give --follow_paths to read it") from None


def find_image(folder: str | os.PathLike, name: str, follow_paths: bool = False) -> Path | None:
    """The file of image `name` below `folder`, or None. Raises OutsideError for a name that leads out of it.

    If there is no such file, one in its folder with the same stem and another image ending does: the pictures of
    ocr_vqa were saved as .jpg, .png or .gif, and the lists say .jpg. A folder that misses a name is listed once in a
    process; what comes into it later is found by its exact name only.
    """
    path = inside(folder, name, follow_paths)
    try:
        if path.is_file():
            return path
        stem, _ = os.path.splitext(path.name)
        other = _images_by_stem(path.parent).get(stem)
        return path.parent / other if other and (path.parent / other).is_file() else None
    except (OSError, ValueError):  # a name that no file can have: too long, with a NUL or half a surrogate pair
        return None


@lru_cache(maxsize=8)  # one of ocr_vqa's size takes some 40 MB
def _images_by_stem(folder: Path) -> dict[str, str]:
    """Stem -> name of the images in `folder`; of several endings the first in IMAGE_SUFFIXES."""
    try:
        names = os.listdir(folder)
    except OSError:
        return {}
    split = [os.path.splitext(name) for name in names]
    ranked = [
        (IMAGE_SUFFIXES.index(ending.lower()), stem + ending, stem)
        for stem, ending in split
        if ending.lower() in IMAGE_SUFFIXES
    ]
    return {stem: name for _, name, stem in sorted(ranked, reverse=True)}


def dataset_of(name: str | None) -> str:
    """The data set that an image belongs to by LLaVA's folder layout, else its folder; "text only" for None.

    Folders with numbers for names are parts of the one above: ScienceQA has one for each image, the 558k hundreds.
    """
    if name is None:
        return TEXT_ONLY
    folder = PurePosixPath(name).parent
    known = next((known for known in LLAVA_FOLDERS if f"/{folder}".endswith(f"/{known}")), None)
    while known is None and folder.name.isdecimal():
        folder = folder.parent
    return known or folder.as_posix()
