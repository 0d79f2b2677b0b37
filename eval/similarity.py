"""Compare a caption with its picture, alone on a white canvas, at every place: does it mean the same everywhere?

    python eval/similarity.py --model_path checkpoints/llava-1.5-7b-hf --eval_file similarity.jsonl --img_path images \\
        --answers_file results/similarity.jsonl

The set comes from data/build_similarity.py. The similarity is the paper's (arXiv 2509.21984): the cosine of the
element-wise maximum over the caption's token embeddings and that over the image tokens as the language model gets them
(after the projector). No position enters it, so --position_balance changes nothing. Beside it, the same picture is
compared with another caption: what is not above that says nothing about meaning. `python eval/plots.py similarity`
draws and counts. The paper's own number is of the first 9,000 items: --limit 9000.
"""

import argparse
import base64
import math
from collections.abc import Iterator
from functools import partial

from eval import probe
from eval.harness import Benchmark, Run, run
from eval.items import check_whole
from models.errors import InputError, run_script

COMPARED = {"similarity": "caption", "similarity_other": "other_caption"}
FEATURES = "features"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the study."""
    probe.add_arguments(parser)
    parser.add_argument(
        "--pooling", choices=("max", "mean"), default="max", help="over tokens (default: %(default)s, as in the paper)"
    )
    parser.add_argument(
        "--readout",
        choices=("none", "linear"),
        default="none",
        help="linear: keep the pooled image tokens, from which eval/plots.py reads the captions (default: %(default)s)",
    )


def load_items(args: argparse.Namespace) -> list[dict]:
    """The items with `other_caption`: the next caption of the file, the first one for the last.

    Raises InputError if there is only one caption, or a canvas does not hold its caption.
    """
    items = probe.load_items(args)
    for item in items:
        if item["answer"].lower() == "no":
            raise InputError(
                f"{args.eval_file}: {item['id']} asks for what is not there; give what build_similarity wrote"
            )
        if not item["caption"].strip():
            raise InputError(f"{args.eval_file}: {item['id']} has an empty caption; remove it")
    captions = list(dict.fromkeys(item["caption"] for item in items))
    if len(captions) < 2:
        raise InputError(f"{args.eval_file}: one caption only; another is needed to compare its pictures with")
    following = dict(zip(captions, [*captions[1:], captions[0]], strict=True))
    return [item | {"other_caption": following[item["caption"]]} for item in items]


def messages(item: dict, args: argparse.Namespace) -> list[dict]:
    """The canvas with its caption."""
    image = {"type": "image", "path": args.img_path / item["image"]}
    return [{"role": "user", "content": [image, {"type": "text", "text": item["caption"]}]}]


def measure(this: Run, model, processor, order: list[int], num_workers: int) -> Iterator[dict[int, dict]]:
    """Similarities of the items `order`, and their pooled image tokens of length 1, float16 in base64."""
    from eval import generate
    from eval.pooled import caption_vector, cosine, image_vectors, unit

    pool = partial(caption_vector, model, processor, this.args.pooling)

    def compare(batch: generate.Batch) -> list[dict]:
        outcomes = []
        vectors = image_vectors(model, batch.inputs, this.args.pooling)
        check_whole(len(vectors), len(batch.indices), this.args.model_path)
        for index, image in zip(batch.indices, vectors, strict=True):
            item = this.items[index]
            outcome = {name: cosine(image, pool(item[caption])) for name, caption in COMPARED.items()}
            if not all(map(math.isfinite, outcome.values())):
                outcomes.append({"error": "a cosine is not finite; try another --dtype"})
                continue
            if this.args.readout == "linear":
                outcome[FEATURES] = base64.b64encode(unit(image).half().cpu().numpy().tobytes()).decode()
            outcomes.append(outcome)
        return outcomes

    return generate.outcomes(model, processor, this.messages_of, order, this.args.batch_size, num_workers, compare)


BENCHMARK = Benchmark(
    "similarity",
    add_arguments,
    load_items,
    messages,
    probe.KEY,
    max_new_tokens=None,
    measure=measure,
    outcome=(*COMPARED, FEATURES),
    settings=("pooling", "readout"),
)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    return run(BENCHMARK, argv)


if __name__ == "__main__":
    run_script(main)
