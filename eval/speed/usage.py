"""Run a command and write what it took: `python -S eval/speed/usage.py FILE COMMAND...`.

A small process of its own, because Linux counts the parent's memory at the start into a child's peak.
"""

import os
import sys
import time

start = time.perf_counter()
pid = os.spawnv(os.P_NOWAIT, sys.argv[2], sys.argv[2:])
_, status, used = os.wait4(pid, 0)
unit = 1 if sys.platform == "darwin" else 1024  # bytes, of ru_maxrss
with open(sys.argv[1], "w") as file:
    file.write(f"{time.perf_counter() - start} {used.ru_maxrss * unit}")
sys.exit(os.waitstatus_to_exitcode(status) % 256)
