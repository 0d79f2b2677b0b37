"""What a script says about bad input: one line that names file, field and fix, and exit status 2."""

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn


class InputError(ValueError):
    """The user's input is wrong. The message is one line that names the file, the field and the fix."""


class ArgumentParser(argparse.ArgumentParser):
    """argparse's parser, whose complaint about the command line is an InputError of one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see --help)")


def true_or_false(text: str) -> bool:
    """argparse's `type` of a flag that is followed by true or false."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def tell(error: InputError) -> None:
    """Write the one line on standard error."""
    sys.stderr.write(f"error: {error}\n")
    sys.stderr.flush()


def run_script(main: Callable[[], int | None]) -> NoReturn:
    """Run a script's `main` and exit with its status (None: 0).

    An `InputError` becomes one line on standard error and exit status 2, as argparse does for bad flags. Every
    other exception keeps its traceback: it is our bug, not the user's.
    """
    try:
        sys.exit(main())
    except InputError as error:
        tell(error)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
