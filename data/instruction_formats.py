"""Instruction samples as other software reads them: LLaVA, LLaMA-Factory (and the like), TRL."""

import json
from collections.abc import Iterable

from data.instructions import IMAGE_MARK

# Of dataset_info.json, for the file that holds `as_messages` of each sample.
LLAMA_FACTORY_ENTRY = {
    "file_name": "sharegpt.json",
    "formatting": "sharegpt",
    "columns": {"messages": "messages", "images": "images"},
    "tags": {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
        "system_tag": "system",
    },
}


def as_array(rows: Iterable[dict]) -> str:
    """A JSON array with a row on each line."""
    return "[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n"


def as_llava(written: dict, sample: dict) -> dict:
    """The sample in LLaVA's format: `written`, the object from the file, if it has that, else made of `sample`."""
    if "conversations" in written and "images" not in written:
        return written
    speakers = {"user": "human", "assistant": "gpt", "system": "system"}
    turns = [{"from": speakers[turn["role"]], "value": turn["content"]} for turn in sample["messages"]]
    images = sample["images"]
    image = {"image": images[0] if len(images) == 1 else images} if images else {}
    return {"id": sample["id"], **image, "conversations": turns}


def as_messages(sample: dict) -> dict:
    """Contents are text with a mark for each image, as LLaMA-Factory wants them."""
    return {"id": sample["id"], "messages": sample["messages"], "images": sample["images"]}


def as_typed_messages(sample: dict) -> dict:
    """Contents are typed parts. TRL takes marks in a text for text, and puts images of its own before it."""
    messages = [{"role": turn["role"], "content": typed_parts(turn["content"])} for turn in sample["messages"]]
    return {"id": sample["id"], "messages": messages, "images": sample["images"]}


def typed_parts(content: str) -> list[dict]:
    """Text with marks -> parts. Line breaks around a mark, and white space between two, go: templates put their own."""
    if IMAGE_MARK not in content:
        return [{"type": "text", "text": content}]
    parts = []
    for place, text in enumerate(content.split(IMAGE_MARK)):
        if place:
            parts.append({"type": "image"})
        if text.strip():
            parts.append({"type": "text", "text": text.strip("\n")})
    return parts
