"""Run a command and write what it took: `python -S eval/speed/usage.py FILE COMMAND...`.

A small process of its own, because Linux counts the parent's memory at the start into a child's peak.
"""

import os
import sys
import time


def main(output: str, command: list[str]) -> int:
    """Writes seconds and bytes at the peak of the largest process into the file `output`; returns the exit status."""
    start = time.perf_counter()
    pid = os.spawnv(os.P_NOWAIT, command[0], command)
    _, status, used = os.wait4(pid, 0)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes, of ru_maxrss
    with open(output, "w") as file:
        file.write(f"{time.perf_counter() - start} {used.ru_maxrss * unit}")
    return os.waitstatus_to_exitcode(status) % 256


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
