"""Several processes that share one run, one GPU each, and speak with one voice."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from models.errors import InputError, tell


class Processes:
    """The processes of a run, as torchrun and accelerate launch tell each by its environment."""

    def __init__(self):
        self.count = _environment_number("WORLD_SIZE", 1)
        missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if self.count > 1 and missing:
            raise InputError(
                f"WORLD_SIZE is {self.count}, but {', '.join(missing)} is not set; start with torchrun, or unset it"
            )
        several = self.count > 1
        self.rank = _environment_number("RANK", 0) if several else 0
        self.local_rank = _environment_number("LOCAL_RANK", 0) if several else 0
        self.local_count = _environment_number("LOCAL_WORLD_SIZE", 1) if several else 1

    @contextlib.contextmanager
    def joined(self, backend: str = "gloo") -> Iterator[None]:
        """Connected to each other. They wait for the slowest for days; torchrun ends all when one fails."""
        if self.count == 1:
            yield
            return
        import torch.distributed

        torch.distributed.init_process_group(backend, timeout=timedelta(days=7))
        try:
            yield
        finally:
            torch.distributed.destroy_process_group()

    def by_first(self, function: Callable[[], Any]) -> Any:
        """What `function` returns in process 0, in all processes. Its InputError ends all, told once."""
        outcome = self.by_each(function if self.rank == 0 else lambda: None)
        if self.count > 1:
            import torch.distributed

            outcomes = [outcome]
            torch.distributed.broadcast_object_list(outcomes, src=0)
            outcome = outcomes[0]
        return outcome

    def by_each(self, function: Callable[[], Any]) -> Any:
        """What `function` returns here, once all processes have called it. An InputError of any ends all, told once."""
        if self.count == 1:
            return function()
        outcome, error = None, None
        try:
            outcome = function()
        except InputError as caught:
            error = caught
        errors = self.gather(error)
        first = next((rank for rank, error in enumerate(errors) if error is not None), None)
        if first is None:
            return outcome
        if self.rank == 0:
            tell(errors[0] or InputError(f"process {first + 1} of {self.count}: {errors[first]}"))
        # The launcher kills the others once one has gone.
        self.wait()
        sys.exit(2)

    def gather(self, value: Any) -> list:
        """The values of all processes, in all processes."""
        values = [value] * self.count
        if self.count > 1:
            import torch.distributed

            torch.distributed.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Return once all processes have come here."""
        if self.count > 1:
            import torch.distributed

            torch.distributed.barrier()


def _environment_number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise InputError(f"the environment variable {name} is {text!r}, not a whole number; unset it")
    return int(text)
