"""Nothing is kept from one attack or training step to the next, without the garbage collector's help."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from fast_and_plain import fused_steps, images
from sonet.blocks import skew_conv_block
from sonet.solvers import Adaptive

pytestmark = pytest.mark.usefixtures("compiled")
counted = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="glibc counts the bytes"
)
STEPS, WARM = 1000, 100
ONE_STEP = {"method": "adaptive_heun", "rtol": 10.0, "atol": 10.0, "first_step": 1.0, "max_steps": 3}


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


FIELDS = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")


class Mallinfo2(ctypes.Structure):
    """`struct mallinfo2` of glibc's malloc.h."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in FIELDS)


def in_use() -> int:
    """Bytes that are allocated; those of the process would hide a loss in memory that was freed before and kept."""
    ask = ctypes.CDLL(None).mallinfo2
    ask.restype = Mallinfo2
    found = ask()
    return int(found.uordblks + found.hblkhd)


def growth(step: Callable[[], None]) -> float:
    """Bytes a step keeps, over `STEPS` steps after some that fill the allocators."""
    for _ in range(WARM):
        step()
    before = in_use()
    for _ in range(STEPS):
        step()
    return (in_use() - before) / STEPS


@counted
@pytest.mark.parametrize("what", ["attack", "training"])
@pytest.mark.parametrize("step_gradient", ["frozen", "differentiated"])
def test_steps_keep_nothing(step_gradient: str, what: str, no_collector: None) -> None:
    """The images have 4 KiB, a solve's other tensors more; less than a quarter of one may be lost a step."""
    solver = Adaptive.model_validate(ONE_STEP | {"step_gradient": step_gradient})
    block = skew_conv_block(1, 2, 1, solver, gamma=0.0, slope=0.1, norm=True)
    optimizer = torch.optim.SGD(block.parameters(), lr=1e-6)
    start = images(1, 1, 32, 32, dtype=torch.float32).detach()
    moved: list[Tensor] = []

    def attack() -> None:
        leaf = start.clone().requires_grad_()
        (grad,) = torch.autograd.grad(block(leaf).square().sum(), leaf)
        moved[:] = [(leaf.detach() + 0.01 * grad.sign()).clamp(0, 1)]

    def train() -> None:
        optimizer.zero_grad()
        block(start).square().sum().backward()
        optimizer.step()

    with fused_steps() as steps:
        attack()
        train()
        assert steps.call_count
    kept = growth(attack if what == "attack" else train)
    assert kept < start.numel() * start.element_size() / 4


@counted
def test_that_would_be_seen(no_collector: None) -> None:
    """One such tensor kept a step is more than is allowed."""
    hoard: list[Tensor] = []
    x = images(1, 1, 32, 32, dtype=torch.float32).detach()
    assert growth(lambda: hoard.append(x + 1)) > x.numel() * x.element_size() / 4
