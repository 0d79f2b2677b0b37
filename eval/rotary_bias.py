"""Predict spatial bias from positions and rotary frequencies alone: no weights are read, nothing is computed with them.

    python eval/rotary_bias.py --model_path checkpoints/llava-1.5-7b-hf --output_path results/rotary.png

How differently rotation treats the patches of an image, as the text behind it sees them, with position_balance false
and true: RKD, dispersion of the rotary kernel, and PTD, per-token distance (eval/rotary_kernel.py).
"""

import argparse
import re
from dataclasses import dataclass

import torch
from matplotlib.colors import Normalize

from data.files import write_json
from eval import rotary_kernel
from eval.cell_means import plain
from eval.heatmaps import check_suffix, save
from eval.map_figure import map_figure
from eval.rotary_kernel import Kernel
from eval.rotary_prompt import CANVAS, Picture, canvas_picture, grid_picture, prompt_positions
from eval.text_table import text_table
from models.errors import ArgumentParser, InputError, run_script
from models.outline import empty_fork, load_outline, rotary_embedding
from models.provenance import provenance, versions
from models.reading import told_as

MOST_PATCHES, MOST_TEXT = 256, 1024  # a side; tokens. Both at once take a minute
FLAGS = ("off", "on")


@dataclass(frozen=True)
class Found:
    """The kernels of one view in the layers of one type, by flag."""

    view: str
    layer_type: str | None
    layers: int
    kernels: dict[str, Kernel]

    def title(self, views: int, layer_types: int) -> str:
        """What tells it from the others; empty if there is one view and one type of layers."""
        view = "base view" if self.view == "base" else self.view
        parts = [view] * (views > 1) + [str(self.layer_type).replace("_", " ")] * (layer_types > 1)
        return ", ".join(parts)


def predict(config, picture: Picture, positions: dict[str, torch.LongTensor]) -> list[Found]:
    """The kernels of every view and every type of layers that has frequencies of its own."""
    text_config = config.get_text_config()
    head_dim = getattr(text_config, "head_dim", None) or text_config.hidden_size // text_config.num_attention_heads
    texts, found = slice(picture.tokens, None), []
    for layer_type in rotary_kernel.layer_types(rotary_embedding(config)):
        layers = text_config.num_hidden_layers
        layers = layers if layer_type is None else text_config.layer_types.count(layer_type)
        vectors = {flag: rotary_kernel.rotations(rotary_embedding(config), positions[flag], layer_type, head_dim)
                   for flag in FLAGS}  # fmt: skip
        for view, places in picture.views.items():
            kernels = {flag: rotary_kernel.measure(vectors[flag], positions[flag], places, texts) for flag in FLAGS}
            found.append(Found(view, layer_type, layers, kernels))
    return found


def draw(found: list[Found], titles: list[str], text_tokens: int, path: str) -> None:
    """The kernel over the patches, flag off beside flag on, a row for each view and type of layers, on one scale."""
    maps, notes = [], []
    for one, title in zip(found, titles, strict=True):
        for flag, kernel in one.kernels.items():
            maps.append((f"{title}, flag {flag}".removeprefix(", "), kernel.mean))
            notes.append(f"RKD {_hundredths(kernel)}, PTD {kernel.ptd.mean():.2f}")
    scale = (
        f"rotary kernel of a patch, mean over {text_tokens} tokens of text behind it (a cosine: 1 without distance)\n"
        "RKD: spread of a text token's kernel over patches, in hundredths; PTD: of its distances, in positions"
    )
    # The same colours for every model: those of a kernel that hardly varies must hardly vary.
    norm = Normalize(min(0.0, *(kernel.min() for _, kernel in maps)), 1.0)
    save(map_figure(maps, scale, columns=2, notes=notes, norm=norm), path)


def as_dict(one: Found, rope: dict) -> dict:
    """For JSON; RKD in hundredths."""
    numbers = {
        flag: {
            "rkd": plain(100 * kernel.rkd.mean()),
            "ptd": plain(kernel.ptd.mean()),
            "rkd_by_text_token": [plain(100 * value) for value in kernel.rkd],
            "kernel": [[plain(value) for value in row] for row in kernel.mean],
        }
        for flag, kernel in one.kernels.items()
    }
    return {"view": one.view, "layer_type": one.layer_type, "layers": one.layers, "rope": rope, **numbers}


