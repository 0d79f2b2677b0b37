"""What a model's answer loses when a square of its picture is covered: squares, covered pictures, scores."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from eval.generate import AUTO_BATCH_SIZE, prepare
from eval.items import PictureError, image_field, open_picture, picture_parts
from models.errors import InputError

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
        try:
            canvas, kept = self._open(index)
        except PictureError as error:
            return Part(index, [], None, error=str(error))
        squares = kept[start : start + self.count]
        pixels = self._pixels([cover(canvas, square, self.size, self.colour) for square in squares])
        if start:
            return Part(index, squares, pixels)
        batch = prepare(self.processor, [(index, self.messages_of(index))], self.dtype)
        if batch.errors:
            return Part(index, [], None, error=batch.errors[index])
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
    """Yield, item by item, index -> the reply and `map`, (rows, columns), None where a square was skipped; or `error`.

    As in eval/generate.py's `outcomes`, a batch of covered pictures that does not fit into the memory is halved.
    """
    device, left = answer.model.device, list(order)
    count = args.batch_size or AUTO_BATCH_SIZE[device.type]
    while left:
        try:
            for index, outcome in _by_item(answer, messages_of, left, args, num_workers, count):
                yield {index: outcome}
                left = left[1:]
        except torch.OutOfMemoryError:
            if args.batch_size or count == 1:
                raise InputError(
                    f"--batch_size {count} does not fit into the memory of {device}; lower it, or use a smaller "
                    "--dtype (pictures so far are kept)"
                ) from None
            count //= 2
        else:
            return
        torch.cuda.empty_cache()


def _by_item(answer: "Answer", messages_of, order, args, num_workers, count) -> Iterator[tuple[int, dict]]:
    squares = {index: _squares(messages_of(index), args.mask_size) for index in order}
    parts = [(index, start) for index in order for start in range(0, squares[index], count)]
    loader = DataLoader(
        Parts(answer.processor, messages_of, parts, count, args, answer.model.dtype),
        batch_size=None,
        num_workers=min(num_workers, len(parts)),
        collate_fn=_unchanged,
        pin_memory=answer.model.device.type == "cuda",
    )
    for part, (index, start) in zip(loader, parts, strict=True):
        if start == 0 and part.error is None:
            found = np.full(part.grid, np.nan)
            outcome = answer.begin(part.prompt) | image_field(list(part.hashes))
        elif start == 0:
            found, outcome = None, {"error": part.error}
        if found is not None and part.squares:
            for square, value in zip(part.squares, answer.lost(part.pixels), strict=True):
                found[square] = value
        if start + count >= squares[index]:
            if found is not None:
                outcome["map"] = [[None if np.isnan(v) else float(f"{v:.6g}") for v in row] for row in found]
            yield index, outcome


def _squares(messages: list[dict], size: int) -> int:
    """Squares of an item's picture by the file's header; 1 for a broken file, which is reported when it is opened."""
    try:
        with Image.open(picture_parts(messages)[0]["path"]) as image:
            return max(1, (image.width // size) * (image.height // size))
    except OSError:
        return 1


def _unchanged(part: Part) -> Part:
    return part


class Answer:
    """The model's own answer to a picture, and what its logits lose when the picture is covered.

    The answer is generated once, greedily. Every covered picture is then given with the answer's tokens (teacher
    forcing); what it loses is the mean over them of |logit - logit when covered| (paper, section on perception), over
    the first alone with `target` "first_token". With `yes_no`, the ids of two tokens, it is the change of the
    difference of their logits at the answer's first token.
    """

    def __init__(self, model, processor, max_new_tokens: int, target: str, yes_no: tuple[int, int] | None):
        self.model, self.processor, self.max_new_tokens = model, processor, max_new_tokens
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
        self.before = self._logits(self.whole)
        reply = self.processor.tokenizer.decode(answer, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return {"prediction": reply, "answer_tokens": len(answer)}

    @torch.inference_mode()
    def lost(self, pixels: dict[str, torch.Tensor]) -> list[float]:
        """What each of some covered pictures loses; `pixels` are the image processor's."""
        pixels = {name: value for name, value in self._here(pixels).items() if name in self.whole}
        count = len(pixels.get("image_grid_thw", pixels["pixel_values"]))
        rows = {name: value for name, value in self.whole.items() if name not in pixels}
        rows = {name: value.expand(count, *value.shape[1:]) for name, value in rows.items()}
        return (self._logits(rows | pixels) - self.before).abs().mean(-1).tolist()

    def _logits(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """(rows, tokens): of the answer's tokens, each after those before it; or (rows, 1), Yes less No."""
        found = self.model(**inputs, use_cache=False, logits_to_keep=len(self.tokens)).logits.float()
        if self.yes_no:
            yes, no = self.yes_no
            return found[:, :1, yes] - found[:, :1, no]
        return found.gather(-1, self.tokens.expand(len(found), -1)[..., None])[..., 0]

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
