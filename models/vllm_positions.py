"""Balanced positions of one request, from the spans of tokens that vLLM reports for its pictures."""

import torch

from models.positions import balanced_position_ids


def request_positions(length: int, spans: list[tuple[int, int]]) -> tuple[torch.LongTensor, int]:
    """Rotary positions of a prompt of `length` tokens, by the rule of models/positions.py.

    Args:
        length: tokens of the prompt, placeholders of pictures included.
        spans: (first, end) of the tokens that share a position, `end` excluded: one for each picture, and for each
            temporal patch of a video. They do not overlap; their order does not matter.

    Returns:
        Positions (length,), and what is to be added to the index of a token after the prompt to have its position.
    """
    image_ids = torch.zeros(1, length, dtype=torch.long)
    for number, (first, end) in enumerate(spans, start=1):
        image_ids[0, first:end] = number
    positions = balanced_position_ids(image_ids)[0]
    delta = int(positions[-1]) + 1 - length if length else 0
    return positions, delta


def video_spans(first: int, length: int, temporal_patches: int) -> list[tuple[int, int]]:
    """The spans of a video's temporal patches, whose tokens are the `length` from `first` on; ValueError if uneven."""
    if length % temporal_patches:
        raise ValueError(
            f"position_balance is on: {length} tokens of a video are not {temporal_patches} temporal patches of one "
            "size; leave out whatever prunes videos (--video-pruning-rate)"
        )
    size = length // temporal_patches
    return [(first + place, first + place + size) for place in range(0, length, size)]
