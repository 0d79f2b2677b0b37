"""What numbers on a command line, or in a recipe, may be, whichever command takes them."""

import math

from models.errors import InputError

LARGEST_SEED = 2**32 - 1  # numpy's
LARGEST_SIDE = 65_500  # px, of a JPEG
MANY = 2**31 - 1
# Option -> smallest and largest value. Commands that know more of an option say more.
RANGES = {
    "seed": (0, LARGEST_SEED),
    "bootstrap": (0, 1_000_000),  # of more, the intervals' ends do not move, and memory runs out
    "data_weights": (0, 10_000),
    "examples": (0, 1000),
    "reserved_gb": (0, 1000),
    "learning_rate": (0, 1000),
    "projector_learning_rate": (0, 1000),
    "weight_decay": (0, 1000),
    "max_grad_norm": (0, 1e9),
    "lora_rank": (0, 65_536),
    "rope_theta": (1, 1e12),
    **dict.fromkeys(("workers",), (0, 4096)),
    **dict.fromkeys(("num_workers",), (0, 4096)),
    **dict.fromkeys(("min_side", "mask_size", "image_size"), (0, LARGEST_SIDE)),
    **dict.fromkeys(("sizes", "image_sizes", "patch_size"), (0, LARGEST_SIDE)),
    **dict.fromkeys(("hidden_size", "layers", "heads", "vocab_size"), (0, 2**24)),
    **dict.fromkeys(("max_new_tokens", "cutoff_len"), (0, 2**24)),
}


def check_range(where: str, option: str, value: object) -> None:
    """Raise InputError, starting with `where`, for a number (or one of a list) that option `option` cannot have."""
    low, high = RANGES.get(option, (-math.inf, MANY))
    for one in value if isinstance(value, list | tuple) else [value]:
        if isinstance(one, bool) or not isinstance(one, int | float):
            continue
        if not math.isfinite(one):
            raise InputError(f"{where} is {one}; a finite number is expected")
        if one < low:
            raise InputError(f"{where} is {str(one)[:40]}; {low} or more is expected")
        if one > high:
            raise InputError(f"{where} is {str(one)[:40]}; {high} or less is expected")
