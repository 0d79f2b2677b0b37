"""What a benchmark asks with: the user's turn, and the wordings that there are."""

import argparse
from collections.abc import Mapping


def user_turn(pictures: list[dict], text: str) -> list[dict]:
    """The chat messages of one question: its pictures (image parts), then its text."""
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": text}]}]


def add_prompt(parser: argparse.ArgumentParser, wordings: Mapping[str, str], default: str = "official") -> None:
    """--prompt: whose wording; `wordings` has the names, each with what it does in words."""
    told = "; ".join(f"{name}: {what}" for name, what in wordings.items())
    parser.add_argument("--prompt", choices=wordings, default=default, help=f"{told} (default: %(default)s)")
