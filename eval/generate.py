"""Prompts and pictures in, greedy replies out: loader processes prepare batches while the model answers."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch.utils.data import DataLoader, Dataset

from eval.items import PictureError, image_field, open_for, picture_parts, without_pictures
from models import load_model
from models.errors import InputError, ignore_interrupts
from models.literal_text import literal_messages, shown
from models.load import without_adapter
from models.processors import has_first_token

AUTO_BATCH_SIZE = {"cpu": 8, "mps": 8, "cuda": 32}

# What processors raise of a prompt: StopIteration (which would end our loops unseen) for a place without a picture.
REFUSALS = (ValueError, StopIteration)

# Values of a checkpoint's generation_config that greedy decoding up to `max_new_tokens` does not read.
NOT_GREEDY = (
    *("temperature", "top_k", "top_p", "top_h", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"),
    *("num_beam_groups", "diversity_penalty", "max_length"),
)


@dataclass(frozen=True)
class Batch:
    """Prompts ready for the model: tensors by name, or None if there is no such prompt; and the others' errors.

    `hashes` are those of each prompt's pictures (eval/items.py).
    """

    indices: list[int]
    prompts: list[str]
    hashes: list[list[str]]
    inputs: dict[str, torch.Tensor] | None
    errors: dict[int, str]

    def pin_memory(self) -> "Batch":
        """Called by DataLoader, so that copies to the GPU run beside its work."""
        pinned = self.inputs and {name: value.pin_memory() for name, value in self.inputs.items()}
        return replace(self, inputs=pinned)


class Batches(Dataset):
    """Batch `number`, opened and processed on access, so that loader processes do the work."""

    def __init__(self, processor, messages_of: Callable[[int], list[dict]], batches: list[list[int]], dtype):
        self.processor, self.messages_of, self.batches, self.dtype = processor, messages_of, batches, dtype

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Batch:
        return prepare(self.processor, [(index, self.messages_of(index)) for index in self.batches[number]], self.dtype)


def choose_device(name: str, local_rank: int, num_processes: int) -> torch.device:
    """The device of this process: process r of a machine gets its GPU r. Raises InputError if there is none."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise InputError(f"--device {name}: not available here; use --device cpu")
    if kind != "cuda":
        return torch.device(kind)
    if not torch.cuda.is_available():
        raise InputError(f"--device {name}: torch sees no CUDA GPU; use --device cpu")
    if number and num_processes > 1:
        raise InputError(f"--device {name}: one GPU for {num_processes} processes; use --device cuda")
    index = int(number) if number else local_rank
    if index >= torch.cuda.device_count():
        raise InputError(f"GPU {index} is needed, but this machine has {torch.cuda.device_count()}")
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    return device


def load(
    model_path: str,
    device: torch.device,
    position_balance: bool | None,
    dtype: str,
    attn_implementation: str | None,
) -> tuple:
    """(model, processor) on its device; dtype "auto" is float32 on the CPU, elsewhere the checkpoint's own.

    Raises InputError for a bad checkpoint, one that does not fit, or an attention back end that is not
    installed.
    """
    # Straight onto the device: several processes of one machine must not hold a large model in its memory each.
    arguments = {
        "dtype": "float32" if dtype == "auto" and device.type == "cpu" else dtype,
        "device_map": {"": str(device)},
    }
    if attn_implementation:
        arguments["attn_implementation"] = attn_implementation
    try:
        return load_model(model_path, position_balance=position_balance, **arguments)
    except torch.OutOfMemoryError:
        raise InputError(f"{model_path}: does not fit into the memory of {device}; try --dtype bfloat16") from None


def make_greedy(model) -> dict:
    """Make the model's generation greedy and return its generation settings as they now are.

    Sampling values are cleared (released checkpoints carry them, and transformers would warn of each).
    Everything else stays as the checkpoint has it, `repetition_penalty` above all: Qwen2.5-VL is released
    with 1.05, and its published scores are with it.
    """
    config = model.generation_config
    config.do_sample, config.num_beams = False, 1
    for name in NOT_GREEDY:
        if getattr(config, name, None) is not None:
            setattr(config, name, None)
    settings = config.to_diff_dict()
    settings.pop("transformers_version", None)
    return settings


def render(processor, messages: list[dict]) -> str:
    """The full text given to the processor for one prompt, by the checkpoint's own chat template.

    Special tokens that the messages spell are broken up in it; `models.literal_text.shown` is the text for people.
    """
    messages = literal_messages(processor, without_pictures(messages))
    return processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)


