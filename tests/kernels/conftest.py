"""Where no compiler is, the kernels are not there to be tested: skipped, with the reason."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
import torch

from sonet import kernels


@pytest.fixture(scope="session")
def compiled() -> None:
    """Both kinds of kernels; where a compiler is, and nobody turned them off, it is a failure that they are not."""
    for dtype in (torch.float32, torch.float64):
        if reason := kernels.why_not(dtype):
            asked = "turns them off" in reason
            assert asked or not any(map(shutil.which, ("c++", "g++"))), reason
            pytest.skip(reason)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
