"""Pretrain a small CLIP vision tower by contrast: what is in a part of a canvas, against its caption.

    python train/pretrain_tower.py --source results/miniature/data/pictures/train \\
        --output_dir checkpoints/miniature_tower

Each step draws canvases whose cells hold pictures of an image-caption source or nothing. The features of the patches
under a picture, of the layer that LLaVA reads (-2) and of the last one, each and their mean, are pulled to the
picture's caption and away from the other captions of the batch (CLIP's loss, arXiv 2103.00020, for parts of an image),
and must tell their patch's row and column: what contrast alone leaves of the place cannot be read. The text side, a
bag of words, is thrown away. A killed run goes on when it is started again, with the weights of one that was not.

What is written is a CLIP vision model with its image processor, as train/sft.py's `vision_tower` takes it. All pictures
are held in memory, at the sizes of the cells. Of several image sizes, the position table is that of the first and
resampled for the others, so that the tower works at those, too.
"""

import argparse
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from data.canvas import Layout, PictureError, cell_corners, decode, fit, make_layout
from data.sources import FORMS, find_source
from models.errors import ArgumentParser, InputError, run_script
from models.processors import image_processor_class
from train.pretraining import DEVICE, check_positive, optimize, run_in

LAYERS = (-2, -1)  # of the tower: the one that LLaVA reads, and the one that CLIP does


class Pictures(NamedTuple):
    """The pictures of a source: `images` (pictures, side, side, 3), uint8, by side; `of_caption`: place in `texts` ->
    places of its pictures."""

    images: dict[int, np.ndarray]
    texts: list[str]
    of_caption: list[np.ndarray]


def read_pictures(source: Path, sides: list[int]) -> Pictures:
    """All pictures of `source`, fitted into squares of these `sides` (px); InputError for one that cannot be used."""
    images, captions = {side: [] for side in sides}, []
    for item in (item for part in find_source(source).parts for item in part()):
        content, caption = item.load()
        if content is None or not (caption or "").strip():
            raise InputError(f"--source {source}: {item.key} lacks its picture or its caption")
        try:
            picture = decode(content, max(sides))
        except PictureError as error:
            raise InputError(f"--source {source}: {item.key}: {error}") from None
        if picture.width != picture.height:
            raise InputError(
                f"--source {source}: {item.key} is {picture.width}x{picture.height}; square ones are needed"
            )
        for side in sides:
            images[side].append(np.asarray(fit(picture, side)))
        captions.append(" ".join(caption.split()))
    texts = sorted(set(captions))
    places = np.array([texts.index(caption) for caption in captions])
    of_caption = [np.flatnonzero(places == place) for place in range(len(texts))]
    return Pictures({side: np.stack(all_) for side, all_ in images.items()}, texts, of_caption)


