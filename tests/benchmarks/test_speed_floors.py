"""The floors of benchmarks/speed: as many convolutions as the pass takes, and of gradients only what it asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from floors import FLOORS, floors
from peers import AS_TORCHDIFFEQ
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from work import WORK, ready

from sonet.kernels import plain
from sonet.models import build


class Convolutions(TorchDispatchMode):
    """Counts convolutions: forward, and backward by the gradients that are made (input, weight)."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func is torch.ops.aten.convolution.default:
            self.counts["forward"] += 1
        elif func is torch.ops.aten.convolution_backward.default:
            to_input, to_weight, _ = args[-1]
            self.counts["input"] += to_input
            self.counts["weight"] += to_weight
        return func(*args, **(kwargs or {}))


@contextmanager
def counted() -> Iterator[Counter[str]]:
    with Convolutions() as mode:
        yield mode.counts


def network(kind: str) -> nn.Module:
    options = {"channels": 4} | ({"blocks": (1, 1), "strides": (1, 2)} if kind == "sonet" else {})
    return build(kind, seed=0, solver=AS_TORCHDIFFEQ, **options).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["sonet", "soblock-resnet10"])
def test_forward_the_floor_has_the_convolutions_of_the_pass_and_no_others(kind: str) -> None:
    model, images = network(kind), torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    bare = floors(model, images, "forward")["convolutions"]
    with plain(), counted() as ours:
        WORK["forward"](model, images)
    with counted() as floor:
        bare()
    assert floor == ours
    assert floor["forward"] > 0


@pytest.mark.parametrize("work", ["attack", "train"])
def test_backward_the_floor_makes_the_gradients_that_the_pass_makes(work: str) -> None:
    model = ready(network("soblock-resnet10"), work)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    bare = floors(model, images, work)["convolutions"]
    with plain(), counted() as ours:
        WORK[work](model, images)
    with counted() as floor:
        bare()
    assert floor["forward"] == ours["forward"]
    assert (floor["weight"] > 0) == (work == "train") == (ours["weight"] > 0)
    # A pass leaves out what nobody uses: the last stage of an interpolated end, images that carry no gradient.
    assert 0.8 * floor["input"] <= ours["input"] <= floor["input"]
    if work == "train":
        assert 0.8 * floor["weight"] <= ours["weight"] <= floor["weight"]


def test_both_floors_are_named() -> None:
    model = ready(network("sonet"), "attack")
    assert tuple(floors(model, torch.rand(2, 3, 16, 16), "attack")) == FLOORS
