"""One run and its publication, trained once; nobody writes into them."""

from __future__ import annotations

from pathlib import Path

import pytest
from trained_digits import train

from sonet.publishing import publish


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("runs") / "mine")


@pytest.fixture(scope="session")
def published(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(run, tmp_path_factory.mktemp("published") / "mine").folder


@pytest.fixture
def copy(published: Path, tmp_path: Path) -> Path:
    """A copy of the publication, to be damaged."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in published.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder
