"""What a script says about bad input: one line that names file, field and fix, and exit status 2."""

import argparse
import errno
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

LONGEST = 1000  # characters of a message: who gives a number of 5,000 digits need not read them again


class InputError(ValueError):
    """The user's input is wrong. The message is one line that names the file, the field and the fix."""

    def __init__(self, message: str) -> None:
        if len(message) > LONGEST:
            message = f"{message[: LONGEST * 2 // 3]}...{message[-LONGEST // 3 :]}"
        super().__init__(message)


class ArgumentParser(argparse.ArgumentParser):
    """argparse's parser, whose complaint about the command line is an InputError of one line, without the usage.

    Names and numbers are checked here for all commands: a name can be a file's, a number is in its option's range
    (models/ranges.py), and no file to write is also one to read. Written are
    the files of options that are called --output..., --per_row, --save_model_path, and those in `written`.
    """

    written: tuple[str, ...] = ()

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see --help)")

    def parse_known_args(self, args=None, namespace=None):
        from models.ranges import check_range  # which needs InputError from here

        words = sys.argv[1:] if args is None else list(args)
        for before, word in zip(["", *words], words, strict=False):
            # Of a shell's variable that is not set: what was meant is not known.
            if word == "" or (word.startswith("--") and word.endswith("=")):
                self.error(f"argument {word.rstrip('=') or before}: is empty; give a value, or omit the option")
        namespace, rest = super().parse_known_args(args, namespace)
        _check_names(vars(namespace), self.written)
        for option, value in vars(namespace).items():
            check_range(f"--{option}", option, value)
        return namespace, rest


def _check_names(values: dict[str, object], written: tuple[str, ...]) -> None:
    from models.names import check_apart, check_name  # which needs InputError from here

    inputs, outputs = {}, {}
    for option, value in values.items():
        names = [one for one in (value if isinstance(value, list | tuple) else [value]) if isinstance(one, str | Path)]
        if option in FREE_TEXT or not names:
            continue
        for name in map(str, names):
            check_name(name, f"--{option}")
        is_output = option in written or re.fullmatch("output(_.*)?|per_row|save_model_path", option)
        (outputs if is_output else inputs)[option] = [str(name) for name in names]
    for option in set(written) & outputs.keys():
        outputs[option] += [f"{name}.manifest.json" for name in outputs[option]]
    check_apart(inputs, outputs)


# Options that are no names and no words of ours.
FREE_TEXT = ("judge_command",)
# What a system says where there is no more room: of the disk, of a quota, of the size that a file may have.
FULL = tuple(getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name))
# What torch.save says where a write has failed; it does not say why.
TORCHS = ("PytorchStreamWriter failed writing", "inline_container.*unexpected pos", "basic_ios::clear: iostream error")
FULL_IN_WORDS = re.compile(
    "|".join([*map(os.strerror, FULL), *(rf"os error {number}\b" for number in FULL), *TORCHS]),
    re.IGNORECASE,
)


def is_full(error: BaseException | None) -> bool:
    """Whether an exception of the system, or of a library that hides it, says that there is no more room to write."""
    while error is not None:
        if getattr(error, "errno", None) in FULL or (
            not isinstance(error, InputError) and FULL_IN_WORDS.search(str(error))
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


def steady(reason: str) -> str:
    """A reason without addresses in memory, which no two runs share: the same command writes the same bytes."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", re.sub(r"\s*<_io\.BytesIO object at 0x[0-9a-fA-F]+>", "", reason))


def cannot_write(path: str | os.PathLike, error: BaseException, kept: str = "") -> InputError:
    """The InputError for what cannot be written; `kept`: what is safe, if that is to be said."""
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200] or type(error).__name__
    number = getattr(error, "errno", None)
    advice = "choose another path"
    if re.search("|".join(TORCHS), reason):
        reason = "torch could not write all of it"
    if is_full(error):
        advice = "free space, or choose another disk"
    elif number == errno.ENAMETOOLONG:
        advice = "give a shorter name"
    return InputError(f"{path}: cannot be written ({reason}); {f'{kept}; ' if kept else ''}{advice}")


def true_or_false(text: str) -> bool:
    """argparse's `type` of a flag that is followed by true or false."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def printable(text: str) -> str:
    """`text` in one line, with escapes for what a terminal would obey or a reader would not see."""
    from models.names import UNSEEN

    return UNSEEN.sub(lambda found: ascii(found[0])[1:-1], text)


def tell(error: InputError) -> None:
    """Write the one line on standard error, on a line of its own where progress is shown."""
    close_bars()
    sys.stderr.write(f"error: {printable(str(error))}\n")
    sys.stderr.flush()


def close_bars() -> None:
    """End all progress bars of this process, each with its line break."""
    for name in ("tqdm.std", "tqdm.asyncio", "tqdm.auto"):
        kind = getattr(sys.modules.get(name), "tqdm", None)
        for bar in list(getattr(kind, "_instances", ())):
            bar.close()


def ignore_interrupts(*_) -> None:
    """Of a worker process: Ctrl-C goes to all of them at once, and the first process ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def run_script(main: Callable[[], int | None]) -> NoReturn:
    """Run a script's `main` and exit with its status (None: 0).

    An `InputError` becomes one line on standard error and exit status 2, as argparse does for bad flags; so does a full
    disk, wherever it shows. Every other exception keeps its traceback: it is our bug, not the user's.
    """
    try:
        sys.exit(main())
    except InputError as error:
        tell(error)
        sys.exit(2)
    except KeyboardInterrupt:
        close_bars()
        sys.exit(130)
    except Exception as error:
        if not is_full(error):
            raise
        tell(cannot_write(getattr(error, "filename", None) or "a file", error))
        sys.exit(2)
