"""Starts several processes as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def command(processes: int, *words: object) -> list[str]:
    """`torchrun` of so many processes on this machine, at a port of its own."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*launcher, *map(str, words)]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}


def torchrun(processes: int, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(processes, *words), capture_output=True, text=True, timeout=120, check=False, env=environment()
    )
