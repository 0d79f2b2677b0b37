"""Find which part of a canvas a model's answer rests on: cover a square, look what the answer's logits lose.

    python eval/perception.py --model_path checkpoints/llava-1.5-7b-hf --eval_file probe.jsonl --img_path images \\
        --output_dir results/perception

After the paper (arXiv 2509.21984), on the canvases of the probe that hold the caption: the model answers, then squares
of the canvas are covered one at a time, and the loss of a square is the mean over the answer's tokens of |logit - logit
with the square covered|. Squares of one colour are skipped: covering white with white changes nothing.

The paper generates anew under each square and compares logits token by token; answers of one token give the same here.
Longer ones may change under a square, after which tokens no longer correspond; here the answer stays the first one, and
the model is asked what it makes of it (teacher forcing). Writes occlusion.jsonl, with one map an item, and
overlays/<image>_<position>.png. `python eval/plots.py perception` sums the maps by target cell.
"""

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

from PIL import ImageColor
from tqdm import tqdm

from data.pictures import PictureError, picture_size
from eval import probe
from eval.harness import Benchmark, Run, run
from eval.journal import writing
from eval.overlay import is_overlay, write_overlay
from eval.probe_answers import caption_group
from models.errors import InputError, run_script

RESULTS, OVERLAYS = "occlusion.jsonl", "overlays"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the study."""
    probe.add_arguments(parser)
    add = parser.add_argument
    add("--num_captions", type=int, default=20, help="captions to draw, each in all its cells (default: %(default)s)")
    add("--seed", type=int, default=1, help="of the drawing of captions (default: %(default)s)")
    add("--mask_size", type=int, default=42, help="side of a square, px; divides the canvas (default: %(default)s)")
    add("--mask_color", type=_colour, default="white", help="of the square: a name or #rrggbb (default: %(default)s)")
    add(
        "--target",
        choices=("answer", "first_token"),
        default="answer",
        help="tokens whose logits count (default: %(default)s)",
    )
    add(
        "--baseline",
        choices=("none", "yes_no"),
        default="none",
        help="yes_no: count the difference of the logits of Yes and No instead (default: %(default)s)",
    )


def load_items(args: argparse.Namespace) -> list[dict]:
    """The positives of `num_captions` captions drawn from the probe. Raises InputError for sizes that do not fit."""
    if args.num_captions < 1 or args.mask_size < 1:
        raise InputError("--num_captions, --mask_size: give 1 or more")
    positives = [item for item in probe.load_items(args) if item["answer"].lower() == "yes"]
    captions = list(dict.fromkeys(caption_group(item["image"]) for item in positives))
    if not captions:
        raise InputError(f"{args.eval_file}: no item has the answer Yes; give a probe as data/build_probe.py writes it")
    if args.num_captions > len(captions):
        raise InputError(
            f"--num_captions {args.num_captions}: {args.eval_file} has {len(captions)} captions with a question "
            f"answered Yes; give {len(captions)} or fewer"
        )
    drawn = set(random.Random(args.seed).sample(captions, args.num_captions))
    items = [item for item in positives if caption_group(item["image"]) in drawn]
    for item in items:
        check_mask_size(args.img_path / item["image"], args.mask_size)
    return items


def check_mask_size(path: Path, size: int) -> None:
    """Raise InputError, with the sizes that do, unless squares of `size` tile the picture. Broken files pass."""
    try:
        sides = picture_size(path)
    except PictureError:
        return
    if any(side % size for side in sides):
        fitting = [str(side) for side in range(8, min(sides) // 3 + 1) if not any(whole % side for whole in sides)]
        raise InputError(
            f"--mask_size {size}: does not divide {path.name}, {sides[0]} x {sides[1]} px; "
            f"choose one of {', '.join(fitting) or 'none: build the canvases in another size'}"
        )


def measure(this: Run, model, processor, order: list[int], num_workers: int) -> Iterator[dict[int, dict]]:
    """Reply and map of each item of `order`. Raises InputError where Yes and No cannot be told apart."""
    from eval.occlusion import Answer, occlusion_maps

    args = this.args
    yes_no = yes_and_no(processor) if args.baseline == "yes_no" else None
    answer = Answer(model, processor, args.max_new_tokens, args.target, yes_no)
    return occlusion_maps(answer, this.messages_of, order, args, num_workers)


def yes_and_no(processor) -> tuple[int, int]:
    """The first tokens of "Yes" and "No". Raises InputError if they are one."""
    yes, no = (processor.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("Yes", "No"))
    if yes == no:
        raise InputError("--baseline yes_no: Yes and No begin with the same token of this checkpoint; leave it out")
    return yes, no


def draw_overlays(this: Run) -> None:
    """Draw every map over its canvas: overlays/<image>_<position>.png."""
    folder = this.args.answers_file.parent / OVERLAYS
    rows = [row for row in this.rows().values() if this.is_done(row)]
    paths = [folder / f"{row['image'].replace('/', '_').rsplit('.', 1)[0]}_{row['position']}.png" for row in rows]
    with writing(folder):
        folder.mkdir(exist_ok=True)
        for stale in filter(is_overlay, set(folder.glob("*.png")).difference(paths)):
            stale.unlink()
        for row, path in zip(tqdm(rows, "overlays", unit="picture", leave=False), paths, strict=True):
            write_overlay(this.args.img_path / row["image"], row["map"], path)
    print(f"perception: {len(rows)} overlays in {folder}")


def _colour(text: str) -> tuple[int, int, int]:
    try:
        return ImageColor.getrgb(text)[:3]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no colour; give a name such as white, or #rrggbb") from None


BENCHMARK = Benchmark(
    "perception",
    add_arguments,
    load_items,
    probe.messages,
    probe.KEY,
    measure=measure,
    outcome=("map", "prediction", "answer_tokens"),
    settings=("mask_size", "mask_color", "target", "baseline"),
    file_in_folder=RESULTS,
    afterwards=draw_overlays,
)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    return run(BENCHMARK, argv)


if __name__ == "__main__":
    run_script(main)
