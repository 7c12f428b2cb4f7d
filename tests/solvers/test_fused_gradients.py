"""Gradients through steps in one node, however they are asked for, and whatever is frozen, laid out or changed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fast_and_plain import agree, both, close, images, needs_kernels, outcome, read, setting, two_blocks
from sonet import kernels
from sonet.blocks import adjoint_gradients, recomputed
from sonet.solvers import Adaptive, Fixed, integrate, paper

pytestmark = needs_kernels


def second(model: nn.Module, x: Tensor) -> list[Tensor]:
    """First gradients with a graph, and those of their squares."""
    inputs = [x, *model.parameters()]
    first = torch.autograd.grad(read(model(x)), inputs, create_graph=True)
    total = torch.stack([(g * g).sum() for g in first]).sum()
    again = torch.autograd.grad(total, inputs, allow_unused=True)
    zeros = [torch.zeros_like(part) if g is None else g for part, g in zip(inputs, again, strict=True)]
    return [*(g.detach() for g in first), *zeros]


STEEP = setting(step_gradient="differentiated", end="dense")
RULE = setting(step_gradient="differentiated", first_step=None)
SECOND = {
    "steep": STEEP,
    "first": setting(method="bosh3", scope=2, step_gradient="first"),
    "batch": setting(method="adaptive_heun", scope="batch", step_gradient="differentiated"),
    "rule": RULE,
    "paper": paper(),
    "rk4": Fixed(num_steps=2),
    "euler": Fixed(method="euler", num_steps=2),
}


@pytest.mark.parametrize("which", SECOND)
def test_second_gradients(which: str) -> None:
    """What is made of a step's input on the way to it must not be counted twice."""
    model, x = two_blocks(SECOND[which]), images(2, 1, 4, 4)
    found, expected = both(lambda: second(model, x))
    half = len(found) // 2
    close(found[:half], expected[:half])
    close(found[half:], expected[half:], 1e-8)


