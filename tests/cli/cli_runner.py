"""Runs the command in this process, as the shell would."""

from __future__ import annotations

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
