"""Several samples in one row, without padding: positions start anew with each, attention does not cross between them.

What a packed row gives is what its samples give one by one; only where images are balanced could upstream's own way to
packing, positions that do not step by one, not say so (models/balanced.py).
"""

import torch
from torch.nn.utils.rnn import pad_sequence

# Token types beside `input_ids`; 0 is text.
TOKEN_TYPES = ("token_type_ids", "mm_token_type_ids")


def packed_inputs(model: torch.nn.Module, inputs: dict, lengths: list[int]) -> dict:
    """The arguments of a fork's forward for one packed row.

    Args:
        model: a fork (`...ForConditionalGeneration`), flag on or off.
        inputs: `input_ids` and token types (1, seq), and the tensors of all images in their order; no mask.
        lengths: tokens of each sample, in order; their sum is seq.

    Returns:
        `inputs` with `position_ids`, and with what keeps the samples apart: a mask (sdpa, eager), FlashAttention's
        `cu_seq_lens_*` arguments, or Qwen2.5-VL's fourth row of positions.
    """
    ids = inputs["input_ids"]
    if ids.shape[0] != 1 or ids.shape[1] != sum(lengths):
        raise ValueError(f"one row of {sum(lengths)} tokens is expected, input_ids is {tuple(ids.shape)}")
    inner = model.model
    rows = {
        name: pad_sequence(tensor[0].split(lengths), batch_first=True)
        if name in ("input_ids", *TOKEN_TYPES)
        else tensor
        for name, tensor in inputs.items()
    }
    in_row = torch.tensor(lengths, device=ids.device)
    real = torch.arange(max(lengths), device=ids.device) < in_row[:, None]
    position_ids = inner.prompt_position_ids(**rows, attention_mask=real.long())[..., real]
    ordinary = torch.cat([torch.arange(length, device=ids.device) for length in lengths])[None]
    if position_ids.ndim == 2:  # three rotary axes: a fourth row in front is what the mask is made from
        return inputs | {"position_ids": torch.cat([ordinary[None], position_ids[:, None]]), "use_cache": False}
    packed = inputs | {"position_ids": position_ids[None], "use_cache": False}
    if "flash" in model.config.get_text_config()._attn_implementation:
        ends = torch.nn.functional.pad(in_row.cumsum(0), (1, 0)).int()
        longest = max(lengths)
        return packed | {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}
    return packed | {"attention_mask": inner.packed_mask(ordinary, **inputs)}
