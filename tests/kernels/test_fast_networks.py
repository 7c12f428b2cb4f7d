"""Whole networks on the kernels: the numbers of the plain path, whatever else of PyTorch is in use around them."""

from __future__ import annotations

import copy
import io
import os
import signal
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fast_and_plain import agree, both, close, images, outcome, read, two_blocks
from sonet import kernels
from sonet.blocks import recomputed
from sonet.models import build
from sonet.solvers import Adaptive, Fixed, paper

pytestmark = pytest.mark.usefixtures("compiled")
STEEP = Adaptive(rtol=1e-2, atol=1e-2, step_gradient="differentiated")
FIXED = Fixed(method="midpoint", num_steps=2)


def network(name: str, channels: int = 1, solver: Fixed | Adaptive = STEEP) -> nn.Module:
    options = {"in_channels": channels, "channels": 3, "blocks": (1, 1), "strides": (1, 2), "classes": 3}
    return build(name, **options, solver=solver, seed=0).double().eval()


@pytest.mark.parametrize("solver", [STEEP, Adaptive(), paper(), FIXED], ids=["steep", "default", "paper", "fixed"])
@pytest.mark.parametrize("shape", [(3, 1, 9, 11), (2, 3, 8, 8), (1, 3, 13, 8)], ids=str)
@pytest.mark.parametrize("name", ["sonet", "soblock-resnet10"])
def test_logits_and_gradients(name: str, shape: tuple[int, ...], solver: Fixed | Adaptive) -> None:
    agree(network(name, shape[1], solver), images(*shape))


@pytest.mark.parametrize("name", ["sonet", "soblock-resnet10"])
def test_in_float32_they_err_no_more_than_plain(name: str) -> None:
    """Against float64, fixed steps, so that no decision can differ; four times as much at most."""
    model, x = network(name, solver=Fixed(num_steps=3)), images(4, 1, 12, 12)
    truth = outcome(model, x)
    model.float()
    narrow = x.detach().float().requires_grad_()
    found = outcome(model, narrow)
    with kernels.plain():
        plain = outcome(model, narrow)
    for i in range(2):
        largest = max(part.nan_to_num().abs().max().item() for part in truth[i])
        mine, theirs = (
            max((a - b).nan_to_num().abs().max().item() for a, b in zip(some[i], truth[i], strict=True))
            for some in (found, plain)
        )
        assert mine <= 4 * theirs + 4 * torch.finfo(torch.float32).eps * largest


def test_a_sample_does_not_depend_on_its_batch_mates() -> None:
    """Sums, norms and steps of a sample are its own; convolutions are PyTorch's and may round by batch size."""
    model, x = network("sonet"), images(4, 1, 9, 9)
    together = model(x)
    close([torch.cat([model(x[i : i + 1]) for i in range(4)])], [together], 1e-11)
    close([model(x.flip(0)).flip(0)], [together], 1e-11)


def test_other_weights_for_one_call() -> None:
    """Those that are made of others, and those that lie apart in memory."""
    model, x = two_blocks(STEEP), images(2, 1, 5, 5)
    factor = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    names = dict(model.named_parameters())

    def scaled() -> list[Tensor]:
        weights = {name: weight * factor for name, weight in names.items()}
        out = torch.func.functional_call(model, weights, (x,))
        return [out.detach(), *torch.autograd.grad(read(out), [factor, x, *names.values()])]

    def expanded() -> list[Tensor]:
        weights = {name: factor.expand(weight.shape) if weight.dim() == 1 else weight for name, weight in names.items()}
        out = torch.func.functional_call(model, weights, (x,))
        return [out.detach(), *torch.autograd.grad(read(out), [factor, x])]

    close(*both(scaled))
    close(*both(expanded, fast=False))
    assert not torch.allclose(scaled()[0], model(x))


def transformed(model: nn.Module, x: Tensor) -> dict[str, Callable[[], list[Tensor]]]:
    def total(x: Tensor) -> Tensor:
        return read(model(x))

    def forward_mode() -> list[Tensor]:
        with torch.autograd.forward_ad.dual_level():
            made = torch.autograd.forward_ad.make_dual(x.detach(), x.detach().cos())
            return list(torch.autograd.forward_ad.unpack_dual(model(made)))

    weights = {name: weight.detach() for name, weight in model.named_parameters()}

    def of_weights(weights: dict[str, Tensor]) -> Tensor:
        return read(torch.func.functional_call(model, weights, (x.detach(),)))

    return {
        "grad": lambda: [torch.func.grad(total)(x.detach())],
        "of weights": lambda: list(torch.func.grad(of_weights)(weights).values()),
        "jvp": lambda: list(torch.func.jvp(model, (x.detach(),), (x.detach().cos(),))),
        "forward mode": forward_mode,
        "hessian": lambda: [torch.func.jacfwd(torch.func.grad(total))(x.detach()[:1])],
    }


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("which", ["grad", "of weights", "jvp", "forward mode", "hessian"])
def test_transforms_take_the_plain_path(which: str) -> None:
    """And give what reverse mode gives on the kernels."""
    model, x = two_blocks(FIXED), images(2, 1, 4, 4)
    compute = transformed(model, x)[which]
    found, expected = both(compute, fast=False)
    close(found, expected)
    if which == "grad":
        close(found, [torch.autograd.grad(read(model(x)), x)[0]])
    if which == "jvp":
        # <J v, w> = <v, J^T w>
        out = model(x)
        (back,) = torch.autograd.grad(out, x, torch.ones_like(out))
        close([found[1].sum()], [(back * x.detach().cos()).sum()])


