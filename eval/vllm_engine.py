"""Greedy replies by vLLM, as eval/generate.py gives them by transformers: same prompts, pictures and rows.

The engine runs in processes of its own. It is kept full: many prompts are with it at a time, threads open the pictures
of the next, and each reply is handed on when it is finished. Prompts go in as token ids with one place a picture, so
that no other template or tokenizer comes between.
"""

import asyncio
import itertools
import os
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import torch
from PIL import Image
from transformers import GenerationConfig

from eval.engine_arguments import VLLM_ONLY
from eval.generate import NOT_GREEDY, REFUSALS, outcome_of, render
from eval.items import PictureError, image_field, open_for, picture_parts
from models.errors import InputError
from models.load import adapter_base, read_flag, stated_flag
from models.outline import load_outline
from models.processors import aspect_ratio, has_first_token, image_token, pixel_bounds, set_pixel_bounds
from models.reading import read_json
from models.vllm_plugin import refuse_original_layout, register

IN_FLIGHT = 512  # prompts with each copy of the model at a time: twice what vLLM runs at once
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM has room for
# Values of a generation_config that greedy decoding does not read, or that `sampling` passes on.
KNOWN = (
    *("_from_model_config", "bos_token_id", "pad_token_id", "eos_token_id", "max_new_tokens", "do_sample", "num_beams"),
    *("use_cache", "cache_implementation", "renormalize_logits", "return_dict_in_generate", "transformers_version"),
    *("repetition_penalty", "suppress_tokens"),
)
SHUTDOWN_SECONDS = 20  # of vLLM's processes, before they are killed
NEVER = -100.0  # the least logit bias that vLLM takes


