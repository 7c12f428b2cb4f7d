"""Runs the command in this process, as the shell would."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sonet.cli import main
from sonet.data import load

torch.set_num_threads(1)  # networks this small get slower with more

TINY = ["--set", "model.channels=2", "--set", "model.blocks=[1]", "--set", "model.strides=[2]"]
BATCH = ["--set", "training.batch_size=10", "--set", "training.device=cpu"]


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


class Runner:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments: Any) -> Ended:
        self._monkeypatch.setattr(sys, "argv", ["sonet", *map(str, arguments)])
        self._capsys.readouterr()
        code: Any = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        captured = self._capsys.readouterr()
        return Ended(code, captured.out, captured.err)


def write_npz(file: Path, n: int = 30, **changes: Any) -> Path:
    """The first digits as grey levels; `changes` replace arrays."""
    digits, arrays = load("digits"), {}
    for name, split in (("train", digits.train.take(n)), ("test", digits.test.take(n))):
        arrays[f"x_{name}"] = (split.images[:, 0] * 240).round().to(torch.uint8).numpy()
        arrays[f"y_{name}"] = split.labels.numpy()
    np.savez(file, **(arrays | changes))
    return file


def write_three(file: Path) -> Path:
    """Digits 0, 1 and 2 only, 60 to train on and 24 to test: learned in a second."""
    digits, arrays = load("digits"), {}
    for name, split, n in (("train", digits.train, 60), ("test", digits.test, 24)):
        some = (split.labels < 3).nonzero().squeeze(1)[:n]
        arrays[f"x_{name}"] = (split.images[some, 0] * 240).round().to(torch.uint8).numpy()
        arrays[f"y_{name}"] = split.labels[some].numpy()
    return write_npz(file, **arrays)


def answered(ended: Ended) -> Any:
    """The JSON of a command that went well."""
    assert ended.code == 0, ended.err
    return json.loads(ended.out)


def seen(folder: Path) -> dict[str, tuple[int, bytes]]:
    """When each file below a folder was written, and what it holds."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def timeless(answer: Any) -> Any:
    """An answer without its seconds and its folder, at every depth."""
    if isinstance(answer, dict):
        return {key: timeless(value) for key, value in answer.items() if key not in ("seconds", "out")}
    return [timeless(value) for value in answer] if isinstance(answer, list) else answer