def prepare(processor, prompts: list[tuple[int, list[dict]]], dtype: torch.dtype = torch.float32) -> Batch:
    """Open the pictures of (index, messages) pairs and process them together; pixels become `dtype`, the model's.

    A prompt whose picture cannot be read, or that the processor refuses, becomes an error and harms no other.
    """
    ready, errors = [], {}
    for index, messages in prompts:
        try:
            pictures = [open_for(processor, part) for part in picture_parts(messages)]
        except PictureError as error:
            errors[index] = str(error)
        else:
            ready.append((index, render(processor, messages), pictures))
    try:
        inputs = _process(processor, ready)
    except REFUSALS:
        refusals = [_refusal(processor, prompt) for prompt in ready]
        errors |= {prompt[0]: reason for prompt, reason in zip(ready, refusals, strict=True) if reason}
        ready = [prompt for prompt, reason in zip(ready, refusals, strict=True) if not reason]
        inputs = _process(processor, ready)
    if inputs is not None:
        # Here, so that half as much crosses from the loader processes.
        inputs = {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}
    hashes = [[stored for _, stored in pictures] for _, _, pictures in ready]
    return Batch([index for index, _, _ in ready], [text for _, text, _ in ready], hashes, inputs, errors)


def replies(this, model, processor, order: list[int], num_workers: int) -> Iterator[dict[int, dict]]:
    """Greedy replies to the items `order` of a run (eval/harness.py): index -> prompt and prediction, or error.

    Whatever the batch size, replies are the same but for near-ties between two tokens, which rounding decides:
    exact ones in float32, now and then one in bfloat16 and float16.
    """
    reply = partial(reply_to, model, processor, this.args.max_new_tokens, this.benchmark.strips)
    return outcomes(model, processor, this.messages_of, order, this.args.batch_size, num_workers, reply)


def outcomes(
    model,
    processor,
    messages_of: Callable[[int], list[dict]],
    order: list[int],
    batch_size: int | None,
    num_workers: int,
    measure: Callable[[Batch], list[dict]],
) -> Iterator[dict[int, dict]]:
    """Yield, batch by batch, index -> what `measure` says of the prompt, or `{"error"}`, for the indices of `order`.

    `measure` gets batches on the model's device that hold at least one prompt, under inference_mode, and returns one
    dict per prompt. Beside it, `image_sha256` says of which picture it is (a list if there are several, absent if there
    is none). `batch_size`: see `in_fitting_batches`.
    """

    def measured(left: list[int], size: int) -> Iterator[dict[int, dict]]:
        for batch in _loader(model, processor, messages_of, left, size, num_workers):
            yield _outcomes_of(batch, model.device, measure)

    return in_fitting_batches(measured, order, batch_size, model.device)


def in_fitting_batches(
    answer: Callable[[list[int], int], Iterator[dict[int, dict]]],
    order: list[int],
    batch_size: int | None,
    device: torch.device,
) -> Iterator[dict[int, dict]]:
    """What `answer(indices, size)` yields, index -> outcome in the order of the indices, at a size that fits.

    `batch_size` None starts from AUTO_BATCH_SIZE and halves it for good whenever the GPU's memory does not hold it.
    """
    size, left = batch_size or AUTO_BATCH_SIZE[device.type], list(order)
    while left:
        try:
            for found in answer(left, size):
                yield found
                left = left[len(found) :]
        except torch.OutOfMemoryError:
            if batch_size or size == 1:
                advice = "lower it, or use auto" if size > 1 else "use a smaller --dtype or --max_new_tokens"
                raise InputError(
                    f"--batch_size {size} does not fit into the memory of {device}; {advice} (answers so far are kept)"
                ) from None
            size //= 2
        else:
            return
        # Here and not in the handler: until it is left, the exception keeps the tensors of the failed batch.
        torch.cuda.empty_cache()