@dataclass(frozen=True)
class Engine:
    """A running vLLM on an event loop in a thread of its own, with what the harness asks of a model.

    `adapter` is vLLM's request for LoRA, or None.
    """

    config: SimpleNamespace
    device: torch.device
    dtype: torch.dtype
    generation_config: GenerationConfig
    vllm: object
    adapter: object | None
    copies: int
    loop: asyncio.AbstractEventLoop
    thread: threading.Thread
    ids: Iterator[int] = field(default_factory=itertools.count)

    def close(self) -> None:
        """End vLLM's processes and the thread."""
        self.vllm.shutdown(timeout=SHUTDOWN_SECONDS)
        asyncio.run_coroutine_threadsafe(_cancelled_tasks_end(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


async def _cancelled_tasks_end() -> None:
    """Let the tasks of the loop end, vLLM's own too: a loop that stops before would leave them, and vLLM, in memory."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def load(this, order: list[int]) -> tuple[Engine, object]:
    """Start vLLM on the checkpoint of a run (eval/harness.py) for the items `order`; returns it and the processor.

    Raises InputError for what eval/generate.py's `load` does, and for what vLLM cannot do.
    """
    args = this.args
    path, adapter = args.model_path, read_json(args.model_path, "adapter_config.json", required=False)
    base = path if adapter is None else adapter_base(path, adapter)
    described = read_json(base, "config.json")
    refuse_original_layout(base, described)
    config, processor = load_outline(base)
    set_pixel_bounds(processor, args.min_pixels, args.max_pixels, path)
    if args.image_aspect_ratio == "crop" and aspect_ratio(processor) == "pad":
        raise InputError(f"--image_aspect_ratio crop: vLLM pads for {path}; use --engine transformers")
    flag = args.position_balance
    if flag is None and adapter is not None:
        flag = stated_flag(path)
    if flag is None:
        flag = read_flag(base, described)
    generation = generation_config(base, config)
    check_generation(base, generation)
    pictures = max(len(picture_parts(this.messages_of(index))) for index in order)

    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.lora.request import LoRARequest
    from vllm.platforms import current_platform
    from vllm.v1.engine.async_llm import AsyncLLM

    register()  # for a checkout that is on the path and not installed; its workers then tell what is missing
    on_cpu = current_platform.is_cpu()
    settings = {name: getattr(args, name) for name in VLLM_ONLY if getattr(args, name) is not None}
    if pixel_bounds(processor) is not None:
        least, most = pixel_bounds(processor)
        settings["mm_processor_kwargs"] = {"size": {"shortest_edge": least, "longest_edge": most}}
    if adapter is not None:
        settings |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": room_for(path, adapter)}
    try:
        vllm_config = AsyncEngineArgs(
            model=base,
            dtype="float32" if args.dtype == "auto" and on_cpu else args.dtype,
            hf_overrides={"position_balance": flag},
            generation_config="vllm",
            limit_mm_per_prompt={"image": max(1, pictures)} | ({"video": 0} if has_videos(config) else {}),
            **settings,
        ).create_engine_config()
    except (ValueError, TypeError, NotImplementedError) as error:  # TypeError: a flag that this release has not
        raise InputError(f"{path}: vLLM cannot run it so: {reason_of(error)}") from error
    vllm = AsyncLLM.from_vllm_config(vllm_config, disable_log_stats=True)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    engine = Engine(
        config=SimpleNamespace(
            position_balance=flag, _commit_hash=getattr(config, "_commit_hash", None), _attn_implementation="vllm"
        ),
        device=torch.device(current_platform.device_type),
        dtype=vllm_config.model_config.dtype,
        generation_config=generation,
        vllm=vllm,
        adapter=LoRARequest("adapter", 1, str(Path(path).resolve())) if adapter is not None else None,
        copies=args.data_parallel_size or 1,
        loop=loop,
        thread=thread,
    )
    return engine, processor


def has_videos(config) -> bool:
    """Whether a checkpoint of this config takes videos, which no item here has and vLLM would keep memory for."""
    return getattr(config, "video_token_id", None) is not None


def room_for(path: str, adapter: dict) -> int:
    """The rank to start vLLM with for an adapter. Raises InputError for what vLLM cannot run beside its base."""
    if adapter.get("peft_type") != "LORA" or adapter.get("modules_to_save"):
        raise InputError(
            f"{path}: vLLM runs LoRA alone, and this adapter has whole layers or is of another kind; merge it first "
            "(scripts/merge_lora.sh), or use --engine transformers"
        )
    largest = max([adapter["r"], *(adapter.get("rank_pattern") or {}).values()])
    rank = next((rank for rank in LORA_RANKS if rank >= largest), None)
    if rank is None:
        raise InputError(f"{path}: rank {largest}; vLLM runs up to {LORA_RANKS[-1]}: merge the adapter first")
    return rank


def reason_of(error: Exception) -> str:
    """What an error of vLLM says, in one line; the first of pydantic's is a mere count of errors."""
    told = error.errors()[0]["msg"] if hasattr(error, "errors") else str(error)
    return " ".join(told.removeprefix("Value error, ").split())


def generation_config(path: str, config) -> GenerationConfig:
    """Generation settings of the checkpoint at `path`, where loading it with transformers finds them."""
    try:
        return GenerationConfig.from_pretrained(path)
    except OSError:  # it has no such file
        return GenerationConfig.from_model_config(config)


def check_generation(path: str, settings: GenerationConfig) -> None:
    """Raise InputError for settings that change greedy replies and that vLLM has no counterpart of."""
    other = sorted(set(settings.to_diff_dict()).difference(KNOWN, NOT_GREEDY))
    if other:
        raise InputError(
            f"{path}/generation_config.json: {other[0]} has no counterpart in vLLM; use --engine transformers"
        )


def sampling(settings: GenerationConfig, max_new_tokens: int):
    """vLLM's greedy decoding by a checkpoint's settings (`check_generation`), the replies as token ids."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    ends = settings.eos_token_id
    return SamplingParams(
        temperature=0.0,
        max_tokens=max_new_tokens,
        repetition_penalty=settings.repetition_penalty or 1.0,
        logit_bias={token: NEVER for token in settings.suppress_tokens or []} or None,
        ignore_eos=True,  # the tokenizer's; transformers stops at those of the settings
        stop_token_ids=ends if isinstance(ends, list) else [] if ends is None else [ends],
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def prompt_tokens(processor, text: str, pictures: int) -> list[int]:
    """Token ids of a rendered prompt with one token for each of its `pictures`; ValueError if it has other places."""
    ids = processor.tokenizer(text, add_special_tokens=not has_first_token(processor, text))["input_ids"]
    place = processor.tokenizer.convert_tokens_to_ids(getattr(processor, "boi_token", None) or image_token(processor))
    soft = processor.tokenizer.convert_tokens_to_ids(image_token(processor))
    if ids.count(place) != pictures or (soft != place and soft in ids):
        raise ValueError(f"the text has {ids.count(place)} places for pictures, and there are {pictures} pictures")
    return ids


def padded(picture: Image.Image, mean: list[float]) -> Image.Image:
    """The picture in the middle of a square of the mean colour, as the LLaVA code base pads (`expand2square`)."""
    side, colour = max(picture.size), tuple(int(255 * channel) for channel in mean)
    square = Image.new("RGB", (side, side), colour)
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


def replies(this, engine: Engine, processor, order: list[int], num_workers: int) -> Iterator[dict[int, dict]]:
    """Greedy replies to the items `order` of a run; the engine ends with them."""
    try:
        yield from finished(this, engine, processor, order, num_workers)
    finally:
        engine.close()


def finished(this, engine: Engine, processor, order: list[int], num_workers: int) -> Iterator[dict[int, dict]]:
    """Greedy replies, those that are finished at a time: index -> prompt and prediction, or error."""
    params = sampling(engine.generation_config, this.args.max_new_tokens)
    done = queue.SimpleQueue()
    asking = ask_all(this, engine, processor, order, max(1, num_workers), params, done)
    task = asyncio.run_coroutine_threadsafe(asking, engine.loop)
    left = len(order)
    try:
        while left:
            found = [done.get()]
            while not done.empty():
                found.append(done.get())
            for outcome in found:
                if isinstance(outcome, BaseException):
                    raise outcome
            left -= len(found)
            yield dict(found)
    finally:
        task.cancel()


async def ask_all(this, engine, processor, order, num_workers: int, params, done: queue.SimpleQueue) -> None:
    """Put (index, outcome) of every item into `done`, or the exception that ends the run."""
    places = asyncio.Semaphore(IN_FLIGHT * engine.copies)
    loop, asked = asyncio.get_running_loop(), set()
    with ThreadPoolExecutor(num_workers) as threads:

        async def ask(index: int) -> None:
            try:
                done.put((index, await answer(this, engine, processor, index, params, loop, threads)))
            except Exception as error:  # told where the run is waited for
                done.put(error)
            finally:
                places.release()

        for index in order:
            await places.acquire()
            asked.add(task := loop.create_task(ask(index)))
            task.add_done_callback(asked.discard)
        await asyncio.gather(*asked)


async def answer(this, engine, processor, index: int, params, loop, threads) -> dict:
    """The outcome of one item: as `eval.generate.outcomes` says it, pictures' hashes too."""

    def prepare() -> tuple[str, dict, list[str]]:
        messages = this.messages_of(index)
        pictures = [open_for(processor, part) for part in picture_parts(messages)]
        if aspect_ratio(processor) == "pad":  # vLLM has an image processor of its own, made from the checkpoint
            mean = processor.image_processor.image_mean
            pictures = [(padded(picture, mean), stored) for picture, stored in pictures]
        text = render(processor, messages)
        prompt = {"prompt_token_ids": prompt_tokens(processor, text, len(pictures))}
        if pictures:
            prompt["multi_modal_data"] = {"image": [picture for picture, _ in pictures]}
        return text, prompt, [stored for _, stored in pictures]

    try:
        text, prompt, hashes = await loop.run_in_executor(threads, prepare)
        (rendered,) = await engine.vllm.renderer.render_cmpl_async([prompt])
        request = str(next(engine.ids))
        async for output in engine.vllm.generate(rendered, params, request, lora_request=engine.adapter):
            last = output
    except PictureError as error:
        return {"error": str(error)}
    except REFUSALS as error:
        return {"error": " ".join(str(error).split())}
    tokens = list(last.outputs[0].token_ids)
    return outcome_of(engine, processor, this.benchmark.strips, text, tokens) | image_field(hashes)