def table(found: list[Found], titles: list[str]) -> str:
    """The numbers as aligned lines."""
    rows = [["", "layers", "patches", "RKD off", "RKD on", "PTD off", "PTD on"]]
    for one, title in zip(found, titles, strict=True):
        off, on = (one.kernels[flag] for flag in FLAGS)
        grid = "{} x {}".format(*off.mean.shape)
        distances = [f"{kernel.ptd.mean():.2f}" for kernel in (off, on)]
        rows.append([title or "all", str(one.layers), grid, _hundredths(off), _hundredths(on), *distances])
    return text_table(rows)


def _hundredths(kernel: Kernel) -> str:
    return f"{100 * kernel.rkd.mean():.2f}"


def _grid(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,4})x([0-9]{1,4})", text)
    grid = tuple(map(int, found.groups())) if found else (0, 0)
    if not all(1 <= side <= MOST_PATCHES for side in grid):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not rows x columns of patches, 1 to {MOST_PATCHES} each, such as 24x24"
        )
    return grid


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--model_path", required=True, help="checkpoint: a folder, or an id of the hub; weights are not needed")
    add(
        "--grid",
        type=_grid,
        metavar="HxW",
        help="rows x columns of patches of the image, without tiles; the processor is then not needed either "
        f"(default: those that the probe's canvas of {CANVAS} px has)",
    )
    add("--text_tokens", type=int, default=64, metavar="N", help="tokens of text behind the image (%(default)s)")
    add("--output_path", metavar="FILE", help="picture to write: .png, .pdf or .svg (default: none)")
    add("--output_json", metavar="FILE", help="all numbers, as JSON (default: none)")
    return parser


def check(arguments: argparse.Namespace) -> None:
    """Raise InputError for arguments that are none, before anything is read."""
    if not 1 <= arguments.text_tokens <= MOST_TEXT:
        raise InputError(f"--text_tokens {arguments.text_tokens}: give 1 to {MOST_TEXT}")
    if arguments.output_path:
        check_suffix(arguments.output_path)


def main(argv: list[str] | None = None) -> None:
    arguments = make_parser().parse_args(argv)
    check(arguments)
    path = arguments.model_path
    config, processor = load_outline(path, with_processor=arguments.grid is None)
    text_config = config.get_text_config()
    with told_as(f"{path}/config.json: no model can be built from it"):
        rotary = rotary_embedding(config)
        model = empty_fork(config) if rotary is not None else None
    if rotary is None:
        raise InputError(
            f"{path}/config.json: its language model, a {text_config.model_type}, has no rotary positions to look at"
        )
    picture = grid_picture(model, *arguments.grid) if arguments.grid else canvas_picture(model, processor, path)
    found = predict(config, picture, prompt_positions(model, picture, arguments.text_tokens))
    views, types = len(picture.views), len(rotary_kernel.layer_types(rotary))
    titles = [one.title(views, types) for one in found]
    if arguments.output_path:
        draw(found, titles, arguments.text_tokens, arguments.output_path)
    if arguments.output_json:
        ropes = text_config.rope_parameters
        numbers = {
            "model_path": path,
            "image_tokens": picture.tokens,
            "text_tokens": arguments.text_tokens,
            "grid": arguments.grid,
            "canvas": None if arguments.grid else CANVAS,
            "found": [as_dict(one, ropes[one.layer_type] if one.layer_type else ropes) for one in found],
            "versions": versions(),
            "git_commit": provenance()["git_commit"],
        }
        write_json(arguments.output_json, numbers)
    print(f"{config.model_type}: an image of {picture.tokens} tokens, {arguments.text_tokens} of text behind it\n")
    print(table(found, titles))
    print("\nRKD: dispersion of the rotary kernel over patches, in hundredths. PTD: per-token distance, in positions.")
    for output in filter(None, (arguments.output_json, arguments.output_path)):
        print(f"written: {output}")


if __name__ == "__main__":
    run_script(main)