def default_workers(num_processes: int) -> int:
    """Loader processes for each of `num_processes` on this machine: the cores they leave, at most 4.

    Each prepares one batch ahead, and a batch of large pictures takes hundreds of megabytes of shared memory.
    """
    return min(4, max(0, _cores() // num_processes - 1))


@contextlib.contextmanager
def threads_beside(num_workers: int, device: torch.device) -> Iterator[None]:
    """On a CPU, leave loader processes a core each: threads that wait for one of theirs hold all others up."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(min(before, max(1, _cores() - num_workers)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _loader(model, processor, messages_of, indices: list[int], size: int, num_workers: int) -> DataLoader:
    batches = [indices[start : start + size] for start in range(0, len(indices), size)]
    num_workers = min(num_workers, len(batches))
    return DataLoader(
        Batches(processor, messages_of, batches, model.dtype),
        batch_size=None,
        num_workers=num_workers,
        prefetch_factor=1 if num_workers else None,
        collate_fn=unchanged,
        worker_init_fn=ignore_interrupts,
        pin_memory=model.device.type == "cuda",
    )


def unchanged(batch):
    """DataLoader's `collate_fn` for what is a batch already."""
    return batch


def _process(processor, ready: list[tuple]) -> dict[str, torch.Tensor] | None:
    if not ready:
        return None
    texts = [text for _, text, _ in ready]
    pictures = [[picture for picture, _ in opened] for _, _, opened in ready]
    arguments = {"images": pictures} if any(pictures) else {}
    if has_first_token(processor, texts[0]):
        arguments["add_special_tokens"] = False
    return dict(processor(text=texts, padding=True, return_tensors="pt", **arguments))


def _refusal(processor, prompt: tuple) -> str | None:
    try:
        _process(processor, [prompt])
    except REFUSALS as error:
        return " ".join(str(error).split()) or "the text has more places for pictures than there are pictures"
    return None


def _outcomes_of(batch: Batch, device: torch.device, measure: Callable[[Batch], list[dict]]) -> dict[int, dict]:
    found = []
    if batch.inputs is not None:
        inputs = {name: value.to(device, non_blocking=True) for name, value in batch.inputs.items()}
        with torch.inference_mode():
            found = measure(replace(batch, inputs=inputs))
    measured = {
        index: {**outcome, **image_field(hashes)}
        for index, outcome, hashes in zip(batch.indices, found, batch.hashes, strict=True)
    }
    return measured | {index: {"error": reason} for index, reason in batch.errors.items()}


def reply_to(model, processor, max_new_tokens: int, strips: bool, batch: Batch) -> list[dict]:
    """The prompts of a batch with the model's replies; for `truncated` see `outcome_of`.

    `beyond_context` is true where a prompt is longer than the checkpoint was made for. `strips`: see `Benchmark` in
    eval/harness.py.
    """
    output = model.generate(**batch.inputs, max_new_tokens=max_new_tokens)
    new_tokens = output[:, batch.inputs["input_ids"].shape[1] :].tolist()
    return [
        outcome_of(model, processor, strips, prompt, tokens) | ({"beyond_context": True} if beyond else {})
        for prompt, tokens, beyond in zip(batch.prompts, new_tokens, beyond_context(model, batch.inputs), strict=True)
    ]


def beyond_context(model, inputs: dict[str, torch.Tensor]) -> list[bool]:
    """Of each prompt, whether it has positions that the checkpoint was not made for (max_position_embeddings).

    Positions count, not tokens: an image of BaPA has one, and Qwen2.5-VL's own of an image are fewer than its tokens.
    """
    lengths = inputs["attention_mask"].sum(-1)
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit is None or not bool((lengths > limit).any()):
        return [False] * len(lengths)
    fork = without_adapter(model)
    if hasattr(fork.model, "prompt_position_ids"):
        positions = fork.model.prompt_position_ids(**inputs)
        last = positions.amax((0, -1)) if positions.ndim == 3 else positions.amax(-1)
        lengths = torch.minimum(lengths, last + 1)
    return (lengths > limit).tolist()


def outcome_of(model, processor, strips: bool, prompt: str, tokens: list[int]) -> dict:
    """What the answers' row says of a reply, given as the tokens that came after the prompt, end and padding too.

    `truncated` is true where a reply of several tokens has no end.
    """
    tokens, has_end = _until_end(model, tokens)
    # Without what follows the end: it is padding, which depends on the other prompts of the batch.
    reply = processor.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    outcome = {"prompt": shown(prompt), "prediction": reply.strip() if strips else reply}
    # One token without an end is what --max_new_tokens 1 asks for: the answer's first word, not a cut one.
    return outcome if has_end or len(tokens) == 1 else outcome | {"truncated": True}


def _until_end(model, tokens: list[int]) -> tuple[list[int], bool]:
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    end = next((place for place, token in enumerate(tokens) if token in ends), None)
    return tokens[:end], end is not None
