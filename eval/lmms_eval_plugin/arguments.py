"""What `--model_args` may say to model `bapa`."""

import argparse
import difflib
from collections.abc import Callable
from typing import Any

from eval.arguments import DTYPES, auto_or_count, count, device_name
from models.errors import InputError, true_or_false


def one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    """A reader of one of these words."""

    def read(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(choices)}")
        return text

    return read


# Name -> (what reads its text, value where it is not given); as the flags of eval/probe.py but for the first.
ARGUMENTS: dict[str, tuple[Callable[[str], Any], Any]] = {
    "pretrained": (str, None),
    "position_balance": (true_or_false, None),
    "batch_size": (auto_or_count, 1),
    "device": (device_name, "auto"),
    "dtype": (one_of(DTYPES), "auto"),
    "attn_implementation": (str, None),
    "max_new_tokens": (count, 128),
    "min_pixels": (count, None),
    "max_pixels": (count, None),
    "image_aspect_ratio": (one_of(("pad", "crop")), None),
}


def read_arguments(given: dict[str, Any]) -> argparse.Namespace:
    """All of ARGUMENTS, from those given, as lmms-eval has parsed them (`true` to True, `8` to 8); None: not given.

    `max_new_tokens` is for tasks that name none. Raises InputError for an unknown name, a bad value, or no
    `pretrained`.
    """
    settings = {name: default for name, (_, default) in ARGUMENTS.items()}
    for name, value in given.items():
        if name not in ARGUMENTS:
            near = difflib.get_close_matches(name, ARGUMENTS, 1)
            advice = f"did you mean {near[0]}?" if near else f"known are {', '.join(ARGUMENTS)}"
            raise InputError(f"--model_args {name}: model bapa takes no such argument; {advice}")
        if value is None:
            continue
        read, _ = ARGUMENTS[name]
        try:
            settings[name] = read(str(value))
        except argparse.ArgumentTypeError as error:
            raise InputError(f"--model_args {name}: {error}") from None
    if not settings["pretrained"]:
        raise InputError("--model_args: no pretrained; write --model_args pretrained=<checkpoint's folder or hub id>")
    return argparse.Namespace(**settings)
