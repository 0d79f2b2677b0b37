"""A sample -> the model's inputs and labels: the family's own chat template, loss on the assistant's turns only.

Nothing is truncated: a sample is taken whole or, if `Encoder.count_tokens` says that it is over-long, left out.
"""

import copy
import re
from pathlib import Path

import torch
from jinja2 import TemplateError
from PIL import Image
from transformers.processing_utils import ProcessorMixin

from data.instruction_formats import typed_parts
from data.instructions import IMAGE_MARK
from data.pictures import open_rgb, picture_size, read_file
from models.errors import InputError
from models.literal_text import literal_messages
from models.processors import chat_template, has_first_token

IGNORED = -100  # the label that transformers' loss leaves out
# Processor -> the template (models/chat_templates) that writes what LLaMA-Factory does.
LLAMA_FACTORY = {"Qwen2_5_VLProcessor": "qwen2_5_vl", "Gemma3Processor": "gemma3"}


class Encoder:
    """Encodes samples for one checkpoint.

    Args:
        processor: the checkpoint's, as `load_model` gives it; not changed.
        plain: LLaVA's prompt of pre-training: image, then caption and a line break, no turns (`preprocess_plain` in
            the LLaVA code base's llava/train/train.py).
        image_max_pixels: scale larger images down, for image processors that keep an image's size (Qwen2.5-VL).
        llama_factory: LLaMA-Factory's text of Qwen2.5-VL and Gemma3 (docs/llama_factory.md) in place of what the
            checkpoint's template makes and evaluation asks. InputError for other families, and with `plain`.
    """

    def __init__(
        self,
        processor: ProcessorMixin,
        plain: bool = False,
        image_max_pixels: int | None = None,
        llama_factory: bool = False,
    ):
        self.processor = copy.copy(processor)
        self.plain, self.llama_factory = plain, llama_factory
        if llama_factory:
            family = LLAMA_FACTORY.get(type(processor).__name__)
            if family is None or plain:
                raise InputError("template: llama_factory is for Qwen2.5-VL's and Gemma3's conversations; leave it out")
            self.processor.chat_template = chat_template(family)
        if image_max_pixels is not None:
            self.processor.image_processor = with_max_pixels(processor.image_processor, image_max_pixels)

    def render(self, messages: list[dict], where: str = "sample") -> tuple[str, list[tuple[int, int]]]:
        """The prompt with one placeholder for each image, and the (start, end) of its supervised characters.

        A turn is supervised from behind its header to its end token, which the model must learn to say. `where`
        names the sample in the InputError for a template that refuses it (some have no system turn), or whose turns
        cannot be told apart. Special tokens that a text spells are broken up (models/literal_text.py).
        """
        parts_of = marked_parts if self.llama_factory else typed_parts
        messages = [{"role": turn["role"], "content": parts_of(turn["content"])} for turn in messages]
        messages = literal_messages(self.processor, messages)
        if self.plain:
            return self._render_plain(messages, where)
        try:
            return self._render_turns(messages, where)
        except TemplateError as error:
            raise InputError(
                f"{where}: the checkpoint's chat template refuses it ({error}); change the turns"
            ) from None

    def encode(self, messages: list[dict], images: list[Image.Image], where: str = "sample") -> dict:
        """One sample's inputs, without a batch dimension but for images.

        Returns `input_ids`, `labels` and, by family, token types: LongTensors (tokens,); and the image processor's
        tensors (`pixel_values`, `image_sizes`, `image_grid_thw`), if there are images. Raises InputError for a sample
        without one supervised token.
        """
        text, spans = self.render(messages, where)
        spans = learnt_spans(messages, spans)
        inputs = self.processor(
            text=[text],
            images=[images] if images else None,
            add_special_tokens=not has_first_token(self.processor, text),
            return_offsets_mapping=True,
            return_text_replacement_offsets=True,
            return_tensors="pt",
        )
        replaced = inputs.pop("text_replacement_offsets")
        spans = shifted(spans, replaced[0] if replaced else [])
        starts = inputs.pop("offset_mapping")[0][:, 0]
        ends_at = inputs.pop("attention_mask").shape[-1]
        supervised = torch.zeros(ends_at, dtype=torch.bool)
        for start, end in spans:
            supervised |= (starts >= start) & (starts < end)
        # Special tokens that the tokenizer adds in front have the offset (0, 0) and are never supervised.
        token_rows = ("input_ids", "token_type_ids", "mm_token_type_ids")
        sample = {name: tensor[0] if name in token_rows else tensor for name, tensor in inputs.items()}
        sample["labels"] = sample["input_ids"].masked_fill(~supervised, IGNORED)
        if not bool(supervised[1:].any()):
            raise InputError(f"{where}: no token is supervised; the assistant's turns are empty")
        return sample

    def count_tokens(self, messages: list[dict], image_sizes: list[tuple[int, int]], where: str = "sample") -> int:
        """How many tokens `encode` gives for images of these (height, width), without their pixels."""
        text, _ = self.render(messages, where)
        tokenizer = self.processor.tokenizer
        whole = getattr(self.processor, "full_image_sequence", None)  # Gemma3: one image's placeholder with its frame
        if whole is not None:
            text = text.replace(self.processor.image_token, whole)
        tokens = len(tokenizer(text, add_special_tokens=not has_first_token(self.processor, text)).input_ids)
        if whole is None and image_sizes:
            sizes = [list(size) for size in image_sizes]
            tokens += sum(self.processor._get_num_multimodal_tokens(image_sizes=sizes)["num_image_tokens"]) - len(sizes)
        return tokens

    def blank(self) -> dict:
        """The smallest encoded image, with no text and nothing supervised: what a batch without an image gets.

        So every process runs the vision tower and the projector in every step, which DDP and ZeRO-3 wait for.
        """
        image = Image.new("RGB", (56, 56), "white")
        text = self._placeholder()
        inputs = self.processor(text=[text], images=[[image]], add_special_tokens=False, return_tensors="pt")
        inputs.pop("attention_mask")
        token_rows = ("input_ids", "token_type_ids", "mm_token_type_ids")
        sample = {name: tensor[0] if name in token_rows else tensor for name, tensor in inputs.items()}
        return sample | {"labels": torch.full_like(sample["input_ids"], IGNORED)}

    def _template(self, messages: list[dict], **arguments) -> str:
        return self.processor.apply_chat_template(messages, tokenize=False, **arguments)

    def _render_turns(self, messages: list[dict], where: str) -> tuple[str, list[tuple[int, int]]]:
        text, spans = self._template(messages), []
        ends = [number + 1 for number, turn in enumerate(messages) if turn["role"] == "assistant"]
        for before, known, end in zip([0, 0, *ends], [0, *ends], ends, strict=False):
            # Behind the exchange before it, so that a turn of a long conversation costs no more than one of a short
            # one; behind all turns before it for a template that writes it otherwise there.
            place = spans[-1][1] if spans else 0
            span = self._find(text, place, messages[before:known], messages[known:end])
            span = span or self._find(text, 0, [], messages[:end])
            if not span:
                raise InputError(f"{where}: the chat template does not keep turn {end} as it is; cannot find it")
            spans.append(span)
        if self.llama_factory:  # which supervises the line break behind the end token, too
            spans = [(start, end + text.startswith("\n", end)) for start, end in spans]
        if messages[0]["role"] == "system" and text_of(messages[0]["content"]).strip() not in text:
            raise InputError(f"{where}: the checkpoint's chat template has no system turn; remove the sample's")
        return text, spans

    def _find(self, text: str, place: int, context: list[dict], turns: list[dict]) -> tuple[int, int] | None:
        """Where in `text`, from `place` on, the last of `turns` is said; None: not there.

        `context` are turns before them, whose text ends at `place`.
        """
        start = self._template(context).rstrip() if context else ""
        asked = self._template(context + turns[:-1], add_generation_prompt=True)
        said = self._template(context + turns).rstrip()
        if not (start == asked[: len(start)] and asked == said[: len(asked)] and len(asked) < len(said)):
            return None
        if not text.startswith(said[len(start) :], place):
            return None
        return place - len(start) + len(asked), place - len(start) + len(said)

    def _render_plain(self, messages: list[dict], where: str) -> tuple[str, list[tuple[int, int]]]:
        turns = [turn for turn in messages if turn["role"] != "system"]
        images = sum(part["type"] == "image" for turn in turns for part in turn["content"])
        if [turn["role"] for turn in turns] != ["user", "assistant"] or images != 1:
            raise InputError(
                f"{where}: pre-training takes one image and one caption; use stage finetune for the others"
            )
        placeholder = self._placeholder()
        caption = text_of(turns[1]["content"]) + "\n"
        return placeholder + caption, [(len(placeholder), len(placeholder + caption))]

    def _placeholder(self) -> str:
        """What stands for an image in a prompt, with the frame that the family puts around it."""
        image_turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "\0"}]}]
        before = self._template(image_turn).split("\0")[0]
        token = re.escape(self.processor.image_token)
        return re.search(rf"(<\|vision_start\|>)?{token}(<\|vision_end\|>)?", before).group()


