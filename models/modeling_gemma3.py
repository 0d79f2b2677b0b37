"""Gemma3 with balanced positions: the difference from transformers 5.17.0 `models/gemma3/modeling_gemma3.py`.

Only rotations change: images stay bidirectional within themselves and the sliding window counts tokens, as upstream.
"""

import torch
from huggingface_hub.dataclasses import strict
from transformers.models.gemma3 import configuration_gemma3 as configuration
from transformers.models.gemma3 import modeling_gemma3 as upstream

from models.balanced import BalancedGeneration, BalancedModel


@strict
class Gemma3Config(configuration.Gemma3Config):
    """Upstream's config and the flag of config.json."""

    position_balance: bool = False


class Gemma3Model(BalancedModel, upstream.Gemma3Model):
    """Replaces upstream's inner model; every image, or crop of pan-and-scan, has 256 soft tokens in Gemma3-12B."""

    config_class = Gemma3Config

    def image_ids(self, input_ids: torch.LongTensor, image_sizes: torch.Tensor | None = None) -> torch.LongTensor:
        is_image = input_ids == self.config.image_token_id
        return is_image * ((is_image.cumsum(-1) - 1) // self.config.mm_tokens_per_image + 1)


class Gemma3ForConditionalGeneration(BalancedGeneration, upstream.Gemma3ForConditionalGeneration):
    """Replaces upstream's class of the same name."""

    config_class = Gemma3Config
    inner_class = Gemma3Model
