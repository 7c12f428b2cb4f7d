"""The job this process belongs to: how many processes a launcher started, and how a scheduler stops them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPPED = 128 + signal.SIGTERM
"""Exit code of a process that was stopped by SIGTERM, as a scheduler stops it."""


class JobError(ValueError):
    """What the launcher says of its job does not fit."""


def alone() -> bool:
    """Whether this process has no others beside it, by the launcher's WORLD_SIZE."""
    return os.environ.get("WORLD_SIZE", "1") == "1"


def announced() -> int:
    """The processes of this job, by the launcher's WORLD_SIZE; 1 without a launcher.

    Errors: JobError for what is no number of processes.
    """
    given = os.environ.get("WORLD_SIZE", "1")
    if not given.isdecimal() or int(given) < 1:
        raise JobError(f"WORLD_SIZE={given}: expected the number of processes; start them with torchrun.")
    return int(given)


def unmet(error: Exception) -> str:
    """The sentence where the processes of this job cannot connect, for the one who knows more to go on with."""
    from sonet.errors import in_short  # with pydantic; the command asks here for WORLD_SIZE before anything else

    return (
        f"{announced()} processes were announced (WORLD_SIZE), and they cannot meet: {in_short(error)}. "
        "Start them with torchrun"
    )


def main_process() -> bool:
    """Whether this is the process that prints: rank 0, or the only one."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM raises SystemExit, so that a file under way is tidied up; nothing is stopped twice on its way out, and
    one of several processes that has failed is on it already.

    Errors: JobError where the launcher's variables do not fit.
    """
    end_of_job = announced() > 1
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set what a signal does
        return

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise SystemExit(STOPPED)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except BaseException:
        if not end_of_job:
            signal.signal(signal.SIGTERM, before)
        raise
    signal.signal(signal.SIGTERM, before)