def learnt_spans(messages: list[dict], spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Of the spans of the assistant's turns, those of turns without `"supervised": False`."""
    answers = [turn for turn in messages if turn["role"] == "assistant"]
    return [span for turn, span in zip(answers, spans, strict=True) if turn.get("supervised", True)]


def marked_parts(content: str) -> list[dict]:
    """Text with marks -> parts, with all of the text, the line breaks around the marks as well."""
    parts = []
    for place, text in enumerate(content.split(IMAGE_MARK)):
        parts += [{"type": "image"}] * bool(place) + [{"type": "text", "text": text}] * bool(text)
    return parts or [{"type": "text", "text": ""}]


def text_of(content: list[dict]) -> str:
    """The text of typed parts."""
    return "".join(part["text"] for part in content if part["type"] == "text")


def shifted(spans: list[tuple[int, int]], replaced: list[dict]) -> list[tuple[int, int]]:
    """Character spans of a prompt, as they are once its image placeholders are expanded."""

    def move(place: int) -> int:
        grown = (len(one["replacement"]) - len(one["text"]) for one in replaced if one["span"][1] <= place)
        return place + sum(grown)

    return [(move(start), move(end)) for start, end in spans]


def with_max_pixels(image_processor, max_pixels: int):
    """A copy of an image processor that scales images down to `max_pixels`; InputError if it has no such setting."""
    changed = copy.deepcopy(image_processor)
    size = dict(changed.size)
    if "longest_edge" not in size or "shortest_edge" not in size:
        raise InputError("image_max_pixels: this family scales every image to one size; leave it out")
    if max_pixels < size["shortest_edge"]:
        raise InputError(f"image_max_pixels: {max_pixels} is below the checkpoint's smallest, {size['shortest_edge']}")
    # The Qwen2-VL processors call numbers of pixels edges.
    changed.size = type(image_processor.size)(**size | {"longest_edge": min(size["longest_edge"], max_pixels)})
    return changed


def open_image(path: str | Path) -> Image.Image:
    """An image upright and in RGB, as evaluation shows it (data/pictures.py). Raises PictureError, a ValueError."""
    return open_rgb(read_file(path))


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of `open_image`'s picture, from the file's header. Raises PictureError, a ValueError."""
    return picture_size(path)[::-1]
