"""LLaVA-NeXT (LLaVA-v1.6-Mistral-7B, Llama3-LLaVA-NeXT-8B) with balanced positions: the difference from
transformers 5.17.0 `models/llava_next/modeling_llava_next.py`.

All tokens of one picture share one position: its base view, its tiles and the newline tokens between their rows.
"""

import torch
from huggingface_hub.dataclasses import strict
from transformers.models.llava_next import configuration_llava_next as configuration
from transformers.models.llava_next import modeling_llava_next as upstream

from models.balanced import BalancedGeneration, BalancedModel
from models.modeling_llava import patch_tokens, tokens_per_image
from models.positions import segment_ids


@strict
class LlavaNextConfig(configuration.LlavaNextConfig):
    """Upstream's config and the flag of config.json."""

    position_balance: bool = False


class LlavaNextModel(BalancedModel, upstream.LlavaNextModel):
    """Replaces upstream's inner model; the number of a picture's tokens follows from its size."""

    config_class = LlavaNextConfig
    views = ("base", "tiles")

    def tokens_per_image(self) -> int:
        return tokens_per_image(self.config)

    def image_ids(self, input_ids: torch.LongTensor, image_sizes: torch.Tensor | None = None) -> torch.LongTensor:
        is_image = input_ids == self.config.image_token_id
        return segment_ids(is_image, None if image_sizes is None else tokens_of_images(image_sizes, self.config))

    def require_all_images(self, input_ids: torch.LongTensor, image_sizes: torch.Tensor | None) -> None:
        tokens = int((input_ids == self.config.image_token_id).sum())
        known = 0 if image_sizes is None else int(tokens_of_images(image_sizes, self.config).sum())
        if tokens != known:
            raise ValueError(
                f"position_balance is on and image_sizes account for {known} of the conversation's {tokens} image "
                "tokens: pass generate the image_sizes of all its pictures (pixel_values only of new ones)"
            )

    def patch_tokens(self, image_sizes: torch.Tensor, view: str = "base", **inputs) -> list[torch.LongTensor]:
        """For each picture, where the token of each patch is among the picture's: (rows, columns).

        `view`: "base", the whole picture at low resolution, or "tiles", the canvas of its tiles as it is left after
        unpadding, without the newline tokens.
        """
        base = patch_tokens(self.config)
        if view == "base":
            return [base] * len(image_sizes)
        found = []
        for rows, columns in tile_patches(image_sizes, self.config):
            places = torch.arange(rows * (columns + 1)).view(rows, columns + 1)
            found.append(places[:, :-1] + tokens_per_image(self.config))
        return found

    def balanced_inputs(self, inputs: dict) -> tuple[dict, torch.LongTensor | None]:
        pixels, sizes = inputs.get("pixel_values"), inputs.get("image_sizes")
        if pixels is not None and sizes is not None and len(sizes) > len(pixels):
            inputs["image_sizes"] = sizes[-len(pixels) :]  # the others' features are in the cache
        return super().balanced_inputs(inputs)


class LlavaNextForConditionalGeneration(BalancedGeneration, upstream.LlavaNextForConditionalGeneration):
    """Replaces upstream's class of the same name."""

    config_class = LlavaNextConfig
    inner_class = LlavaNextModel


def tokens_of_images(image_sizes: torch.Tensor, config: LlavaNextConfig) -> torch.LongTensor:
    """Tokens of each picture: (images, 2) heights and widths in pixels -> (images,).

    Counts what upstream's `pack_image_features` builds: the base view, then the tiles cut back to the picture's
    aspect ratio with one newline for each row.
    """
    sizes = torch.as_tensor(image_sizes)
    lengths = [tokens_per_image(config) + rows * (columns + 1) for rows, columns in tile_patches(sizes, config)]
    return torch.tensor(lengths, dtype=torch.long, device=sizes.device)


def tile_patches(image_sizes: torch.Tensor, config: LlavaNextConfig) -> list[tuple[int, int]]:
    """Rows and columns of patches that are left of each picture's tiles, cut back to its aspect ratio."""
    side = config.vision_config.image_size // config.vision_config.patch_size
    found = []
    for height, width in torch.as_tensor(image_sizes).tolist():
        rows, columns = upstream.get_anyres_image_grid_shape(
            (height, width), config.image_grid_pinpoints, config.vision_config.image_size
        )
        # Zero-width features of the tiles' canvas: upstream's own rounding decides what is cut.
        canvas = torch.empty(0, rows * side, columns * side)
        _, kept_rows, kept_columns = upstream.unpad_image(canvas, (height, width)).shape
        found.append((kept_rows, kept_columns))
    return found
