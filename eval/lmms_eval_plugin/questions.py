"""A request of lmms-eval as this repository's chat messages, and what it asks of the reply. No torch, no lmms-eval."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from models.errors import InputError

MARKER = "<image>"  # by which many of lmms-eval's tasks say in their text where a picture belongs
# lmms-eval fills this in for tasks that name no `until`; it would cut a reply after its first paragraph.
DEFAULT_UNTIL = "\n\n"
READ = {"until", "max_new_tokens", "do_sample", "num_beams"}
ONLY_FOR_SAMPLING = {"temperature", "top_p", "top_k"}


@dataclass(frozen=True)
class ReplySettings:
    """Of one request. `unused` names generation_kwargs that have no part in the reply."""

    max_new_tokens: int
    until: tuple[str, ...]
    unused: tuple[str, ...]

    def cut(self, reply: str) -> str:
        """The reply before the first of the `until` strings."""
        return min((reply.partition(end)[0] for end in self.until), key=len, default=reply)


def reply_settings(task: str, generation_kwargs: dict[str, Any], max_new_tokens: int) -> ReplySettings:
    """What a task's generation_kwargs ask for; `max_new_tokens` where it names none.

    Raises InputError where they ask for anything but the greedy reply.
    """
    given = generation_kwargs
    temperature = given.get("temperature")
    sampling = given.get("do_sample") if temperature is None else temperature > 0 and given.get("do_sample", True)
    if sampling or (given.get("num_beams") or 1) > 1:
        raise InputError(
            f"task {task}: its generation_kwargs ask for sampling or beams; model bapa answers greedily: "
            "add --gen_kwargs do_sample=false,temperature=0,num_beams=1"
        )
    limit = given.get("max_new_tokens", max_new_tokens)
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InputError(f"task {task}: max_new_tokens is {limit!r}; a whole number of 1 or more is expected")
    until = given.get("until") or []
    until = [until] if isinstance(until, str) else until
    if not all(isinstance(end, str) for end in until):
        raise InputError(f"task {task}: until is {until!r}; strings are expected")
    unused = sorted(given.keys() - READ - ONLY_FOR_SAMPLING)
    return ReplySettings(limit, tuple(end for end in until if end not in ("", DEFAULT_UNTIL)), tuple(unused))


def chat_question(task: str, messages: list[dict]) -> list[dict]:
    """lmms-eval's chat messages in the form of eval/generate.py.

    Where the texts of the messages hold as many MARKERs as there are pictures, the pictures take their places.
    Otherwise the pictures stay where they are and the markers go: a model must not take them for its image token.
    """
    contents = [[_part(task, part) for part in _parts(message["content"])] for message in messages]
    pictures = [part for part in chain(*contents) if part["type"] == "image"]
    markers = sum(part["text"].count(MARKER) for part in chain(*contents) if part["type"] == "text")
    if markers:
        places = iter(pictures) if markers == len(pictures) else None
        contents = [list(_place(content, places)) for content in contents]
    return [{"role": message["role"], "content": content} for message, content in zip(messages, contents, strict=True)]


def simple_question(task: str, context: str, visuals: Any) -> list[dict]:
    """The same of a context with its visuals (None, one or a list), which stand before it."""
    visuals = [] if visuals is None else visuals if isinstance(visuals, list | tuple) else [visuals]
    content = [{"type": "image", "url": visual} for visual in visuals]
    return chat_question(task, [{"role": "user", "content": [*content, {"type": "text", "text": context}]}])


def _parts(content: str | list[dict]) -> list[dict]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _part(task: str, part: dict) -> dict:
    if part["type"] == "text":
        return {"type": "text", "text": part["text"]}
    if part["type"] == "image" and isinstance(part["url"], str):
        return {"type": "image", "path": part["url"]}
    if part["type"] == "image" and hasattr(part["url"], "convert"):
        return {"type": "image", "picture": part["url"]}
    kind = part["type"] if part["type"] != "image" else f"{type(part['url']).__name__} in place of a picture"
    raise InputError(f"task {task}: asks about {kind}; model bapa answers questions about pictures and text")


def _place(content: list[dict], places: Iterator[dict] | None) -> Iterator[dict]:
    """A turn's parts without MARKERs: in their place the next of `places`, which then stands nowhere else."""
    for part in content:
        if part["type"] == "image":
            if places is None:
                yield part
            continue
        if places is None:
            yield {"type": "text", "text": part["text"].replace(MARKER, "")}
            continue
        for number, text in enumerate(part["text"].split(MARKER)):
            if number:
                yield next(places)
                # Chat templates set a picture apart by themselves.
                text = text.removeprefix("\n")
            if text:
                yield {"type": "text", "text": text}
