"""Measure how much attention the text after an image pays to each of its patches.

    python eval/information_flow.py --benchmark probe --model_path checkpoints/llava-1.5-7b-hf \\
        --eval_file probe.jsonl --img_path images --answers_file results/flow_off.jsonl --position_balance false

After the paper (arXiv 2509.21984): attention weights, mean over layers, heads and the tokens of the text behind the
image, on the grid of the model's patches. Nothing is generated. Once more with --position_balance true, and
`python eval/plots.py information_flow` draws both with one scale. Prompts with no picture or several are left out.
"""

import argparse
import base64
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from eval import crpe, hallusionbench, probe, scienceqa
from eval.harness import Benchmark, Run, run
from eval.items import check_whole, picture_parts
from models.errors import ArgumentParser, InputError, run_script

BENCHMARKS = {module.BENCHMARK.name: module.BENCHMARK for module in (probe, scienceqa, crpe, hallusionbench)}
TEXT, LAST_TOKEN = "text", "last_token"


def study(benchmark: Benchmark) -> Benchmark:
    """The study of a benchmark's prompts."""
    return replace(
        benchmark,
        name=f"information_flow of {benchmark.name}",
        add_arguments=partial(add_arguments, benchmark),
        load_items=partial(load_items, benchmark),
        max_new_tokens=None,
        measure=measure,
        outcome=("flow", "shape", "image_share"),
        settings=("attending", "view", "per_layer"),
        afterwards=None,
        attention="sdpa",
    )


def add_arguments(benchmark: Benchmark, parser: argparse.ArgumentParser) -> None:
    """The arguments of the study, then the benchmark's."""
    add = parser.add_argument
    add("--benchmark", choices=BENCHMARKS, default="probe", help="whose prompts (default: %(default)s)")
    add(
        "--from",
        dest="attending",
        choices=(TEXT, LAST_TOKEN),
        default=TEXT,
        help="which tokens attend: all behind the image, or the last alone (default: %(default)s)",
    )
    add(
        "--view",
        choices=("base", "tiles"),
        default="base",
        help="of pictures that are cut into tiles (default: %(default)s)",
    )
    add("--per_layer", action="store_true", help="keep every layer's map: 3 kB a layer and item for 24 x 24 patches")
    benchmark.add_arguments(parser)


def load_items(benchmark: Benchmark, args: argparse.Namespace) -> list[dict]:
    """The benchmark's items that have one picture. Raises InputError if there is none."""
    items = benchmark.load_items(args)
    one = [item for item in items if len(picture_parts(benchmark.messages(item, args))) == 1]
    if not one:
        raise InputError(f"{benchmark.name}: no item has exactly one picture")
    if len(one) < len(items):
        print(f"information_flow: {len(items) - len(one)} items without exactly one picture are left out")
    return one


def measure(this: Run, model, processor, order: list[int], num_workers: int) -> Iterator[dict[int, dict]]:
    """Of each item its attention map, (layers or 1, rows, columns), float32 in base64 with its `shape`.

    And `image_share`: the attention that goes to all tokens of the picture, 0 to 1, mean over layers. Raises InputError
    for a model without a patch grid, and for tiles of one that has none.
    """
    from models.load import without_adapter

    inner = without_adapter(model).model
    if not hasattr(inner, "patch_tokens"):
        raise InputError(f"{this.args.model_path}: patches of a {model.config.model_type} are not known here")
    if this.args.view not in getattr(inner, "views", ("base",)):
        raise InputError(
            f"--view {this.args.view}: a {model.config.model_type} has one view of a picture; leave it out"
        )
    return _measure(this, inner, model, processor, order, num_workers)


def _measure(this: Run, inner, model, processor, order, num_workers) -> Iterator[dict[int, dict]]:
    import torch

    from eval import generate
    from eval.attention_flow import recording
    from models.reading import told_as

    args = this.args

    def weigh(batch: generate.Batch) -> list[dict]:
        image = batch.inputs["input_ids"] == model.config.image_token_id
        with told_as(f"{args.model_path}: no grid of patches is known", ValueError):
            grids = inner.patch_tokens(view=args.view, **batch.inputs)
        check_whole(len(grids), len(image), args.model_path)
        asked = []
        for row in image:
            patches = row.nonzero()[:, 0]
            behind = torch.arange(int(patches[-1]) + 1, len(row), device=row.device)  # padding is on the left
            asked.append((behind[-1:] if args.attending == LAST_TOKEN else behind, patches))
        recorder.ask(asked)
        inner(**batch.inputs, use_cache=False)
        return [outcome(layers, grid) for layers, grid in zip(recorder.found, grids, strict=True)]

    def outcome(layers: dict, grid: torch.LongTensor) -> dict:
        flow = torch.stack([layers[layer] for layer in sorted(layers)]).cpu()
        if not flow.isfinite().all():
            return {"error": "attention is not finite; try another --dtype"}
        share = float(flow.sum(-1).mean())
        flow = flow[:, grid.cpu()]
        flow = flow if args.per_layer else flow.mean(0, keepdim=True)
        encoded = base64.b64encode(flow.numpy().tobytes()).decode()
        return {"flow": encoded, "shape": list(flow.shape), "image_share": round(share, 6)}

    with recording(model) as recorder:
        yield from generate.outcomes(model, processor, this.messages_of, order, args.batch_size, num_workers, weigh)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    first = ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--benchmark", choices=BENCHMARKS, default="probe")
    return run(study(BENCHMARKS[first.parse_known_args(argv)[0].benchmark]), argv)


if __name__ == "__main__":
    run_script(main)
