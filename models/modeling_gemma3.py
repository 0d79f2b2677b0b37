"""Gemma3 with balanced positions: the difference from transformers 5.17.0 `models/gemma3/modeling_gemma3.py`.

Only rotations change: images stay bidirectional within themselves and the sliding window counts tokens, as upstream.
Each crop of pan-and-scan is an image of its own.
"""

import torch
from huggingface_hub.dataclasses import strict
from transformers.models.gemma3 import configuration_gemma3 as configuration
from transformers.models.gemma3 import modeling_gemma3 as upstream

from models.balanced import BalancedGeneration, BalancedModel, packed_mask_arguments
from models.conversation import past_length


@strict
class Gemma3Config(configuration.Gemma3Config):
    """Upstream's config and the flag of config.json."""

    position_balance: bool = False


class Gemma3Model(BalancedModel, upstream.Gemma3Model):
    """Replaces upstream's inner model; every image has the same number of soft tokens (256 in Gemma3-12B)."""

    config_class = Gemma3Config

    def tokens_per_image(self) -> int:
        return self.config.mm_tokens_per_image

    def patch_tokens(self, pixel_values: torch.Tensor, **inputs) -> list[torch.LongTensor]:
        """For each picture (or crop), where the token of each patch is among its tokens: (rows, columns)."""
        side = round(self.tokens_per_image() ** 0.5)
        return [torch.arange(side**2).view(side, side)] * len(pixel_values)

    def balanced_inputs(self, inputs: dict) -> tuple[dict, torch.LongTensor | None]:
        types = whole_types(inputs.get("token_type_ids"), inputs.get("past_key_values"))
        inputs, following = super().balanced_inputs(inputs)
        return inputs | {"token_type_ids": types}, following

    def packed_mask(self, ordinary: torch.LongTensor, token_type_ids: torch.Tensor, **inputs) -> dict:
        images = upstream.get_block_sequence_ids_for_mask(token_type_ids)
        return upstream.create_masks_for_vision_model(
            block_sequence_ids=images, **packed_mask_arguments(self, ordinary)
        )


class Gemma3ForConditionalGeneration(BalancedGeneration, upstream.Gemma3ForConditionalGeneration):
    """Replaces upstream's class of the same name."""

    config_class = Gemma3Config
    inner_class = Gemma3Model

    @staticmethod
    def create_masks_for_generate(config, *args, token_type_ids=None, **kwargs) -> dict:
        """Masks of a step of generate with a static cache, which do not pass through the inner model."""
        if config.position_balance:
            token_type_ids = whole_types(token_type_ids, kwargs.get("past_key_values"))
        create = upstream.Gemma3ForConditionalGeneration.create_masks_for_generate
        return create(config, *args, token_type_ids=token_type_ids, **kwargs)


def whole_types(token_type_ids: torch.Tensor | None, past_key_values) -> torch.Tensor | None:
    """Token types of the tokens that come in, (batch, new) -> (batch, cached + new), 0 (text) for the cached ones.

    Upstream counts them from the cache's first token, which would lay a new image's mask over old text.
    """
    if token_type_ids is None:  # a step of decoding, which asks for the cache's length nowhere else
        return None
    cached = past_length(past_key_values)
    return torch.nn.functional.pad(token_type_ids, (cached, 0))
