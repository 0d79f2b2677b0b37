"""Tiny checkpoints that vLLM's attention on the CPU takes, whose replies vary; questions to ask of them."""

import json
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

from models import tiny
from tests.pictures import picture

# models/tiny.py has heads of 16; vLLM's CPU kernels begin at 32.
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1}
ROTARY = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]}}


def build(family: str, folder: Path, position_balance: bool | None = None) -> Path:
    """A checkpoint of `family` that never says Yes or No; `position_balance` None leaves the flag out."""
    own = ROTARY if family == "qwen2_5_vl" else {"head_dim": 32}
    plain = tiny.tokenizer_of_bytes

    def with_line_breaks(*arguments, **named):
        """vLLM looks Gemma's tokens of one to four line breaks up by name."""
        tokenizer = plain(*arguments, **named)
        tokenizer.add_tokens(["\n" * count for count in range(1, 5)])
        return tokenizer

    tokenizer = with_line_breaks if family == "gemma3" else plain
    with mock.patch.dict(tiny.TEXT, HEADS | own), mock.patch.object(tiny, "tokenizer_of_bytes", tokenizer):
        _, _, processor = tiny.PARTS[family]()
        tiny.build_tiny(family, folder)
    change(folder / "generation_config.json", suppress_tokens=silent(folder, processor))
    config = json.loads((folder / "config.json").read_text())
    config.pop("position_balance", None)
    if position_balance is not None:
        config["position_balance"] = position_balance
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def silent(folder: Path, processor) -> list[int]:
    """The tokens that the checkpoint shall never say: those it has already, and its two answers."""
    settings = json.loads((folder / "generation_config.json").read_text())
    return [*settings["suppress_tokens"], *processor.tokenizer.convert_tokens_to_ids(list(tiny.ANSWERS))]


def change(path: Path, **fields) -> None:
    """Set fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def questions() -> list[list[str | Image.Image]]:
    """Twenty turns of unequal lengths: texts and pictures, none, one or two, in their order."""
    sizes = [(56, 56), (90, 60), (60, 120), (120, 60), (28, 84)]
    asked = []
    for number in range(20):
        pictures = [picture(*sizes[(number + place) % 5], seed=10 * number + place) for place in range(number % 3)]
        text = "is it so? " * (1 + number * 7 % 5) + str(number)
        asked.append([text[:9], *pictures, text] if number % 4 == 1 else [*pictures, text])
    return asked


def turn(parts: list[str | Image.Image]) -> list[dict]:
    """One user turn in transformers' format, pictures as eval/items.py takes them open."""
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "picture": part}
        for part in parts
    ]
    return [{"role": "user", "content": content}]


def video(count: int = 6, size: tuple[int, int] = (56, 84)) -> tuple[np.ndarray, dict]:
    """Frames, (count, height, width, 3) uint8, and what a reader of videos says of them; `size` is width and height.

    Qwen2.5-VL's processor samples frames by that, unless it is told that they are sampled.
    """
    frames = np.stack([np.asarray(picture(*size, seed=number)) for number in range(count)])
    told = {"total_num_frames": count, "fps": 2.0, "duration": count / 2, "frames_indices": list(range(count))}
    return frames, told | {"video_backend": "opencv", "width": size[0], "height": size[1]}
