"""Who may use the kernels: ordinary tensors, and nobody who traces, transforms or casts what PyTorch computes."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sonet import kernels
from sonet.kernels import usable

pytestmark = pytest.mark.usefixtures("compiled")


def ones(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.ones(2, 3, dtype=dtype)


class Own(Tensor):
    """A subclass may do anything."""


STRANGE: dict[str, Callable[[], Tensor]] = {
    "half": lambda: ones(torch.float16),
    "bfloat16": lambda: ones(torch.bfloat16),
    "meta": lambda: torch.ones(2, device="meta"),
    "sparse": lambda: torch.eye(2).to_sparse(),
    "subclass": lambda: ones().as_subclass(Own),
    "negative view": lambda: torch._neg_view(ones()),
}


def test_ordinary_tensors_may() -> None:
    assert usable(ones())
    assert usable(nn.Parameter(ones(torch.float64)), ones(torch.float64))


@pytest.mark.parametrize("kind", STRANGE)
def test_others_may_not(kind: str) -> None:
    assert not usable(STRANGE[kind]())
    assert kind in ("half", "bfloat16") or not usable(ones(), STRANGE[kind]())


# Tracing and forward mode use torch.jit, which is on its way out and still there.
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_not_where_somebody_else_computes() -> None:
    inside: list[bool] = []

    def note(x: Tensor) -> Tensor:
        inside.append(usable(ones()))
        return (x * x).sum()

    torch.func.grad(note)(ones())
    torch.func.vmap(note)(ones())
    torch.func.jvp(note, (ones(),), (ones(),))
    with torch.autograd.forward_ad.dual_level():
        note(ones())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        note(ones())
    with FlopCounterMode(display=False):
        note(ones())
    with torch.device("cpu"):
        note(ones())
    torch.jit.trace(note, (ones(),), check_trace=False)
    assert inside == [False] * 8
    assert usable(ones())


@pytest.mark.parametrize("value", ["off", "OFF", "0", "no"])
def test_the_variable_turns_them_off(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SONET_KERNELS", value)
    assert "SONET_KERNELS" in kernels.why_not()
    assert not usable(ones())


@pytest.mark.parametrize("value", ["", "on", "1"])
def test_other_values_of_it_do_not(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SONET_KERNELS", value)
    assert kernels.why_not() == ""


def test_plain_may_be_nested_and_ends_with_an_error() -> None:
    def fail() -> None:
        with kernels.plain():
            with kernels.plain():
                assert "plain" in kernels.why_not()
            assert not usable(ones())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert usable(ones())


def test_threads_that_enter_and_leave_lose_no_count() -> None:
    def enter() -> None:
        for _ in range(2000):
            with kernels.plain():
                pass

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=enter) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert kernels.why_not() == ""


def test_a_forked_process_does_not_wait_for_threads_that_it_left_behind() -> None:
    """OpenMP's threads do not survive a fork, and it would wait for them for ever."""
    script = """
        import os, signal, sys, torch
        from sonet.kernels import all_finite
        torch.set_num_threads(2)
        x = torch.ones(8, 64)
        assert all_finite(x).all()
        child = os.fork()
        if not child:
            signal.alarm(20)
            os._exit(not all_finite(x).all())
        sys.exit(os.waitpid(child, 0)[1])
    """
    ended = subprocess.run([sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)], timeout=100, check=False)
    assert ended.returncode == 0