@pytest.mark.parametrize(
    "solver", [Fixed(method="bosh3", num_steps=2), setting(step_gradient="differentiated", rtol=0.2, atol=0.2)], ids=str
)
def test_gradients_are_those_of_differences(solver: Fixed | Adaptive) -> None:
    model = two_blocks(solver)[0]
    field = model.field
    names = [name for name, _ in field.named_parameters()]

    def solve(x: Tensor, *weights: Tensor) -> Tensor:
        pairs = {f"field.{name}": weight for name, weight in zip(names, weights, strict=True)}
        return torch.func.functional_call(model, pairs, (x,))  # type: ignore[no-any-return]

    inputs = tuple(part.detach().clone().requires_grad_() for part in (images(2, 1, 3, 3), *field.parameters()))
    assert torch.autograd.gradcheck(solve, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(solve, inputs, fast_mode=True, atol=1e-4)


def test_batched_gradients() -> None:
    """Rows of a Jacobian, many at once: kernels cannot be given a batch of gradients, so operators are."""
    model, x = two_blocks(setting(step_gradient="differentiated")), images(2, 1, 4, 4)

    def rows() -> list[Tensor]:
        out = model(x)
        directions = torch.eye(out.numel(), dtype=out.dtype)[:3].view(3, *out.shape)
        inputs = [x, *model.parameters()]
        return list(torch.autograd.grad(out, inputs, directions, is_grads_batched=True))

    found, expected = both(rows)
    close(found, expected)
    out = model(x)
    for i, row in enumerate(found[0]):
        close([row], [torch.autograd.grad(out.flatten()[i], x, retain_graph=True)[0]])


@pytest.mark.parametrize(
    "solver", [setting(step_gradient="differentiated"), Fixed(num_steps=2)], ids=lambda solver: solver.kind
)
def test_a_second_pass_backwards_gives_the_same(solver: Fixed | Adaptive) -> None:
    model, x = two_blocks(solver), images(2, 1, 5, 5)
    out = read(model(x))
    inputs = [x, *model.parameters()]
    once, twice = (torch.autograd.grad(out, inputs, retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))


def test_a_pass_backwards_may_be_plain_or_cast_by_itself() -> None:
    model, x = two_blocks(setting(step_gradient="differentiated")), images(2, 1, 5, 5)
    out = read(model(x))
    inputs = [x, *model.parameters()]
    fast = torch.autograd.grad(out, inputs, retain_graph=True)
    with kernels.plain():
        plain = torch.autograd.grad(out, inputs, retain_graph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = torch.autograd.grad(out, inputs)
    close(list(fast), list(plain))
    close(list(cast), list(plain))


@pytest.mark.parametrize("which", ["sum", "slice", "transposed", "channels last"])
def test_gradients_from_above_may_lie_anyhow(which: str) -> None:
    model, x = two_blocks(setting(step_gradient="differentiated")), images(2, 1, 6, 6)

    def lie(out: Tensor) -> Tensor:
        grads = {
            "sum": torch.ones(()).double().expand_as(out),
            "slice": torch.randn(2, 8, 6, 3, generator=torch.Generator().manual_seed(0)).double()[:, ::2, ::2],
            "transposed": torch.randn(3, 3, 4, 2, generator=torch.Generator().manual_seed(0))
            .double()
            .permute(3, 2, 0, 1),
            "channels last": torch.ones_like(out).contiguous(memory_format=torch.channels_last),
        }
        return grads[which]

    def compute() -> list[Tensor]:
        out = model(x)
        return list(torch.autograd.grad(out, [x, *model.parameters()], lie(out)))

    close(*both(compute))


LAYOUTS = {
    "permuted": lambda x: x.permute(0, 3, 1, 2),
    "sliced": lambda x: x[:, ::2, 1::2, :2].transpose(1, 2),
    "expanded": lambda x: x[:1, :1, :, :1].permute(0, 3, 1, 2).expand(3, 2, 4, 7),
    "flipped": lambda x: x.flip(2).permute(0, 3, 1, 2),
    "a product": lambda x: (x * x).permute(0, 3, 1, 2),
    "negative": lambda x: torch._neg_view(x).permute(0, 3, 1, 2),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_inputs_may_lie_anyhow(layout: str) -> None:
    x = images(3, 6, 7, 2)
    model = two_blocks(setting(step_gradient="differentiated"), channels=LAYOUTS[layout](x).shape[1])
    inputs = [x, *model.parameters()]
    close(*both(lambda: [*torch.autograd.grad(read(model(LAYOUTS[layout](x))), inputs)]))


@pytest.mark.parametrize("asked", ["input", "kernels", "one bias", "nothing but the head"])
def test_any_part_may_be_frozen(asked: str) -> None:
    model, x = two_blocks(setting(step_gradient="differentiated")), images(2, 1, 5, 5)
    x.requires_grad_(asked == "input")
    for name, weight in model.named_parameters():
        weight.requires_grad_(
            (asked == "kernels" and "kernel" in name)
            or (asked == "one bias" and name == "1.field.norm_dy.bias")
            or (asked == "nothing but the head" and name.startswith("1."))
        )
    wanted = [part for part in (x, *model.parameters()) if part.requires_grad]
    assert wanted

    def compute() -> list[Tensor]:
        return [part for some in outcome(model, x, wanted) for part in some]

    found, expected = both(compute)
    close(found[-len(wanted) :], expected[-len(wanted) :])


@pytest.mark.parametrize("way", ["backward", "grad"])
@pytest.mark.parametrize("which", ["kernel", "norm_y.weight"])
def test_a_weight_changed_before_the_pass_backwards_is_refused(which: str, way: str) -> None:
    model, x = two_blocks(setting()), images(2, 1, 5, 5)
    out = read(model(x))
    with torch.no_grad():
        model.get_parameter(f"1.field.{which}").mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward() if way == "backward" else torch.autograd.grad(out, x)


@pytest.mark.parametrize("solver", [STEEP, RULE, Fixed(num_steps=2)], ids=str)
def test_recomputed(solver: Fixed | Adaptive) -> None:
    model, x = two_blocks(solver), images(3, 1, 5, 5)
    stored = outcome(model, x)
    with recomputed(model):
        remade = agree(model, x)
        close(*both(lambda: second(model, x)), 1e-8)
    assert all(
        torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(remade, [*stored[0], *stored[1]], strict=True)
    )


@pytest.mark.parametrize("weights", [False, True])
def test_the_adjoint(weights: bool) -> None:
    model, x = two_blocks(setting(rtol=1e-4, atol=1e-4)), images(2, 1, 4, 4)
    with adjoint_gradients(model, weights=weights):
        # The second solve has its own tolerance, in which rounding moves no decision here.
        agree(model, x, tolerance=1e-7)


def test_backwards_in_time_it_is_plain_and_from_another_start_not() -> None:
    field = two_blocks(setting())[1].field
    state = (images(2, 4, 3, 3).detach(), images(2, 2, 6, 6).detach())

    def end(t0: float, t1: float) -> list[Tensor]:
        return list(integrate(field, state, setting(), t0=t0, t1=t1).state)

    close(*both(lambda: end(0.0, 1.0)))
    close(*both(lambda: end(2.5, 3.0)))
    close(*both(lambda: end(1.0, 0.0), fast=False))
    assert not torch.equal(end(1.0, 0.0)[0], end(0.0, 1.0)[0])


def test_saved_tensors_may_be_laid_out_anew() -> None:
    """As `torch.autograd.graph.save_on_cpu` does when it pins memory: contiguous, wherever the channels were."""
    model, x = two_blocks(setting(step_gradient="differentiated")), images(2, 1, 6, 6)
    inputs = [x, *model.parameters()]
    expected = torch.autograd.grad(read(model(x)), inputs)

    def pack(tensor: Tensor) -> Tensor:
        return tensor.detach().clone(memory_format=torch.contiguous_format)

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = read(model(x))
    found = torch.autograd.grad(out, inputs)
    close(list(found), list(expected))


def test_without_a_graph() -> None:
    model, x = two_blocks(setting()), images(2, 1, 5, 5).detach()
    expected = model(x).detach()
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            assert torch.equal(model(x), expected)
