"""A LLaVA-1.5-type checkpoint at another image size: more or fewer image tokens of the same weights.

    python models/resize.py --model_path checkpoints/llava-1.5-7b-hf --image_size 448 --output_dir checkpoints/llava-448

The CLIP tower's position table is resampled (bicubic, as transformers' `interpolate_pos_encoding` does); all other
weights stay. Whether a tower sees well at a size that it was not trained for is another question: measure it.
"""

import argparse
from pathlib import Path

import torch
from peft import PeftModel

from models.errors import ArgumentParser, InputError, run_script
from models.load import load_model
from models.writing import check_new, new_folder


def resize(model_path: str | Path, image_size: int, output_dir: str | Path) -> Path:
    """Write the checkpoint for images of `image_size` px a side into `output_dir`, whole or not at all.

    Raises InputError for another family than LLaVA with CLIP, a size that patches do not fill, or a folder that holds
    files.
    """
    check_new(output_dir)
    model, processor = load_model(model_path, dtype="auto")
    if isinstance(model, PeftModel):
        raise InputError(f"{model_path}: is an adapter; merge it (train/merge_lora.py) and resize the result")
    vision = getattr(model.config, "vision_config", None)
    if model.config.model_type != "llava" or vision.model_type != "clip_vision_model":
        raise InputError(f"{model_path}: is not a LLaVA-1.5 with a CLIP tower; only those have one position table")
    if image_size < vision.patch_size or image_size % vision.patch_size:
        raise InputError(f"--image_size {image_size}: must be a multiple of the patches' {vision.patch_size} px")
    embeddings = next(part for part in model.modules() if hasattr(part, "position_embedding"))
    side = image_size // vision.patch_size
    dtype = embeddings.position_embedding.weight.dtype
    embeddings.position_embedding.float()
    with torch.no_grad():
        table = resampled(embeddings, side, image_size).to(dtype)
    embeddings.position_embedding = torch.nn.Embedding.from_pretrained(table)
    vision.image_size, model.config.image_seq_length = image_size, side**2
    processor.image_processor.size = {"shortest_edge": image_size}
    processor.image_processor.crop_size = {"height": image_size, "width": image_size}
    with new_folder(output_dir) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return Path(output_dir)


def resampled(embeddings: torch.nn.Module, side: int, image_size: int) -> torch.Tensor:
    """(1 + side**2, hidden): CLS's row and those of the patches, by upstream's own interpolation, in float32."""
    hidden = embeddings.position_embedding.embedding_dim
    if side**2 + 1 == embeddings.num_positions:
        return embeddings.position_embedding.weight.detach().clone()
    return embeddings.interpolate_pos_encoding(torch.empty(1, side**2 + 1, hidden), image_size, image_size)[0]


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model_path", required=True, help="the checkpoint: a folder or hub id")
    parser.add_argument("--image_size", required=True, type=int, help="side of its images, px")
    parser.add_argument("--output_dir", required=True, help="an empty or new folder")
    arguments = parser.parse_args(argv)
    folder = resize(**vars(arguments))
    print(f"{folder}: images of {arguments.image_size} px")


if __name__ == "__main__":
    run_script(main)
