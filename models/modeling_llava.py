"""LLaVA-1.5 with balanced positions: the difference from transformers 5.17.0 `models/llava/modeling_llava.py`."""

import torch
from huggingface_hub.dataclasses import strict
from transformers.models.llava import configuration_llava as configuration
from transformers.models.llava import modeling_llava as upstream

from models.balanced import BalancedGeneration, BalancedModel

# Tokens of a tower beside its patches.
CLS_TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0}


@strict
class LlavaConfig(configuration.LlavaConfig):
    """Upstream's config and the flag of config.json."""

    position_balance: bool = False


class LlavaModel(BalancedModel, upstream.LlavaModel):
    """Replaces upstream's inner model; every image has the same number of tokens."""

    config_class = LlavaConfig

    def tokens_per_image(self) -> int:
        return tokens_per_image(self.config)

    def patch_tokens(self, pixel_values: torch.Tensor, **inputs) -> list[torch.LongTensor]:
        """For each picture, where the token of each patch is among the picture's: (rows, columns)."""
        return [patch_tokens(self.config)] * len(pixel_values)


class LlavaForConditionalGeneration(BalancedGeneration, upstream.LlavaForConditionalGeneration):
    """Replaces upstream's class of the same name."""

    config_class = LlavaConfig
    inner_class = LlavaModel


def tokens_per_image(config) -> int:
    """Tokens of one view of a LLaVA or LLaVA-NeXT model (576 for CLIP ViT-L/14-336); ValueError for other towers."""
    vision = config.vision_config
    if vision.model_type not in CLS_TOKENS:
        raise ValueError(f"vision tower {vision.model_type!r} is not one of {', '.join(CLS_TOKENS)}")
    kept = 0 if config.vision_feature_select_strategy == "full" else -1
    return (vision.image_size // vision.patch_size) ** 2 + CLS_TOKENS[vision.model_type] + kept


def patch_tokens(config) -> torch.LongTensor:
    """Where the tokens of one view's patches are among the view's, (rows, columns): in raster order, after a CLS."""
    side = config.vision_config.image_size // config.vision_config.patch_size
    before = tokens_per_image(config) - side**2
    if before < 0:
        raise ValueError(
            f"vision_feature_select_strategy {config.vision_feature_select_strategy!r} drops the first patch of a "
            f"{config.vision_config.model_type}; its grid has a hole"
        )
    return torch.arange(side**2).view(side, side) + before