def draw_batch(
    pictures: Pictures, layout: Layout, rows: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Canvases, (rows, side, side, 3) uint8, and the captions' places of their cells, (rows, cells), -1 for empty ones.

    Half of the canvases are full, the others have any number of pictures; no caption is twice on one.
    """
    cells = layout.grid**2
    canvases = np.full((rows, layout.canvas, layout.canvas, 3), 255, np.uint8)
    shown = np.full((rows, cells), -1)
    corners = cell_corners(layout)
    for canvas, places in zip(canvases, shown, strict=True):
        count = cells if rng.random() < 0.5 else rng.integers(1, cells + 1)
        filled = rng.permutation(cells)[:count]
        places[filled] = rng.choice(len(pictures.texts), count, replace=False)
        for cell in filled:
            left, top = corners[cell]
            picture = pictures.images[layout.cell][rng.choice(pictures.of_caption[places[cell]])]
            canvas[top : top + layout.cell, left : left + layout.cell] = picture
    return canvases, shown


def patches_of_cells(layout: Layout, patch: int) -> torch.Tensor:
    """(cells, patches a cell): the row-major numbers of the patches whose middle lies in each cell.

    Cells may differ by a row of patches; all give as many as the one with the fewest.
    """
    side = layout.canvas // patch
    middles = (np.arange(side) + 0.5) * patch
    found = []
    for left, top in cell_corners(layout):
        columns = np.flatnonzero((middles >= left) & (middles < left + layout.cell))
        rows = np.flatnonzero((middles >= top) & (middles < top + layout.cell))
        found.append((rows[:, None] * side + columns).flatten())
    fewest = min(map(len, found))
    return torch.from_numpy(np.stack([numbers[:fewest] for numbers in found]))


class Contrast(nn.Module):
    """A CLIP vision tower, and what its loss needs besides: a text side and projections."""

    def __init__(self, config: CLIPVisionConfig, texts: list[str], width: int = 128):
        super().__init__()
        self.tower = CLIPVisionModel(config)
        words = sorted({word for text in texts for word in text.split()})
        counts = torch.tensor([[float(text.split().count(word)) for word in words] for text in texts])
        self.register_buffer("counts", counts, persistent=False)
        # A sum over words: a caption that training never saw must lie where its words say.
        self.text = nn.Linear(len(words), width)
        self.projections = nn.ModuleList(nn.Linear(config.hidden_size, width) for _ in LAYERS)
        self.side = config.image_size // config.patch_size
        self.places = nn.ModuleList(nn.Linear(config.hidden_size, 2 * self.side) for _ in LAYERS)
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def forward(
        self, pixels: torch.Tensor, shown: torch.Tensor, patches: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss; and for each of LAYERS the shares of right captions, by pictures and by patches, and of right rows and
        columns.

        `pixels` (rows, 3, side, side); `shown` (rows, cells), captions' places or -1; `patches` (cells, patches),
        numbers of the patches of each cell.
        """
        states = self.tower(pixels, output_hidden_states=True, interpolate_pos_encoding=True).hidden_states
        there, answers = shown[shown >= 0].unique(return_inverse=True)
        texts = normalize(self.text(self.counts[there]), dim=-1)
        side = pixels.shape[-1] // self.tower.config.patch_size
        where = torch.arange(side**2, device=pixels.device)
        where = torch.stack([where // side, where % side], 1) * self.side // side  # as of an image of the tower's size
        where = where.expand(len(pixels), -1, -1)
        losses, right = [], {}
        for layer, project, place in zip(LAYERS, self.projections, self.places, strict=True):
            features = states[layer][:, 1:]  # (rows, all patches, hidden), without CLS
            of_cells = features[:, patches][shown >= 0]  # (pictures, patches, hidden)
            scale = self.log_scale.exp().clamp(max=100)
            for name, part in (("pictures", of_cells.mean(1, keepdim=True)), ("patches", of_cells)):
                logits = scale * normalize(project(part), dim=-1) @ texts.T
                loss, right[f"right_{name}_{layer}"] = score(logits, answers[:, None].expand(logits.shape[:2]))
                losses.append(loss)
            loss, right[f"right_places_{layer}"] = score(place(features).unflatten(-1, (2, self.side)), where)
            losses.append(loss)
        return torch.stack(losses).mean(), right


def score(logits: torch.Tensor, answers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross entropy of `logits` (..., classes) and the share of right ones."""
    loss = cross_entropy(logits.flatten(0, -2), answers.flatten())
    return loss, (logits.argmax(-1) == answers).float().mean()


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--source", required=True, type=Path, help=f"square pictures and their captions: {FORMS}")
    add("--output_dir", required=True, type=Path, help="folder of the run and of the tower")
    add("--grids", type=int, nargs="+", default=[3, 4], help="cells a side of the canvases (%(default)s)")
    add(
        "--image_sizes", type=int, nargs="+", default=[144, 192], help="sides of a canvas, px; the first is the tower's"
    )
    add("--patch_size", type=int, default=12, help="px (%(default)s)")
    add("--hidden_size", type=int, default=128, help="width (%(default)s)")
    add("--layers", type=int, default=5, help="(%(default)s)")
    add("--heads", type=int, default=4, help="attention heads (%(default)s)")
    add("--steps", type=int, default=4000, help="updates (%(default)s)")
    add("--batch_size", type=int, default=32, help="canvases in one update (%(default)s)")
    add("--learning_rate", type=float, default=1e-3, help="peak of a cosine, after 100 updates (%(default)s)")
    add("--save_steps", type=int, default=250, help="a killed run loses at most so many updates (%(default)s)")
    add("--seed", type=int, default=0, help="of weights and canvases (%(default)s)")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    check(args)
    layouts = [make_layout(grid, size, None, 1, 1) for size in args.image_sizes for grid in args.grids]
    for layout in layouts:
        if not patches_of_cells(layout, args.patch_size).shape[1]:
            sizes = f"--grids {layout.grid} --image_sizes {layout.canvas} --patch_size {args.patch_size}"
            raise InputError(f"{sizes}: some cells hold no patch; take smaller patches")
    settings = {name: value for name, value in vars(args).items() if name not in ("output_dir", "save_steps", "source")}
    settings["source_fingerprint"] = find_source(args.source).fingerprint
    with run_in(args.output_dir, settings) as unfinished:
        if unfinished:
            train(args, layouts)


def check(args: argparse.Namespace) -> None:
    """InputError for sizes that do not go together."""
    check_positive(args, "steps", "batch_size", "save_steps", "layers", "patch_size", "hidden_size", "heads")
    for size in args.image_sizes:
        if size % args.patch_size:
            raise InputError(f"--image_sizes {size} --patch_size {args.patch_size}: patches must fill the image")
    if args.hidden_size % args.heads:
        raise InputError(f"--hidden_size {args.hidden_size} --heads {args.heads}: heads must share it evenly")


def train(args: argparse.Namespace, layouts: list[Layout]) -> None:
    pictures = read_pictures(args.source, sorted({layout.cell for layout in layouts}))
    if len(pictures.texts) < max(args.grids) ** 2:
        raise InputError(
            f"--source {args.source}: {len(pictures.texts)} captions; a canvas needs {max(args.grids) ** 2}"
        )
    torch.manual_seed(args.seed)
    size = args.image_sizes[0]
    config = CLIPVisionConfig(
        hidden_size=args.hidden_size,
        intermediate_size=3 * args.hidden_size,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        image_size=size,
        patch_size=args.patch_size,
        projection_dim=args.hidden_size,
    )
    model = Contrast(config, pictures.texts).to(DEVICE)
    mean, std = (torch.tensor(values, device=DEVICE) for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))

    def step_loss(rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        layout = layouts[rng.choice(len(layouts))]
        canvases, shown = draw_batch(pictures, layout, args.batch_size, rng)
        pixels = (torch.from_numpy(canvases).to(DEVICE).float() / 255 - mean) / std
        patches = patches_of_cells(layout, args.patch_size).to(DEVICE)
        return model(pixels.permute(0, 3, 1, 2), torch.from_numpy(shown).to(DEVICE), patches)

    optimize(model, step_loss, args.output_dir, args.steps, args.learning_rate, args.save_steps, args.seed)
    model.tower.save_pretrained(args.output_dir)
    image_processor_class("clip", "CLIPImageProcessor")(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    ).save_pretrained(args.output_dir)
    print(f"{args.output_dir}: the tower; loss curve: loss.png")


if __name__ == "__main__":
    run_script(main)
