"""Where a conversation goes on, for loops that call `forward` themselves and pass no positions.

`generate` carries positions in its own arguments. A hand-written loop has only the cache, so the position that comes
next is kept there, beside the keys and values that it belongs to; modules keep nothing between two forwards. A cache
that `forward` did not fill with balanced positions of its own (PEFT's prefix tuning, a cropped one) has no such note.
"""

import torch
from transformers.cache_utils import Cache

from models.positions import balanced_position_ids

NOTE = "balanced_continuation"
UNKNOWN = (
    "position_balance is on and the images' places are not known: pass `input_ids` of the whole prompt with a "
    "(batch, seq) attention mask and no filled cache, or go on from a cache that such a call has filled, or pass "
    "`position_ids` (PEFT drops them: its prefix tuning works in generate only, other prompt learning with images only)"
)


def past_length(past_key_values: Cache | None) -> int:
    """Tokens that the cache holds (0 without a cache)."""
    return 0 if past_key_values is None else int(past_key_values.get_seq_length())


def placeholder_ids(inner: torch.nn.Module, inputs: dict, *tokens: int) -> torch.LongTensor:
    """Token ids (batch, seq) of forward's arguments; of embeddings, those of `tokens`, and -1 for all others.

    Upstream finds the images' places in embeddings in the same way (`get_placeholder_mask`). Raises ValueError if there
    are neither ids nor images to place: the embeddings could hold images that somebody has put in already.
    """
    if inputs.get("input_ids") is not None:
        return inputs["input_ids"]
    embeddings = inputs.get("inputs_embeds")
    if embeddings is None or all(inputs.get(name) is None for name in ("pixel_values", "pixel_values_videos")):
        raise ValueError(UNKNOWN)
    ids = torch.full(embeddings.shape[:2], -1, dtype=torch.long, device=embeddings.device)
    for token in tokens:
        wanted = inner.get_input_embeddings()(torch.tensor(token, device=embeddings.device))
        ids = ids.masked_fill((embeddings == wanted).all(-1), token)
    return ids


def next_position_ids(image_ids: torch.LongTensor, attention_mask, past_key_values: Cache | None):
    """Positions of the tokens that come in, behind those that the cache holds.

    Args:
        image_ids: (batch, new), numbers of the incoming tokens' images (0: text), as `balanced_position_ids` takes it.
        attention_mask: (batch, past + new) or None: no padding.
        past_key_values: the cache; what it holds must have come through this function.

    Returns:
        LongTensor (batch, new), and the position that comes behind them, (batch, 1).

    Raises:
        ValueError: the mask is not 2-D, or the cache holds tokens whose positions are not known.
    """
    if attention_mask is not None and not (isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2):
        raise ValueError(UNKNOWN)
    batch, new = image_ids.shape
    mask = None if attention_mask is None else attention_mask[:, -new:]
    positions = balanced_position_ids(image_ids, mask)
    taken = positions.amax(-1, keepdim=True) + 1
    if mask is not None:
        taken = taken.where(mask.bool().any(-1, keepdim=True), 0)
    tokens = past_length(past_key_values)
    if tokens == 0:
        return positions, taken
    noted_tokens, start = getattr(past_key_values, NOTE, None) or (None, None)
    if noted_tokens != tokens or len(start) != batch:
        raise ValueError(UNKNOWN)
    return positions + start, start + taken


def note_next(output, following: torch.LongTensor | None) -> None:
    """Keep with the cache in forward's `output` the position that comes next, (batch, 1); None: it is not known."""
    found = [output.get("past_key_values")] if hasattr(output, "get") else output
    for cache in found:
        if isinstance(cache, Cache) and (following is not None or getattr(cache, NOTE, None) is not None):
            setattr(cache, NOTE, None if following is None else (past_length(cache), following))
