"""Fields of an instruction sample beside its turns: what is read, and what is refused because it changes the meaning.

Read: a system prompt (`system`, or `system_prompt` as lmms-finetune writes it), answers that are not to be learnt
(ms-swift's `"loss": false` of a turn, OpenAI's `"weight": 0`), boxes (ms-swift's `objects`). Refused by name: other
media, tools, preferences (DPO, KTO), classes, weights in between. What is left, such as `data_source`, says
where a sample comes from; it is not read.
"""

import math

from models.errors import InputError

REF_MARK, BOX_MARK = "<ref-object>", "<bbox>"

_MEDIA = "only images and text are read; remove the sample"
_PREFERENCE = (
    "samples of preferences are not trained on here; remove the field, or the sample if its answer is a bad one"
)
_VALUE = "what is predicted here are the assistant's words; remove the field, or the sample"
# Of ms-swift, LLaMA-Factory and TRL: to train on what is left of such a sample would be to train on something else.
REFUSED = {
    **dict.fromkeys(("video", "videos", "audio", "audios", "tools", "functions"), _MEDIA),
    **dict.fromkeys(("rejected", "chosen", "rejected_response", "rejected_messages", "rejected_images"), _PREFERENCE),
    **dict.fromkeys(("margin", "kto_tag", "positive_messages", "negative_messages"), _PREFERENCE),
    "history": "turns before the others; put them into the list of turns",
    "loss_scale": 'weights of the loss are not read; use "loss": false or true in a turn',
}
REFUSED_IN_TURN = {
    **dict.fromkeys(("tool_calls", "function_call", "audio", "video"), _MEDIA),
    **dict.fromkeys(("reasoning_content", "thinking"), "is not written into the prompt; put it into the content"),
    **dict.fromkeys(("loss_scale", "train_detail"), 'weights of the loss are not read; use "loss": false or true'),
    **dict.fromkeys(("train", "training"), 'is not read; use "loss": false or true'),
}


def check_fields(value: dict, where: str) -> None:
    """Raise InputError, after `where`, for a field that would change what the sample means."""
    _refuse(value, REFUSED, where)
    # Of KTO: whether the answer is a good one; of classifiers: a number. A text is a remark.
    if _is_given(value.get("label")) and not isinstance(value["label"], str):
        raise InputError(f'{where}: field "label": {_PREFERENCE if isinstance(value["label"], bool) else _VALUE}')


def system_prompt(value: dict, where: str) -> str | None:
    """The text of `system` or `system_prompt`. Raises InputError for both, and for what is no text."""
    given = {name: value[name] for name in ("system", "system_prompt") if _is_given(value.get(name))}
    for name, text in given.items():
        if not isinstance(text, str):
            raise InputError(f'{where}: field "{name}" is a {type(text).__name__}; give text')
    if len(set(given.values())) > 1:
        raise InputError(f'{where}: fields "system" and "system_prompt" differ; keep one')
    return next(iter(given.values()), None)


def is_learnt(turn: dict, role: str, where: str) -> bool:
    """Whether a turn is to be learnt, if it is the assistant's. Raises InputError for what cannot be followed."""
    _refuse(turn, REFUSED_IN_TURN, where)
    learnt = []
    for name, allowed in (("loss", (True, False)), ("weight", (1, 0))):
        if turn.get(name) is None:
            continue
        if isinstance(turn[name], str | list | dict) or turn[name] not in allowed:
            raise InputError(f'{where}: field "{name}" is {turn[name]!r}; {allowed[0]} or {allowed[1]} is expected')
        learnt.append(bool(turn[name]))
    if role != "assistant" and True in learnt:
        raise InputError(
            f"{where}: asks to learn a turn of the {role}; only the assistant's are learnt; remove the field"
        )
    return all(learnt)


def boxes(value: dict, contents: list[str], images: int, where: str) -> dict | None:
    """`objects` of ms-swift, checked against the marks in the turns' contents; None without it.

    {"ref": [str], "bbox": [[x, y] or [left, top, right, bottom]], "bbox_type": "real" or "norm1", "image_id": [int]}:
    each `<ref-object>` stands for the next of `ref`, each `<bbox>` for the next of `bbox`, which is of the image
    `image_id` (from 0; without it, the first), in its pixels or in shares of its sides.
    """
    objects = value.get("objects")
    if not _is_given(objects):
        return None
    where = f'{where}: field "objects"'
    if not isinstance(objects, dict) or objects.keys() - {"ref", "bbox", "bbox_type", "image_id"}:
        raise InputError(f"{where}: an object with ref, bbox, bbox_type and image_id is expected")
    names, found = objects.get("ref") or [], objects.get("bbox") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{where}: ref is no list of texts")
    if not isinstance(found, list) or not all(map(_is_box, found)):
        raise InputError(
            f"{where}: bbox is no list of [x, y] and [left, top, right, bottom], left < right, top < bottom"
        )
    kind = objects.get("bbox_type") or "real"
    if kind not in ("real", "norm1"):
        raise InputError(f"{where}: bbox_type is {kind!r}; real (pixels) or norm1 (shares of the sides) is expected")
    of_image = objects.get("image_id") or [0] * len(found)
    if not isinstance(of_image, list) or len(of_image) != len(found):
        raise InputError(f"{where}: image_id is no list with a number for each bbox")
    for number in of_image:
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < images:
            raise InputError(f"{where}: image_id {number!r} is no number of one of the {images} images, from 0")
    for mark, listed in ((REF_MARK, names), (BOX_MARK, found)):
        marks = sum(content.count(mark) for content in contents)
        if marks != len(listed):
            raise InputError(f"{where}: {marks} {mark} marks for {len(listed)} of its entries; give one mark for each")
    return {"ref": names, "bbox": found, "bbox_type": kind, "image_id": of_image} if names or found else None


def _refuse(value: dict, refused: dict[str, str], where: str) -> None:
    for name, reason in refused.items():
        if _is_given(value.get(name)):
            raise InputError(f'{where}: field "{name}": {reason}')


def _is_given(value: object) -> bool:
    """False and 0 are given, too."""
    return value is not None and value not in ("", [], {})


def _is_box(box: object) -> bool:
    if not isinstance(box, list) or len(box) not in (2, 4):
        return False
    if not all(isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in box):
        return False
    return len(box) == 2 or (box[0] < box[2] and box[1] < box[3])
