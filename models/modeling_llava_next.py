"""LLaVA-NeXT (LLaVA-v1.6-Mistral-7B, Llama3-LLaVA-NeXT-8B) with balanced positions: the difference from
transformers 5.17.0 `models/llava_next/modeling_llava_next.py`.

All tokens of one picture share one position: its base view, its tiles and the newline tokens between their rows.
"""

import torch
from huggingface_hub.dataclasses import strict
from transformers.models.llava_next import configuration_llava_next as configuration
from transformers.models.llava_next import modeling_llava_next as upstream

from models.balanced import BalancedGeneration, BalancedModel
from models.positions import segment_ids


@strict
class LlavaNextConfig(configuration.LlavaNextConfig):
    """Upstream's config and the flag of config.json."""

    position_balance: bool = False


class LlavaNextModel(BalancedModel, upstream.LlavaNextModel):
    """Replaces upstream's inner model; the number of a picture's tokens follows from its size."""

    config_class = LlavaNextConfig

    def image_ids(self, input_ids: torch.LongTensor, image_sizes: torch.Tensor | None = None) -> torch.LongTensor:
        is_image = input_ids == self.config.image_token_id
        lengths = None if image_sizes is None else tokens_of_images(image_sizes, self.config)
        return segment_ids(is_image, lengths)


class LlavaNextForConditionalGeneration(BalancedGeneration, upstream.LlavaNextForConditionalGeneration):
    """Replaces upstream's class of the same name."""

    config_class = LlavaNextConfig
    inner_class = LlavaNextModel


def tokens_of_images(image_sizes: torch.Tensor, config: LlavaNextConfig) -> torch.LongTensor:
    """Tokens of each picture: (images, 2) heights and widths in pixels -> (images,).

    Counts what upstream's `pack_image_features` builds: the base view, then the tiles cut back to the picture's
    aspect ratio with one newline for each row.
    """
    vision = config.vision_config
    side = vision.image_size // vision.patch_size
    cls_token = 0 if config.vision_feature_select_strategy == "default" else 1
    lengths = []
    for height, width in torch.as_tensor(image_sizes).tolist():
        rows, columns = upstream.get_anyres_image_grid_shape(
            (height, width), config.image_grid_pinpoints, vision.image_size
        )
        # Zero-width features of the tiles' canvas: upstream's own rounding decides what is cut.
        canvas = torch.empty(0, rows * side, columns * side)
        _, kept_rows, kept_columns = upstream.unpad_image(canvas, (height, width)).shape
        lengths.append(side * side + cls_token + kept_rows * (kept_columns + 1))
    return torch.tensor(lengths, dtype=torch.long, device=image_sizes.device)
