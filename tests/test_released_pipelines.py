"""Prompts, token ids and pixels against what the families' released code makes of the same conversations and pictures.

tests/released/<family>.json has the facts, each file with the code and the tokenizer that they come from: ids of ten
conversations, a run of image tokens as -200, and of seven pictures the mean, the deviation and 40 values of the pixels.
Tokenizers are released under licences of their own and are not here: ids are compared where the files are found, in
shared/checkpoints beside the repository or in the folder that BAPA_TOKENIZERS names (mistral/, llama3/, gemma3/).
"""

import json
import os
import shutil
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eval.generate import prepare, render
from models.literal_text import shown
from models.outline import load_outline
from models.processors import image_processor_class

FACTS = {
    file.stem: json.loads(file.read_text()) for file in sorted((Path(__file__).parent / "released").glob("*.json"))
}
CHECKPOINTS = Path(__file__).parents[2] / "shared/checkpoints"
TOKENIZERS = Path(os.environ.get("BAPA_TOKENIZERS", CHECKPOINTS.parent / "tokenizers"))
GRID = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]  # (width, height)
SIZES = [(336, 336), (640, 320), (100, 400), (57, 31), (1000, 667), (333, 900), (30, 28)]


def user(text: str, images: int = 0) -> dict:
    return {"role": "user", "content": [{"type": "image"}] * images + [{"type": "text", "text": text}]}


def said(text: str) -> dict:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


PROMPTS = {
    "one turn": [user("What is shown?", 1)],
    "runs of spaces": [user("What  is   shown    at (3,  4)?", 1)],
    "line breaks": [user("Read this:\nfirst line\n\n  second line", 1)],
    "unicode": [user("Was ist das für ein Tier? 漢字 🙂 e\u0301 \u2019 \u00a0 \u2581x", 1)],
    "several turns": [
        user("What is shown?", 1),
        said("A red cat."),
        user("Sure?"),
        said("Yes."),
        user("USER: why?"),
    ],
    "system": [{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}, user("What is shown?", 1)],
    "two images": [user("Are they the same?", 2)],
    "text only": [user("What is 12 + 345?")],
    "image in a later turn": [user("Hello"), said("Hi!"), user("And this?", 1)],
    "literal special tokens": [user("Say </s>, <s>, <|im_end|>, <|eot_id|>, <end_of_turn> or <bos>.", 1)],
}


def drawn(width: int, height: int) -> Image.Image:
    """A picture of slopes with a rectangle in it, from whole numbers only."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([(x * 7 + y * 3) % 256, (x * y // 5) % 256, (255 - x * 2 + y * 5) % 256], -1).astype(np.uint8)
    pixels[height // 4 : height // 2, width // 4 : width // 2] = (200, 30, 60)
    return Image.fromarray(pixels)


def original_config(model_type: str) -> dict:
    """What of the config.json of a LLaVA-NeXT in LLaVA's layout decides tokens and pixels."""
    return {
        "model_type": model_type,
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
        "mm_projector_type": "mlp2x_gelu",
        "mm_patch_merge_type": "spatial_unpad",
        "image_aspect_ratio": "anyres",
        "image_grid_pinpoints": GRID,
    }


def llava(tmp_path: Path) -> Path:
    return CHECKPOINTS / "liuhaotian/llava-v1.5-7b"


def llava_converted(tmp_path: Path) -> Path:
    return CHECKPOINTS / "llava-hf/llava-1.5-7b-hf"


def qwen(tmp_path: Path) -> Path:
    return CHECKPOINTS / "Qwen/Qwen2.5-VL-7B-Instruct"


