"""The released geometries, without their weights: token counts and architectures of full size."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor

from models.load import FORKS
from models.modeling_gemma3 import Gemma3Config, Gemma3ForConditionalGeneration
from models.modeling_llava import LlavaConfig, LlavaForConditionalGeneration, tokens_per_image
from models.modeling_llava_next import LlavaNextConfig, LlavaNextForConditionalGeneration, tokens_of_images
from models.modeling_qwen2_5_vl import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

MISTRAL = {
    "model_type": "mistral",
    "vocab_size": 32064,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
}
QWEN_7B = {
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
}
QWEN_VISION = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584}
GEMMA_12B = {
    "vocab_size": 262208,
    "hidden_size": 3840,
    "intermediate_size": 15360,
    "num_hidden_layers": 48,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 256,
}
SIGLIP_SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 896,
    "patch_size": 14,
}


@pytest.mark.parametrize(
    ("fork", "config", "billions"),
    [
        (LlavaForConditionalGeneration, LlavaConfig(), 7.06),
        (LlavaNextForConditionalGeneration, LlavaNextConfig(text_config=MISTRAL), 7.57),
        (Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLConfig(text_config=QWEN_7B, vision_config=QWEN_VISION), 8.29),
        (Gemma3ForConditionalGeneration, Gemma3Config(text_config=GEMMA_12B, vision_config=SIGLIP_SO400M), 12.19),
    ],
)
def test_full_size_models_build(fork, config, billions):
    """Parameters as the model cards state them, counted on the meta device."""
    with torch.device("meta"):
        model = fork(config)
    assert sum(weight.numel() for weight in model.parameters()) / 1e9 == pytest.approx(billions, abs=0.02)


def test_llava_1_5_has_576_tokens_to_an_image():
    assert tokens_per_image(LlavaConfig()) == 576


def test_any_resolution_counts_are_the_processors():
    """A thousand sizes on LLaVA-v1.6's own grid: our count is upstream's, picture by picture."""
    config = LlavaNextConfig()
    images = LlavaNextImageProcessorPil(image_grid_pinpoints=config.image_grid_pinpoints)
    processor = LlavaNextProcessor.__new__(LlavaNextProcessor)
    processor.image_processor, processor.patch_size, processor.num_additional_image_tokens = images, 14, 0
    rng = np.random.default_rng(0)
    sizes = np.exp(rng.uniform(np.log(8), np.log(4000), (1000, 2))).astype(int).tolist()
    expected = [processor._get_number_of_features(height, width, 336, 336) for height, width in sizes]
    assert tokens_of_images(torch.tensor(sizes), config).tolist() == expected
    assert tokens_of_images(torch.tensor([[840, 840]]), config).tolist() == [576 + 48 * 49]


def test_every_released_checkpoint_has_a_config():
    files = sorted(Path("configs/models").glob("*.json"))
    assert len(files) == 6
    for file in files:
        entry = json.loads(file.read_text())
        assert set(entry) == {"name", "hub_id", "same_weights", "model_type", "dtype", "edit"}
        assert entry["model_type"] in FORKS
        assert isinstance(getattr(torch, entry["dtype"]), torch.dtype)
        assert entry["edit"] == {"config.json": {"position_balance": True}}
