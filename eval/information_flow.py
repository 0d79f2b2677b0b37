"""Measure how much attention the text after an image pays to each of its patches.

    python eval/information_flow.py --benchmark probe --model_path checkpoints/llava-1.5-7b-hf \\
        --eval_file probe.jsonl --img_path images --answers_file results/flow_off.jsonl --position_balance false

After the paper (arXiv 2509.21984): attention weights, mean over layers, heads and the tokens of the text behind the
image, on the grid of the model's patches. Nothing is generated. Once more with --position_balance true, and
`python eval/plots.py information_flow` draws both with one scale. Prompts with no picture or several are left out.
"""

import argparse
import base64
import sys
from collections.abc import Iterator
from dataclasses import replace

from eval import probe
from eval.harness import Benchmark, Run, run
from eval.items import picture_parts
from models.errors import ArgumentParser, InputError, run_script

BENCHMARKS = {"probe": probe.BENCHMARK}
TEXT, LAST_TOKEN = "text", "last_token"


def study(benchmark: Benchmark) -> Benchmark:
    """The study of a benchmark's prompts."""

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.description = __doc__
        parser.set_defaults(attn_implementation="sdpa")
        add = parser.add_argument
        add("--benchmark", choices=BENCHMARKS, default="probe", help="whose prompts (default: %(default)s)")
        add(
            "--from",
            dest="attending",
            choices=(TEXT, LAST_TOKEN),
            default=TEXT,
            help="which tokens attend: all behind the image, or the last alone (default: %(default)s)",
        )
        add("--view", choices=("base", "tiles"), default="base", help="LLaVA-NeXT's picture (default: %(default)s)")
        add("--per_layer", action="store_true", help="keep every layer's map")
        benchmark.add_arguments(parser)

    def load_items(args: argparse.Namespace) -> list[dict]:
        items = benchmark.load_items(args)
        one = [item for item in items if len(picture_parts(benchmark.messages(item, args))) == 1]
        if not one:
            raise InputError(f"{benchmark.name}: no item has exactly one picture")
        if len(one) < len(items):
            print(f"information_flow: {len(items) - len(one)} items without exactly one picture are left out")
        return one

    return replace(
        benchmark,
        name=f"information_flow of {benchmark.name}",
        add_arguments=add_arguments,
        load_items=load_items,
        max_new_tokens=None,
        measure=measure,
        outcome="flow",
        settings=("attending", "view", "per_layer"),
    )


def measure(this: Run, model, processor, order: list[int], num_workers: int) -> Iterator[dict[int, dict]]:
    """Of each item its attention map, (layers or 1, rows, columns), float32 in base64 with its `shape`.

    And `image_share`: the attention that goes to the picture's patches together, 0 to 1, mean over layers.
    """
    import torch

    from eval import generate
    from eval.attention_flow import recording

    args, inner = this.args, model.model
    if model.config.get_text_config()._attn_implementation != "sdpa":
        print("information_flow: attention switched to sdpa, beside which the weights are computed", file=sys.stderr)
        model.set_attn_implementation("sdpa")

    def weigh(batch: generate.Batch) -> list[dict]:
        image = batch.inputs["input_ids"] == model.config.image_token_id
        grids, asked = inner.patch_tokens(view=args.view, **batch.inputs), []
        for row, grid in zip(image, grids, strict=True):
            patches = row.nonzero()[:, 0]
            attending = torch.arange(int(patches[-1]) + 1, len(row), device=row.device)
            attended = batch.inputs["attention_mask"][len(asked)].bool()
            attending = attending[attended[attending]]
            asked.append((attending[-1:] if args.attending == LAST_TOKEN else attending, patches[grid.flatten()]))
        recorder.ask(asked)
        inner(**batch.inputs, use_cache=False)
        return [outcome(layers, grid.shape) for layers, grid in zip(recorder.found, grids, strict=True)]

    def outcome(layers: dict, grid: torch.Size) -> dict:
        flow = torch.stack([layers[layer] for layer in sorted(layers)])
        share = float(flow.sum(-1).mean())
        flow = flow if args.per_layer else flow.mean(0, keepdim=True)
        encoded = base64.b64encode(flow.cpu().numpy().tobytes()).decode()
        return {"flow": encoded, "shape": [len(flow), *grid], "image_share": round(share, 6)}

    with recording(model) as recorder:
        yield from generate.outcomes(model, processor, this.messages_of, order, args.batch_size, num_workers, weigh)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    first = ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--benchmark", choices=BENCHMARKS, default="probe")
    return run(study(BENCHMARKS[first.parse_known_args(argv)[0].benchmark]), argv)


if __name__ == "__main__":
    run_script(main)
