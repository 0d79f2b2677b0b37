"""LLaVA-1.5 with balanced positions: the difference from transformers 5.17.0 `models/llava/modeling_llava.py`."""

import torch
from huggingface_hub.dataclasses import strict
from transformers.models.llava import configuration_llava as configuration
from transformers.models.llava import modeling_llava as upstream

from models.balanced import BalancedGeneration, BalancedModel


@strict
class LlavaConfig(configuration.LlavaConfig):
    """Upstream's config and the flag of config.json."""

    position_balance: bool = False


class LlavaModel(BalancedModel, upstream.LlavaModel):
    """Replaces upstream's inner model; every image has the same number of tokens."""

    config_class = LlavaConfig

    def image_ids(self, input_ids: torch.LongTensor, image_sizes: torch.Tensor | None = None) -> torch.LongTensor:
        is_image = input_ids == self.config.image_token_id
        return is_image * ((is_image.cumsum(-1) - 1) // tokens_per_image(self.config) + 1)


class LlavaForConditionalGeneration(BalancedGeneration, upstream.LlavaForConditionalGeneration):
    """Replaces upstream's class of the same name."""

    config_class = LlavaConfig
    inner_class = LlavaModel


def tokens_per_image(config: LlavaConfig) -> int:
    """Patches of the vision tower (576 for CLIP ViT-L/14-336), and its CLS token if that is kept."""
    vision = config.vision_config
    cls_token = 1 if vision.model_type == "clip_vision_model" else 0
    dropped = 1 if config.vision_feature_select_strategy == "default" else 0
    return (vision.image_size // vision.patch_size) ** 2 + cls_token - dropped
