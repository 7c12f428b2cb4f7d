"""Fixtures of the attacks' tests."""

from __future__ import annotations

import pytest


@pytest.fixture
def on_the_boundary(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search by itself, without the last step beyond the boundary, which has tests of its own."""
    monkeypatch.setattr("sonet.attacks.minimum.CLEARANCE", 0.0)
