"""What a model's answer loses when a square of its picture is covered: squares, covered pictures, scores."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from data.pictures import picture_size
from eval.generate import in_fitting_batches, prepare, unchanged
from eval.items import PictureError, image_field, open_picture, picture_parts
from models.load import without_adapter

Square = tuple[int, int]


def squares_with_content(canvas: np.ndarray, size: int) -> list[Square]:
    """(row, column) of the squares of `size` px, of a canvas (height, width, 3), that have more than one colour."""
    rows, columns = canvas.shape[0] // size, canvas.shape[1] // size
    blocks = canvas.reshape(rows, size, columns, size, 3)
    varied = (blocks != blocks[:, :1, :, :1]).any(axis=(1, 3, 4))
    return [(int(row), int(column)) for row, column in zip(*varied.nonzero(), strict=True)]


def cover(canvas: np.ndarray, square: Square, size: int, colour: tuple[int, int, int]) -> Image.Image:
    """The canvas with one square in one colour."""
    row, column = square
    covered = canvas.copy()
    covered[row * size : (row + 1) * size, column * size : (column + 1) * size] = colour
    return Image.fromarray(covered)


@dataclass(frozen=True)
class Part:
    """Some of the covered pictures of item `index`, ready for the model; part 0 has the item's prompt as well."""

    index: int
    squares: list[Square]
    pixels: dict[str, torch.Tensor] | None
    prompt: dict[str, torch.Tensor] | None = None
    grid: tuple[int, int] = (0, 0)
    hashes: tuple[str, ...] = ()
    error: str | None = None

    def pin_memory(self) -> "Part":
        """Called by DataLoader, so that copies to the GPU run beside its work."""
        pinned = self.pixels and {name: value.pin_memory() for name, value in self.pixels.items()}
        return replace(self, pixels=pinned)


