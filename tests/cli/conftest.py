"""Networks trained once for the tests of what is done to them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from cli_runner import BATCH, Runner, write_three

from sonet.cli import main

RUNS = {
    "resnet": ["resnet10", "--set", "model.channels=4", "--epochs", "3", "--lr", "0.2"],
    "other": ["resnet10", "--set", "model.channels=4", "--epochs", "3", "--lr", "0.2", "--seed", "5"],
    "fixed": ["sonet", "--set", "model.channels=8", "--epochs", "2", "--lr", "0.2", "--set", "model.solver.kind=fixed"],
    "paper": ["sonet", "--set", "model.channels=4", "--epochs", "4", "--lr", "0.1", "--set", "model.solver=paper"],
}
"""Run: how it is trained. Most of its 24 test images are right, but "paper", of batch-wide steps, has about half."""


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the RUNS and their data, three.npz. Nobody writes into it."""
    home = tmp_path_factory.mktemp("trained")
    data = write_three(home / "three.npz")
    for name, words in RUNS.items():
        more = ["--set", "model.blocks=[1]", "--set", "model.strides=[2]", "--data", data, "--out", home / name]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["sonet", "train", *words, *BATCH, *map(str, more)])
            with pytest.raises(SystemExit, match="0"):
                main()
    return home


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(monkeypatch, capsys)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without figures: drawing takes seconds."""
    monkeypatch.setattr("sonet.report.html.render", lambda record: f"page of {record.title}")
