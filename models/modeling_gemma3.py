"""Gemma3 with balanced positions: the difference from transformers 5.17.0 `models/gemma3/modeling_gemma3.py`.

Only rotations change: images stay bidirectional within themselves and the sliding window counts tokens, as upstream.
Each crop of pan-and-scan is an image of its own.
"""

import torch
from huggingface_hub.dataclasses import strict
from transformers.models.gemma3 import configuration_gemma3 as configuration
from transformers.models.gemma3 import modeling_gemma3 as upstream

from models.balanced import BalancedGeneration, BalancedModel, past_length


@strict
class Gemma3Config(configuration.Gemma3Config):
    """Upstream's config and the flag of config.json."""

    position_balance: bool = False


class Gemma3Model(BalancedModel, upstream.Gemma3Model):
    """Replaces upstream's inner model; every image has the same number of soft tokens (256 in Gemma3-12B)."""

    config_class = Gemma3Config

    def image_ids(self, input_ids: torch.LongTensor, image_sizes: torch.Tensor | None = None) -> torch.LongTensor:
        is_image = input_ids == self.config.image_token_id
        return is_image * ((is_image.cumsum(-1) - 1) // self.config.mm_tokens_per_image + 1)

    def forward(self, input_ids=None, pixel_values=None, *, token_type_ids=None, past_key_values=None, **kwargs):
        """Upstream's forward on balanced positions; `token_type_ids` are of the tokens that come in."""
        cached = past_length(past_key_values) if token_type_ids is not None else 0
        if self.config.position_balance and cached > 0:
            # Upstream counts them from the cache's first token, which would lay a new image's mask over old text.
            token_type_ids = torch.nn.functional.pad(token_type_ids, (cached, 0))
        kwargs |= {"token_type_ids": token_type_ids, "past_key_values": past_key_values}
        return super().forward(input_ids, pixel_values, **kwargs)


class Gemma3ForConditionalGeneration(BalancedGeneration, upstream.Gemma3ForConditionalGeneration):
    """Replaces upstream's class of the same name."""

    config_class = Gemma3Config
    inner_class = Gemma3Model
