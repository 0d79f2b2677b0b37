"""Qwen2.5-VL with balanced positions: the difference from transformers 5.17.0
`models/qwen2_5_vl/modeling_qwen2_5_vl.py`.

All three rotary axes get the same position. A video's frames keep their order: the tokens of one temporal patch share
one position, and the next patch gets the next.
"""

import torch
from huggingface_hub.dataclasses import strict
from transformers.generation.utils import GenerationMixin
from transformers.models.qwen2_5_vl import configuration_qwen2_5_vl as configuration
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as upstream

from models.balanced import Fork, Inner, balanced_forward, conversation_ids
from models.conversation import next_position_ids, past_length, placeholder_ids
from models.positions import balanced_position_ids, segment_ids


@strict
class Qwen2_5_VLConfig(configuration.Qwen2_5_VLConfig):
    """Upstream's config and the flag of config.json."""

    position_balance: bool = False


class Qwen2_5_VLModel(Inner, upstream.Qwen2_5_VLModel):
    """Replaces upstream's inner model: `get_rope_index` and when it is asked."""

    config_class = Qwen2_5_VLConfig

    def image_ids(
        self, input_ids: torch.LongTensor, video_grid_thw: torch.LongTensor | None = None
    ) -> torch.LongTensor:
        """Number each token's image or temporal patch of a video, 0 for text: (batch, seq) -> (batch, seq).

        `video_grid_thw` is (videos, 3). Images need no grid: each stands between two vision markers.
        """
        images = segment_ids(input_ids == self.config.image_token_id)
        if video_grid_thw is None:
            return images
        is_video = input_ids == self.config.video_token_id
        temporal, height, width = video_grid_thw.to(input_ids.device).unbind(-1)
        patch_tokens = height * width // self.config.vision_config.spatial_merge_size**2
        patches = segment_ids(is_video, patch_tokens.repeat_interleave(temporal))
        return images - patches  # negative numbers for videos: never equal to an image's

    def patch_tokens(self, image_grid_thw: torch.LongTensor, **inputs) -> list[torch.LongTensor]:
        """For each picture, where the token of each (merged) patch is among the picture's: (rows, columns)."""
        merged = self.config.vision_config.spatial_merge_size
        grids = [(height // merged, width // merged) for _, height, width in image_grid_thw.tolist()]
        return [torch.arange(rows * columns).view(rows, columns) for rows, columns in grids]

    def grid_inputs(self, rows: int, columns: int) -> dict[str, torch.Tensor]:
        """What positions need to know of a picture of (rows, columns) merged patches, beside its tokens."""
        merged = self.config.vision_config.spatial_merge_size
        return {"image_grid_thw": torch.tensor([[1, rows * merged, columns * merged]])}

    def get_rope_index(
        self, input_ids, mm_token_type_ids=None, image_grid_thw=None, video_grid_thw=None, **kwargs
    ) -> tuple[torch.LongTensor, torch.LongTensor]:
        """Positions (3, batch, seq) and for each row what is to be added to a token's index after it, (batch, 1)."""
        if not self.config.position_balance:
            return super().get_rope_index(input_ids, mm_token_type_ids, image_grid_thw, video_grid_thw, **kwargs)
        attention_mask = kwargs.get("attention_mask")
        positions = balanced_position_ids(self.image_ids(input_ids, video_grid_thw), attention_mask)
        tokens = input_ids.shape[1] if attention_mask is None else attention_mask.sum(-1, keepdim=True)
        deltas = positions.amax(-1, keepdim=True) + 1 - tokens
        return positions.expand(3, -1, -1), deltas

    def prompt_position_ids(self, input_ids: torch.LongTensor, attention_mask: torch.Tensor, **inputs) -> torch.Tensor:
        """Positions of whole prompts, flag on or off: (batch, seq) -> (3, batch, seq); padding on the right."""
        names = ("mm_token_type_ids", "image_grid_thw", "video_grid_thw", "second_per_grid_ts")
        visual = {name: inputs.get(name) for name in names}
        return self.get_rope_index(input_ids, attention_mask=attention_mask, **visual)[0]

    def balanced_inputs(self, inputs: dict) -> tuple[dict, torch.LongTensor | None]:
        """forward's arguments by name with positions (3, batch, seq), and the position that comes next, (batch, 1).

        None in place of the latter if the caller brought positions along, which stay as they are.
        """
        if inputs.get("position_ids") is not None:
            return inputs, None
        tokens = self.config.image_token_id, self.config.video_token_id
        image_ids = self.image_ids(placeholder_ids(self, inputs, *tokens), inputs.get("video_grid_thw"))
        given = inputs.get("attention_mask"), inputs.get("past_key_values")
        positions, following = next_position_ids(image_ids, *given)
        return inputs | {"position_ids": positions.expand(3, -1, -1)}, following

    forward = balanced_forward(upstream.Qwen2_5_VLModel.forward)


class Qwen2_5_VLForConditionalGeneration(Fork, upstream.Qwen2_5_VLForConditionalGeneration):
    """Replaces upstream's class of the same name."""

    config_class = Qwen2_5_VLConfig
    inner_class = Qwen2_5_VLModel
    tower_name = "visual"
    projector_name = "visual.merger"

    def _prepare_position_ids_for_generation(self, inputs_tensor, model_kwargs):
        """Ordinary positions (for masks) above the three rotary axes: (4, batch, seq), as upstream lays them out.

        Upstream continues a conversation from the offset of the last call, whatever it was; here the whole
        conversation's positions are computed anew.
        """
        if not self.config.position_balance:
            return super()._prepare_position_ids_for_generation(inputs_tensor, model_kwargs)
        ordinary = GenerationMixin._prepare_position_ids_for_generation(self, inputs_tensor, model_kwargs)
        input_ids = conversation_ids(inputs_tensor, model_kwargs)
        grid = model_kwargs.get("video_grid_thw")
        if past_length(model_kwargs.get("past_key_values")) > 0:
            grid = self._grid_of_conversation(input_ids, grid)
        positions, _ = self.model.get_rope_index(
            input_ids, video_grid_thw=grid, attention_mask=model_kwargs.get("attention_mask")
        )
        return torch.cat([ordinary.expand(1, *input_ids.shape), positions])

    def _grid_of_conversation(self, input_ids, video_grid_thw):
        """`video_grid_thw`, or ValueError if it misses a video that came before the filled cache."""
        in_prompt = int((input_ids == self.config.video_token_id).sum())
        merged = self.config.vision_config.spatial_merge_size**2
        in_grid = 0 if video_grid_thw is None else int(video_grid_thw.prod(-1).sum()) // merged
        if in_prompt != in_grid:
            raise ValueError(
                f"position_balance is on and the conversation has {in_prompt} video tokens, video_grid_thw {in_grid}: "
                "a conversation with a video cannot go on from a cache; pass all of it, without past_key_values"
            )
        return video_grid_thw
