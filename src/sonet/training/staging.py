"""Files and folders that take their place in a run when they are whole."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def staged(run: Path) -> Iterator[Path]:
    """A folder inside `run` to write in, gone afterwards, with all that was not moved out of it by `settle`."""
    run.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=run) as folder:
        yield Path(folder)


def settle(file: Path) -> None:
    """Bring a file's content to the disk, so that a rename cannot come before it."""
    with file.open("rb") as handle:
        os.fsync(handle.fileno())
