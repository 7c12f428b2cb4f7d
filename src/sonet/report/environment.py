"""Where numbers were made: versions, device, threads, commit, platform, time."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import torch
from pydantic import Field

from sonet.report.schema import Entry

_PACKAGE = Path(__file__).resolve().parent.parent


class Environment(Entry):
    """What somebody needs to know to repeat the numbers on another machine.

    versions: library -> version. commit: short hash of the package's checkout, "+changes" when its files differ from
    that commit, None when the package does not run from a checkout. created: UTC, ISO 8601.
    """

    versions: dict[str, str]
    device: str
    threads: int = Field(ge=1)
    commit: str | None = None
    platform: str
    created: str

    @classmethod
    def here(cls, device: str = "cpu") -> Environment:
        """The environment of this process. `device` is where the networks run, for example "cpu" or "cuda:0"."""
        return cls(
            versions={
                "python": platform.python_version(),
                "torch": str(torch.__version__),
                "numpy": _version("numpy"),
                "sonet": _version("sonet"),
            },
            device=_device_name(device),
            threads=torch.get_num_threads(),
            commit=commit(_PACKAGE),
            platform=platform.platform(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )


def commit(folder: Path) -> str | None:
    """Short hash of the checkout that tracks `folder`, with "+changes" where files in it differ; None without one.

    The folder must be tracked, not merely lie inside a repository: a package installed into a virtual environment
    inside somebody's project would otherwise carry that project's hash.
    """
    tracked = _git(folder, "ls-files", "--", ".")
    head = _git(folder, "rev-parse", "--short", "HEAD")
    if not tracked or not head:
        return None
    changed = _git(folder, "status", "--porcelain", "--", ".")
    return f"{head}+changes" if changed else head


def _git(folder: Path, *arguments: str) -> str | None:
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # looking must not write
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=20,
            env=environment,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _device_name(device: str) -> str:
    if device.startswith("cuda") and torch.cuda.is_available():
        return f"{device} ({torch.cuda.get_device_name(torch.device(device))})"
    return device