def first_qwen(tmp_path: Path) -> Path:
    """As released until February 2025."""
    if not qwen(tmp_path).is_dir():
        return qwen(tmp_path)
    folder = Path(shutil.copytree(qwen(tmp_path), tmp_path / "qwen", copy_function=os.symlink))
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    named = settings | {"image_processor_type": "Qwen2_5_VLImageProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(named))
    return folder


def with_tokenizer(tmp_path: Path, name: str, config: dict | None, *files: Path) -> Path:
    """A checkpoint's folder with the files of a tokenizer, or the place where those are missing."""
    found = TOKENIZERS / name
    for file in files:
        if not file.is_file():
            return file
    if not found.is_dir():
        return found
    folder = Path(shutil.copytree(found, tmp_path / name, copy_function=os.symlink))
    for file in files:
        (folder / file.name).symlink_to(file)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def mistral(tmp_path: Path) -> Path:
    return with_tokenizer(tmp_path, "mistral", original_config("llava_mistral"))


def llama3(tmp_path: Path) -> Path:
    return with_tokenizer(tmp_path, "llama3", original_config("llava_llama") | {"vocab_size": 128256})


def gemma(tmp_path: Path) -> Path:
    names = ("config.json", "preprocessor_config.json", "processor_config.json")
    return with_tokenizer(tmp_path, "gemma3", None, *(CHECKPOINTS / "gemma3-27b-derived" / name for name in names))


@pytest.mark.parametrize(
    ("family", "checkpoint"),
    [
        ("llava_1_5", llava),
        ("llava_1_5", llava_converted),
        ("llava_1_6_mistral", mistral),
        ("llama3_llava_next", llama3),
        ("qwen2_5_vl", qwen),
        ("qwen2_5_vl", first_qwen),
        ("gemma3", gemma),
    ],
)
def test_prompts_and_token_ids(family, checkpoint, tmp_path):
    folder = checkpoint(tmp_path)
    if not folder.is_dir():
        pytest.skip(f"no {folder.name} here")
    config, processor = load_outline(folder)
    assert FACTS[family]["prompts"].keys() == PROMPTS.keys()
    first = processor.tokenizer.bos_token or ""
    for name, messages in PROMPTS.items():
        expected = FACTS[family]["prompts"][name]
        with_pictures = [
            {**turn, "content": [part | {"picture": drawn(56, 56)} for part in turn["content"]]} for turn in messages
        ]
        text = shown(render(processor, with_pictures))
        assert text.removeprefix(first) == expected["prompt"].removeprefix(first), name
        batch = prepare(processor, [(0, with_pictures)])
        assert not batch.errors, name
        runs = groupby(batch.inputs["input_ids"][0].tolist(), lambda token: token == config.image_token_id)
        ids = [token for is_image, run in runs for token in ([-200] if is_image else run)]
        assert ids == expected["ids"], name


def image_processor(family: str, pad: bool):
    """The image processor with the settings of the released preprocessor_config.json or of LLaVA's code."""
    side = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
    if family == "llava_1_5":
        return image_processor_class("llava", "LlavaImageProcessor")(**side, do_pad=pad)
    if family == "qwen2_5_vl":
        bounds = {"min_pixels": 3136, "max_pixels": 12845056}
        return image_processor_class("qwen2_vl", "Qwen2VLImageProcessor")(**bounds)
    if family == "gemma3":
        return image_processor_class("gemma3", "Gemma3ImageProcessor")(size={"height": 896, "width": 896})
    grid = [[height, width] for width, height in GRID]
    return image_processor_class("llava_next", "LlavaNextImageProcessor")(**side, image_grid_pinpoints=grid)


@pytest.mark.parametrize(
    ("family", "which"), [(family, which) for family in FACTS for which in FACTS[family] if which.startswith("pixels")]
)
def test_pixels(family, which):
    """Of LLaVA-1.5 padded and cropped. Colours go from -2 to 2; a step of 255 is 0.02."""
    processor = image_processor(family, which == "pixels")
    facts = FACTS[family][which]
    assert [f"{width}x{height}" for width, height in SIZES] == list(facts)
    for (width, height), expected in zip(SIZES, facts.values(), strict=True):
        made = processor(images=[drawn(width, height)], return_tensors="pt")
        pixels = made["pixel_values"]
        if list(pixels.shape) != expected["shape"]:
            pixels = pixels[0]
        assert list(pixels.shape) == expected["shape"]
        flat = pixels.double().flatten()
        places = torch.linspace(0, flat.numel() - 1, 40, dtype=torch.float64).round().long()
        assert torch.allclose(flat[places], torch.tensor(expected["at"], dtype=torch.float64), atol=2e-2)
        assert (float(flat.mean()), float(flat.std(correction=0))) == pytest.approx(
            (expected["mean"], expected["std"]), abs=2e-3
        )
        if "grid" in expected:
            assert made["image_grid_thw"].tolist() == [expected["grid"]]
