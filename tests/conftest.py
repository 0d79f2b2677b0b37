"""Tiny checkpoints of every family, made once a session, and prompts with drawn pictures."""

import json
import os
import shutil

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that reaches for the hub is wrong

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image
from transformers import AutoTokenizer

from models import load_model
from models.tiny import ANSWERS, FAMILIES, build_tiny
from tests.probe_runs import run_here, write_probe

UPSTREAM = {
    "llava": transformers.LlavaForConditionalGeneration,
    "llava_next": transformers.LlavaNextForConditionalGeneration,
    "qwen2_5_vl": transformers.Qwen2_5_VLForConditionalGeneration,
    "gemma3": transformers.Gemma3ForConditionalGeneration,
}


@dataclass
class Kit:
    """A tiny checkpoint: its folder, the fork and upstream's class with the same weights, the processor."""

    family: str
    folder: Path
    fork: torch.nn.Module
    upstream: torch.nn.Module
    processor: object

    @property
    def image_token_id(self) -> int:
        return self.fork.config.image_token_id

    def with_flag(self, position_balance: bool) -> torch.nn.Module:
        self.fork.config.position_balance = position_balance
        return self.fork

    def text(self, *parts: str | Image.Image) -> str:
        """The prompt of one user turn; strings and pictures in their order."""
        content = [{"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in parts]
        messages = [{"role": "user", "content": content}]
        text = self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        # The LLaVA templates put a line break behind each picture; "adjacent" in a test means no token between.
        return text.replace("<image>\n<image>\n", "<image><image>\n")

    def inputs(self, *rows: tuple, padding_side: str = "left") -> dict[str, torch.Tensor]:
        """Processed prompts, one row of parts each."""
        pictures = [[part for part in row if not isinstance(part, str)] for row in rows]
        texts = [self.text(*row) for row in rows]
        images = pictures if any(pictures) else None
        return dict(
            self.processor(text=texts, images=images, padding=True, padding_side=padding_side, return_tensors="pt")
        )

    def image_lengths(self, *row) -> list[int]:
        """Tokens of each picture of a row, counted by processing it alone."""
        counts = []
        for part in row:
            if not isinstance(part, str):
                ids = self.inputs((part, "x"))["input_ids"]
                counts.append(int((ids == self.image_token_id).sum()))
        return counts

    def reference_positions(self, inputs: dict, rows: list[tuple]) -> torch.LongTensor:
        """Balanced positions by a plain walk over the tokens, (batch, seq): what the forks must reproduce."""
        positions = torch.zeros_like(inputs["input_ids"])
        for b, row in enumerate(rows):
            lengths = iter(self.image_lengths(*row))
            left, position = 0, -1  # tokens left in the current picture
            for s, token in enumerate(inputs["input_ids"][b].tolist()):
                if not inputs["attention_mask"][b, s]:
                    continue
                if token == self.image_token_id and left > 0:
                    left -= 1
                else:
                    position += 1
                    if token == self.image_token_id:
                        left = next(lengths) - 1
                positions[b, s] = position
            assert left == 0
            assert next(lengths, None) is None
        return positions

    def for_upstream(self, positions: torch.LongTensor) -> torch.LongTensor:
        """The same positions in the shape that upstream's class takes."""
        return positions.expand(3, -1, -1) if self.family == "qwen2_5_vl" else positions


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory) -> dict[str, Path]:
    """Family -> folder of its tiny checkpoint; tests must not write there."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {family: build_tiny(family, root / family) for family in FAMILIES}


@pytest.fixture(scope="session")
def kits(tiny_folders) -> dict[str, Kit]:
    made = {}
    for family, folder in tiny_folders.items():
        fork, processor = load_model(folder, position_balance=False, dtype="float32")
        upstream = UPSTREAM[fork.config.model_type].from_pretrained(folder, dtype="float32")
        made[family] = Kit(family, folder, fork, upstream.eval(), processor)
    return made


@pytest.fixture(params=FAMILIES)
def kit(request, kits) -> Kit:
    kit = kits[request.param]
    kit.with_flag(True)
    return kit


@pytest.fixture(scope="session")
def talkative_folders(tiny_folders, tmp_path_factory) -> dict[str, Path]:
    """The same checkpoints kept from saying Yes and No: their replies vary, so that one in a wrong place shows."""
    root = tmp_path_factory.mktemp("talkative")
    for family, folder in tiny_folders.items():
        settings_file = Path(shutil.copytree(folder, root / family)) / "generation_config.json"
        settings = json.loads(settings_file.read_text())
        words = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(list(ANSWERS))
        settings["suppress_tokens"] = [*settings["suppress_tokens"], *words]
        settings_file.write_text(json.dumps(settings))
    return {family: root / family for family in tiny_folders}


@pytest.fixture(scope="session")
def llava(talkative_folders) -> Path:
    return talkative_folders["llava"]


@pytest.fixture(scope="session")
def probe(tmp_path_factory) -> Path:
    """A small drawn probe; tests must not write there."""
    return write_probe(tmp_path_factory.mktemp("probe") / "probe")


@pytest.fixture(scope="session")
def unbroken(probe, llava, tmp_path_factory) -> Path:
    """The answers file of a run that nothing disturbed."""
    answers = tmp_path_factory.mktemp("unbroken") / "answers.jsonl"
    assert run_here(llava, probe, answers) == 0
    return answers


@pytest.fixture(scope="session")
def table_cache(tmp_path_factory):
    """Tables of the `datasets` library are converted into a folder that goes with the tests."""
    import datasets

    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")
    yield
    datasets.config.HF_DATASETS_CACHE = before