def test_jacobians() -> None:
    model, x = two_blocks(STEEP), images(1, 1, 4, 4)
    rows = []
    for vectorize in (False, True):
        found, expected = both(lambda v=vectorize: [torch.autograd.functional.jacobian(model, x, vectorize=v)])  # type: ignore[misc]
        close(found, expected)
        rows += found
    close(rows, rows[::-1])


class Slope(nn.Module):
    """A field's slope at a state, for a solve asks whether its numbers are finite, which no trace can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.field = two_blocks(FIXED)[1].field
        self.offered = 0

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        self.offered += self.field.own_gradient((y, z)) is not None
        return torch.cat([part.flatten(1) for part in self.field(torch.zeros(2), (y, z))], 1)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("way", ["trace", "export"])
def test_traces_are_of_operators(way: str) -> None:
    y, z = images(2, 4, 2, 2).detach(), images(2, 2, 5, 5).detach()
    model = Slope().requires_grad_(False)
    if way == "trace":
        traced = torch.jit.trace(model, (y, z), check_trace=False)
    else:
        traced = torch.export.export(model, (y, z)).module()
    assert model.offered == 0
    other = (y.sin(), z.cos())
    close([traced(*other)], [model(*other)])
    assert model.offered == 1


@pytest.mark.parametrize("kind", ["autocast", "bfloat16"])
def test_lower_precision_takes_the_plain_path(kind: str) -> None:
    model, x = two_blocks(FIXED).float(), images(2, 1, 6, 6, dtype=torch.float32)
    if kind == "bfloat16":
        model, x = model.bfloat16(), x.detach().bfloat16().requires_grad_()

    def compute() -> list[Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind == "autocast"):
            out = model(x)
        return [out.detach(), *torch.autograd.grad(read(out.float()), [x, *model.parameters()])]

    found, expected = both(compute, fast=False)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert found[0].dtype == (torch.bfloat16 if kind == "bfloat16" else torch.float32)


def test_copies_are_the_same_network() -> None:
    model, x = two_blocks(STEEP), images(2, 1, 5, 5)
    expected = outcome(model, x)
    model(x).sum().backward()
    for other in (copy.deepcopy(model), unpickled(model)):
        found = outcome(other, x)
        assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(found[0], expected[0], strict=True))
        assert all(torch.equal(a, b) for a, b in zip(found[1], expected[1], strict=True))
        with torch.no_grad():
            other[0].field.kernel.zero_()
        assert not torch.equal(other(x), model(x))


def unpickled(model: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)  # type: ignore[no-any-return]


@pytest.mark.parametrize("inside", ["forwards", "backwards"])
def test_the_switch_may_be_turned_between_a_recomputed_pass_and_the_one_backwards(inside: str) -> None:
    """What is made again must keep as many tensors as it did."""
    model, x = two_blocks(STEEP), images(2, 1, 5, 5)
    inputs = [x, *model.parameters()]
    expected = torch.autograd.grad(read(model(x)), inputs)
    with recomputed(model):
        if inside == "forwards":
            with kernels.plain():
                out = read(model(x))
            found = torch.autograd.grad(out, inputs)
        else:
            out = read(model(x))
            with kernels.plain():
                found = torch.autograd.grad(out, inputs)
    close(list(found), list(expected))


def test_two_threads_at_once() -> None:
    """As `nn.DataParallel` runs replicas: one model, each thread its own images, forwards and backwards."""
    model = two_blocks(STEEP)
    inputs = [images(3, 1, 9, 9).detach() * (1 + i) for i in range(4)]
    expected = [outcome(model, x.clone().requires_grad_()) for x in inputs]
    found: dict[int, tuple[list[Tensor], list[Tensor]]] = {}

    def work(i: int) -> None:
        for _ in range(3):
            x = inputs[i].clone().requires_grad_()
            out = model(x)
            found[i] = ([out.detach()], list(torch.autograd.grad(read(out), [x, *model.parameters()])))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        assert torch.equal(found[i][0][0], expected[i][0][0])
        assert all(torch.equal(a, b) for a, b in zip(found[i][1], expected[i][1], strict=True))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_computes_the_same() -> None:
    model, x = two_blocks(STEEP), images(2, 1, 5, 5).detach()
    with torch.no_grad():
        expected = model(x)
        child = os.fork()
        if not child:
            signal.alarm(30)
            os._exit(0 if torch.equal(model(x), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0
