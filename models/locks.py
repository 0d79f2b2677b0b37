"""Locks on files, which end with the process that holds them, however it ends."""

import os
from contextlib import suppress
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None


def try_lock(file: IO) -> bool:
    """Lock an open, writable file for this process until it closes it or ends; False if another process holds it.

    A file system or a platform without locks keeps nobody out.
    """
    if fcntl is None:
        return True
    try:
        # lockf, not flock: child processes must not inherit the lock and outlive a killed run with it.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        pass
    return True


def is_same(file: IO, path: Path) -> bool:
    """Whether an open file is still the one at `path`."""
    with suppress(OSError):
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    return False
