"""The probe by --engine vllm against --engine transformers, over the same items."""

import argparse
import os
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace

from eval import generate, probe, vllm_engine
from eval.engine_arguments import VLLM_ONLY, check_engine
from eval.speed.rows import Row
from eval.speed.side_by_side import Ratio, side_by_side
from eval.speed.studies import loaded, positives

MAX_NEW_TOKENS = 128


def engine_row(args: argparse.Namespace, device) -> Iterator[Row]:
    """The probe's replies of the checkpoint; vLLM's start is not counted."""
    ratio = engine_ratio(*loaded(args, device), args)
    what = f"{args.model_path}, {args.items} items"
    yield Row("engine", what, "transformers", "vLLM", "items", ratio)


def engine_ratio(model, processor, args: argparse.Namespace) -> Ratio:
    """Items of the probe a second, transformers' first; vLLM's start is not counted. In float32 the replies must be
    the same; otherwise those that differ are counted.
    """
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB; on the CPU vLLM would take most of the memory
    prompts = [probe.messages(item, args) for item in positives(args, args.items * args.rounds)]
    settings = vars(args) | dict.fromkeys(
        (*VLLM_ONLY, "min_pixels", "max_pixels", "image_aspect_ratio", "batch_size", "attn_implementation")
    )
    settings |= {"engine": "vllm", "dtype": "auto", "device": "auto", "max_new_tokens": MAX_NEW_TOKENS}
    run = SimpleNamespace(
        args=argparse.Namespace(**settings), messages_of=prompts.__getitem__, benchmark=SimpleNamespace(strips=False)
    )
    check_engine(run.args, "engine", measures=False, num_processes=1)
    engine, _ = vllm_engine.load(run, list(range(len(prompts))))
    workers = generate.default_workers(1)

    def of(number: int) -> list[int]:
        return list(range(number * args.items, (number + 1) * args.items))

    def transformers(number: int) -> list[str]:
        answer = partial(generate.reply_to, model, processor, MAX_NEW_TOKENS, False)
        with generate.threads_beside(workers, model.device):
            return _in_order(generate.outcomes(model, processor, run.messages_of, of(number), None, workers, answer))

    def vllm(number: int) -> list[str]:
        return _in_order(vllm_engine.finished(run, engine, processor, of(number), workers))

    try:
        ratio, results = side_by_side(transformers, vllm, args.rounds)
    finally:
        engine.close()
    pairs = [pair for first, second in results for pair in zip(first, second, strict=True)]
    others = sum(first != second for first, second in pairs)
    print(f"engine: {others} of {len(pairs)} replies differ")
    assert others == 0 or str(model.dtype) != "torch.float32", "the two engines answer differently"
    return ratio


def _in_order(batches) -> list[str]:
    found = {index: outcome["prediction"] for batch in batches for index, outcome in batch.items()}
    return [found[index] for index in sorted(found)]