class Parts(Dataset):
    """Covered pictures, `count` at a time, drawn and processed on access, so that loader processes do the work."""

    def __init__(self, processor, messages_of: Callable, parts: list[tuple[int, int]], count: int, args, dtype):
        self.processor, self.messages_of, self.parts, self.count = processor, messages_of, parts, count
        self.size, self.colour, self.dtype = args.mask_size, args.mask_color, dtype
        self.last: tuple = (None, None)

    def __len__(self) -> int:
        return len(self.parts)

    def _open(self, index: int) -> tuple[np.ndarray, list[Square]]:
        """The item's canvas and squares; kept, as the next part mostly is of the same item."""
        if self.last[0] != index:
            (part,) = picture_parts(self.messages_of(index))
            canvas = np.asarray(open_picture(part)[0])
            self.last = (index, (canvas, squares_with_content(canvas, self.size)))
        return self.last[1]

    def __getitem__(self, number: int) -> Part:
        index, start = self.parts[number]
        batch = None
        if start == 0:
            batch = prepare(self.processor, [(index, self.messages_of(index))], self.dtype)
            if batch.errors:
                return Part(index, [], None, error=batch.errors[index])
        try:
            canvas, kept = self._open(index)
        except PictureError as error:  # changed since it was prepared
            return Part(index, [], None, error=str(error))
        squares = kept[start : start + self.count]
        pixels = self._pixels([cover(canvas, square, self.size, self.colour) for square in squares])
        if batch is None:
            return Part(index, squares, pixels)
        grid = (canvas.shape[0] // self.size, canvas.shape[1] // self.size)
        return Part(index, squares, pixels, batch.inputs, grid, tuple(batch.hashes[0]))

    def _pixels(self, pictures: list[Image.Image]) -> dict[str, torch.Tensor] | None:
        if not pictures:
            return None
        processed = self.processor.image_processor(images=pictures, return_tensors="pt")
        return {name: value.to(self.dtype) if value.is_floating_point() else value for name, value in processed.items()}


def occlusion_maps(
    answer: "Answer", messages_of: Callable[[int], list[dict]], order: list[int], args, num_workers: int
) -> Iterator[dict[int, dict]]:
    """Yield, item by item, index -> reply and `map`, (rows, columns), None where a square was skipped; or `error`."""

    def mapped(left: list[int], count: int) -> Iterator[dict[int, dict]]:
        return _by_item(answer, messages_of, left, args, num_workers, count)

    return in_fitting_batches(mapped, order, args.batch_size, answer.model.device)


def _by_item(answer: "Answer", messages_of, order, args, num_workers, count) -> Iterator[dict[int, dict]]:
    squares = {index: _squares(messages_of(index), args.mask_size) for index in order}
    parts = [(index, start) for index in order for start in range(0, squares[index], count)]
    num_workers = min(num_workers, len(parts))
    loader = DataLoader(
        Parts(answer.processor, messages_of, parts, count, args, answer.model.dtype),
        batch_size=None,
        num_workers=num_workers,
        prefetch_factor=1 if num_workers else None,
        collate_fn=unchanged,
        pin_memory=answer.model.device.type == "cuda",
    )
    for part, (index, start) in zip(loader, parts, strict=True):
        if start == 0 and part.error is None:
            outcome = answer.begin(part.prompt) | image_field(list(part.hashes))
            outcome["map"] = [[None] * part.grid[1] for _ in range(part.grid[0])]
        elif start == 0:
            outcome = {"error": part.error}
        if "map" in outcome and part.squares:
            for (row, column), value in zip(part.squares, answer.lost(part.pixels), strict=True):
                outcome["map"][row][column] = float(f"{value:.6g}")
        if start + count >= squares[index]:
            values = [value for row in outcome.get("map", []) for value in row if value is not None]
            if not all(map(math.isfinite, values)):
                outcome = {"error": "a logit is not finite; try another --dtype"}
            yield {index: outcome}


def _squares(messages: list[dict], size: int) -> int:
    """Squares of an item's picture by the file's header; 1 for a broken file, which is reported when it is opened."""
    try:
        width, height = picture_size(picture_parts(messages)[0]["path"])
    except ValueError:
        return 1
    return max(1, (width // size) * (height // size))


class Answer:
    """The model's own answer to a picture, and what its logits lose when the picture is covered.

    The answer is generated once, greedily. Every covered picture is then given with the answer's tokens (teacher
    forcing); what it loses is the mean over them of |logit - logit when covered| (paper, section on perception), over
    the first alone with `target` "first_token". With `yes_no`, the ids of two tokens, it is the change of the
    difference of their logits at the answer's first token.
    """

    def __init__(self, model, processor, max_new_tokens: int, target: str, yes_no: tuple[int, int] | None):
        self.model, self.processor, self.max_new_tokens = model, processor, max_new_tokens
        self.inner = without_adapter(model).model
        self.first_alone, self.yes_no = target == "first_token" or yes_no is not None, yes_no

    @torch.inference_mode()
    def begin(self, prompt: dict[str, torch.Tensor]) -> dict:
        """Answer one prompt, which `lost` then is about; returns fields of its row."""
        prompt = self._here(prompt)
        new = self.model.generate(**prompt, max_new_tokens=self.max_new_tokens)[0, prompt["input_ids"].shape[1] :]
        ends = self.model.generation_config.eos_token_id
        ends = torch.tensor(ends if isinstance(ends, list) else [ends], device=new.device)
        stops = torch.isin(new, ends).nonzero()
        answer = new[: max(1, int(stops[0]))] if len(stops) else new  # an end alone is an answer, too
        self.tokens = answer[:1] if self.first_alone else answer
        self.whole = follow(prompt, self.tokens[:-1])
        reply = self.processor.tokenizer.decode(answer, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return {"prediction": reply, "answer_tokens": len(answer)}

    @torch.inference_mode()
    def lost(self, pixels: dict[str, torch.Tensor]) -> list[float]:
        """What each of some covered pictures loses; `pixels` are the image processor's."""
        # The uncovered picture is a row of every batch: in half precision, another size of batch rounds otherwise.
        pixels = {
            name: torch.cat([self.whole[name], value])
            for name, value in self._here(pixels).items()
            if name in self.whole
        }
        count = len(pixels.get("image_grid_thw", pixels["pixel_values"]))
        rows = {name: value for name, value in self.whole.items() if name not in pixels}
        rows = {name: value.expand(count, *value.shape[1:]) for name, value in rows.items()}
        before, *covered = self._logits(rows | pixels).split([1, count - 1])
        return (covered[0] - before).abs().mean(-1).tolist()

    def _logits(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """(rows, tokens), float32: of the answer's tokens, each after those before it; or (rows, 1), Yes less No.

        Only the rows of the head that are asked for, so that half precision does not round their differences away.
        """
        hidden = self.inner(**inputs, use_cache=False).last_hidden_state[:, -len(self.tokens) :].float()
        head = self.model.get_output_embeddings()
        wanted = torch.tensor(self.yes_no, device=hidden.device) if self.yes_no else self.tokens
        weights = head.weight[wanted].float()
        bias = 0 if getattr(head, "bias", None) is None else head.bias[wanted].float()
        if self.yes_no:
            both = self._capped(hidden[:, 0] @ weights.T + bias)
            return both[:, :1] - both[:, 1:]
        return self._capped((hidden * weights).sum(-1) + bias)

    def _capped(self, logits: torch.Tensor) -> torch.Tensor:
        cap = getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def _here(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: value.to(self.model.device, non_blocking=True) for name, value in inputs.items()}


def follow(prompt: dict[str, torch.Tensor], tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """The inputs of one prompt without padding, followed by text tokens."""
    length, more = prompt["input_ids"].shape[1], len(tokens)
    longer = dict(prompt)
    for name, value in prompt.items():
        if value.shape[:2] == (1, length):
            fill = tokens[None] if name == "input_ids" else value.new_full((1, more), int(name == "attention_mask"))
            longer[name] = torch.cat([value, fill], dim=1)
    return longer
