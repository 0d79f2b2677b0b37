"""The released geometries, without their weights: token counts and architectures of full size."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor

from models.load import FORKS
from models.modeling_llava import LlavaConfig, tokens_per_image
from models.modeling_llava_next import LlavaNextConfig, tokens_of_images
from train.geometry import GEOMETRIES

# Billions of parameters, as the model cards state them or their safetensors add up to.
BILLIONS = {
    "llava_1_5_7b": 7.06,
    "llava_1_6_mistral_7b": 7.57,
    "llama3_llava_next_8b": 8.36,
    "qwen2_5_vl_7b": 8.29,
    "qwen2_5_vl_32b": 33.45,
    "gemma3_12b": 12.19,
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_full_size_models_build(name):
    """Counted on the meta device."""
    model_type, values = GEOMETRIES[name]
    fork = FORKS[model_type]
    with torch.device("meta"):
        model = fork(fork.config_class(**values))
    assert sum(weight.numel() for weight in model.parameters()) / 1e9 == pytest.approx(BILLIONS[name], abs=0.02)


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
