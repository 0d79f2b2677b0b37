"""Failures that lmms-eval cannot swallow."""

import contextlib
import sys
import traceback
from collections.abc import Iterator

from models.errors import InputError, tell


@contextlib.contextmanager
def loud() -> Iterator[None]:
    """End the process as this repository's scripts do: one line and status 2 for bad input, else a traceback.

    lmms-eval itself answers an exception with a traceback, and then with exit status 0 and no results; the other
    processes of such a run wait for hours.
    """
    try:
        yield
    except InputError as error:
        tell(error)
        sys.exit(2)
    except Exception:
        traceback.print_exc()
        sys.exit(1)
