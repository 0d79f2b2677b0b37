"""vLLM's models of the zoo with balanced positions; models/vllm_plugin.py puts them in where config.json says so.

vLLM computes positions in its model runner, not in the model, and asks a model for them only if it rotates in several
axes (M-RoPE). So all of these declare that they do. The families with one axis hand the first of three equal rows on to
their language model. Masks, pictures, weights and adapters are vLLM's own: its caches and masks go by the index of a
token, never by its position.
"""

import torch
from vllm.model_executor.models import gemma3_mm, llava, llava_next, qwen2_5_vl
from vllm.model_executor.models.interfaces import SupportsMRoPE

from models.vllm_positions import request_positions, video_spans

AXES = 3  # of vLLM's M-RoPE: time, height, width


class Balanced:
    """Mixin: positions of a request at its start; chunks of the prompt are cut from them, decoding goes on from them.

    Stands before vLLM's class. It is no SupportsMRoPE itself: a Protocol before the model would take over __init__.
    """

    def get_mrope_input_positions(self, input_tokens: list[int], mm_features: list) -> tuple[torch.LongTensor, int]:
        """(axes, tokens) positions of the prompt, all axes alike, and what decoding adds to a token's index."""
        spans = [span for feature in mm_features for span in self.feature_spans(feature)]
        positions, delta = request_positions(len(input_tokens), spans)
        return positions.expand(AXES, -1).contiguous(), delta

    def feature_spans(self, feature) -> list[tuple[int, int]]:
        """The spans of one picture's tokens that share a position: all of them, tiles and newlines included."""
        place = feature.mm_position
        if place.is_embed is not None and not bool(place.is_embed.all()):
            raise ValueError(f"position_balance is on: text among the tokens of a picture of {type(self).__name__}")
        return [(place.offset, place.offset + place.length)]


class OneAxis(Balanced):
    """Mixin for the families with one rotary axis."""

    def forward(self, input_ids, positions, intermediate_tensors=None, inputs_embeds=None, **kwargs):
        """vLLM's forward on the first row of the (axes, tokens) positions, which are all alike."""
        assert positions.ndim == 2, "the model runner gives positions of its own: position_balance would be off"
        return super().forward(input_ids, positions[0], intermediate_tensors, inputs_embeds, **kwargs)


class BalancedLlava(OneAxis, llava.LlavaForConditionalGeneration, SupportsMRoPE):
    """LLaVA-1.5."""


class BalancedLlavaNext(OneAxis, llava_next.LlavaNextForConditionalGeneration, SupportsMRoPE):
    """LLaVA-NeXT with any language model."""


class BalancedGemma3(OneAxis, gemma3_mm.Gemma3ForConditionalGeneration, SupportsMRoPE):
    """Gemma3; each crop of pan-and-scan is an image of its own, with text between them."""

    def feature_spans(self, feature) -> list[tuple[int, int]]:
        return [(first, last + 1) for first, last in feature.mm_position.extract_embeds_range()]


class BalancedQwen2_5_VL(Balanced, qwen2_5_vl.Qwen2_5_VLForConditionalGeneration):
    """Qwen2.5-VL; of a video each temporal patch has its own position."""

    def feature_spans(self, feature) -> list[tuple[int, int]]:
        if feature.modality != "video":
            return super().feature_spans(feature)
        place = feature.mm_position
        return video_spans(place.offset, place.length, int(feature.data["video_grid_thw"].data[0]))
