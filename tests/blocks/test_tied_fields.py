"""Kernels of tied norm: tied whatever the weights are, up to date, and their blocks cannot expand."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sonet.blocks import (
    ConvexPotential,
    ODEBlock,
    TiedField,
    TiedSkewConv,
    convex_potential_block,
    ode_blocks,
    stable_skew_block,
)
from sonet.blocks.isometric import SplitLift
from sonet.blocks.lift import PlainLift
from sonet.blocks.stretch import pair_stretch, stretch_at
from sonet.solvers import Fixed

SIZE = (5, 4)
TIED = 1 + 1e-4
KINDS = ["skew", "potential"]
SETTINGS = [
    ("skew", Fixed(method="euler", num_steps=2)),
    ("skew", Fixed(method="heun", num_steps=1)),
    ("potential", Fixed(method="euler", num_steps=1)),
    ("potential", Fixed(method="euler", num_steps=3)),
]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def field(kind: str, *, channels: int = 3, size: tuple[int, int] = SIZE, norm: float = 0.4, seed: int = 0) -> TiedField:
    torch.manual_seed(seed)
    if kind == "skew":
        return TiedSkewConv(channels, size, kernel_norm=norm, gamma=0.1, slope=0.9)
    return ConvexPotential(channels, size, kernel_norm=norm)


def true_norm(kernel: Tensor, size: tuple[int, int]) -> float:
    inputs = kernel.shape[1] * size[0] * size[1]
    basis = torch.eye(inputs, dtype=torch.float64).view(inputs, kernel.shape[1], *size)
    matrix = F.conv2d(basis, kernel.detach().double(), padding=1).flatten(1)
    return float(torch.linalg.matrix_norm(matrix, 2))


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 2**30),
    channels=st.integers(1, 4),
    size=st.sampled_from([(1, 1), (1, 5), (3, 3), (7, 6), (9, 9)]),
    norm=st.floats(0.01, 5),
    power=st.sampled_from([-12, -6, 0, 6, 12]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    trained=st.booleans(),
)
def test_the_kernel_is_tied_whatever_the_weights(
    kind: str,
    seed: int,
    channels: int,
    size: tuple[int, int],
    norm: float,
    power: int,
    dtype: torch.dtype,
    trained: bool,
) -> None:
    tied = field(kind, channels=channels, size=size, norm=norm).to(dtype).train(trained)
    with torch.no_grad():
        tied.weight.copy_(normal(*tied.weight.shape, seed=seed) * 10.0**power)
    found = true_norm(tied.kernel(), size)
    assert found <= norm * TIED
    if power >= -6:
        assert found >= norm * 0.6  # and no smaller than it need be, beyond what the edges of a small image take


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_zeros_give_the_field_that_stands_still(kind: str) -> None:
    tied = field(kind).eval()
    with torch.no_grad():
        tied.weight.zero_()
    assert torch.equal(tied.kernel(), torch.zeros(3, 3, 3, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_the_kernel_is_tied_after_every_step_of_training(kind: str) -> None:
    tied = field(kind).train()
    wide = 2 if kind == "skew" else 1
    block = ODEBlock(SplitLift() if kind == "skew" else PlainLift(), tied, Fixed(method="euler", num_steps=2))
    optimizer = torch.optim.SGD(tied.parameters(), lr=5.0, momentum=0.9)
    start = tied.kernel().detach().clone()
    for i in range(5):
        loss = block(normal(4, 3 * wide, *SIZE, seed=i, dtype=torch.float32)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for trained in (True, False):
            assert true_norm(tied.train(trained).kernel(), SIZE) <= 0.4 * TIED
        tied.train()
    assert (tied.kernel() - start).abs().max() > 1e-3


def add_in_place(tied: TiedField) -> None:
    with torch.no_grad():
        tied.weight.add_(normal(*tied.weight.shape, seed=5, dtype=tied.weight.dtype))


def load(tied: TiedField) -> None:
    tied.load_state_dict(field("skew" if isinstance(tied, TiedSkewConv) else "potential", seed=9).state_dict())


def load_assigned(tied: TiedField) -> None:
    other = field("skew" if isinstance(tied, TiedSkewConv) else "potential", seed=9)
    tied.load_state_dict(other.state_dict(), assign=True)


def replace_parameter(tied: TiedField) -> None:
    tied.weight = nn.Parameter(normal(*tied.weight.shape, seed=6, dtype=torch.float32))


def add_to_data(tied: TiedField) -> None:
    tied.weight.data.add_(normal(*tied.weight.shape, seed=5, dtype=tied.weight.dtype))


def reuse_memory(tied: TiedField) -> None:
    """Other weights where the old ones lay, as an allocator may put them after the network was cast there and back."""
    memory = tied.weight.data
    tied.weight.data = torch.zeros_like(memory)
    memory.copy_(normal(*memory.shape, seed=5))
    tied.weight.data = memory


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "change",
    [
        add_in_place,
        load,
        load_assigned,
        replace_parameter,
        nn.Module.double,
        add_to_data,
        reuse_memory,
    ],
)
def test_the_kernel_kept_in_eval_mode_follows_the_weights(kind: str, change: Callable[[TiedField], object]) -> None:
    tied = field(kind).eval()
    before = tied.kernel()
    assert tied.kernel() is before
    change(tied)
    fresh = field(kind).to(tied.weight.dtype)
    fresh.load_state_dict(tied.state_dict())
    assert torch.equal(tied.kernel(), fresh.eval().kernel())
    assert tied.kernel().dtype == tied.weight.dtype
    assert not torch.equal(tied.kernel().double(), before.double())


@pytest.mark.parametrize("kind", KINDS)
def test_copies_keep_kernels_of_their_own(kind: str) -> None:
    tied = field(kind).eval()
    before = tied.kernel().clone()
    copied = copy.deepcopy(tied)
    assert torch.equal(copied.kernel(), before)
    add_in_place(copied)
    assert not torch.equal(copied.kernel(), before)
    assert torch.equal(tied.kernel(), before)
    add_in_place(tied)
    assert torch.equal(tied.kernel(), copied.kernel())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(3, 3), (9, 8)])  # as a matrix, and on the torus
def test_in_training_the_weights_get_the_gradient_of_the_tied_kernel(kind: str, size: tuple[int, int]) -> None:
    tied = field(kind, channels=2, size=size).double().train()
    state = tuple(normal(1, 2, *size, seed=i).requires_grad_() for i in range(2 if kind == "skew" else 1))
    time = torch.zeros(1, dtype=torch.float64)

    def value(weight: Tensor, *parts: Tensor) -> Tensor:
        out = torch.func.functional_call(tied, {"weight": weight}, (time, parts))
        return torch.stack([part.square().sum() for part in out]).sum()

    assert torch.autograd.gradcheck(value, (tied.weight.detach().clone().requires_grad_(), *state))


@pytest.mark.parametrize("kind", KINDS)
def test_in_eval_mode_the_input_gets_its_gradient_and_the_weights_none(kind: str) -> None:
    tied = field(kind).double().eval()
    state = tuple(normal(1, 3, *SIZE, seed=i).requires_grad_() for i in range(2 if kind == "skew" else 1))
    out = tied(torch.zeros(1), state)
    assert not tied.kernel().requires_grad
    total = torch.stack([part.sum() for part in out]).sum()
    grads: tuple[Tensor | None, ...] = torch.autograd.grad(total, (*state, tied.weight), allow_unused=True)
    assert grads[-1] is None
    trained = tied.train()(torch.zeros(1), state)
    wanted = torch.autograd.grad(torch.stack([part.sum() for part in trained]).sum(), state)
    for got, expected in zip(grads[:-1], wanted, strict=True):
        assert got is not None
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kernel_made_in_inference_mode_serves_a_gradient_later(kind: str) -> None:
    tied = field(kind).eval()
    parts = 2 if kind == "skew" else 1
    with torch.inference_mode():
        tied(torch.zeros(1), tuple(torch.rand(1, 3, *SIZE) for _ in range(parts)))
    state = tuple(torch.rand(1, 3, *SIZE, requires_grad=True) for _ in range(parts))
    total = torch.stack([part.sum() for part in tied(torch.zeros(1), state)]).sum()
    assert all(gradient.abs().max() > 0 for gradient in torch.autograd.grad(total, state))


@pytest.mark.parametrize("norm", [0.0, -1.0, float("inf"), float("nan")])
def test_a_norm_to_tie_to_is_positive(norm: float) -> None:
    for kind in KINDS:
        with pytest.raises(ValueError, match="expected a finite kernel_norm > 0"):
            field(kind, norm=norm)


def stable_block(kind: str, solver: Fixed, size: tuple[int, int] = SIZE) -> nn.Module:
    torch.manual_seed(1)
    if kind == "skew":
        # Heun's method is as safe as Euler's, whose damping is found faster.
        euler = Fixed(method="euler", num_steps=solver.num_steps)
        block = stable_skew_block(4, size, euler, kernel_norm=0.6, slope=0.8)
        ode_blocks(block)["0"].solver = solver
        return block
    return convex_potential_block(4, size, solver)


@pytest.mark.parametrize(("kind", "solver"), SETTINGS)
@pytest.mark.parametrize("power", [-3, 0, 3])
def test_no_weights_make_a_stable_block_expand(kind: str, solver: Fixed, power: int) -> None:
    block = stable_block(kind, solver).double().eval()
    for seed in range(2):
        with torch.no_grad():
            for i, parameter in enumerate(block.parameters()):
                parameter.copy_(normal(*parameter.shape, seed=10 * seed + i) * (10.0**power if i == 0 else 1.0))
        generator = torch.Generator().manual_seed(seed)
        x = normal(8, 4, *SIZE, seed=seed) * 10 ** normal(8, 1, 1, 1, seed=seed + 1)
        y = x.roll(1, 0)
        with torch.no_grad():
            random = (block(x) - block(y)).flatten(1).norm(dim=1) / (x - y).flatten(1).norm(dim=1)
        assert float(random.max()) <= 1 + 1e-9
        assert pair_stretch(block, x, rounds=20, generator=generator) <= 1 + 1e-9
        assert stretch_at(block, x, rounds=20, generator=generator) <= 1 + 1e-9


def test_training_the_weights_to_expand_does_not_help() -> None:
    """Ascent on the stretch over weights and both inputs together comes nearer to 1 and no further."""
    block = stable_block("skew", Fixed(method="euler", num_steps=2)).double().train()
    a, b = normal(6, 4, *SIZE, seed=1).requires_grad_(), normal(6, 4, *SIZE, seed=2).requires_grad_()
    optimizer = torch.optim.Adam([a, b, *block.parameters()], lr=0.05)
    for _ in range(40):
        ratio = (block(a) - block(b)).flatten(1).norm(dim=1) / (a - b).flatten(1).norm(dim=1)
        best = float(ratio.detach().max())
        assert best <= 1 + 1e-9
        optimizer.zero_grad()
        (-ratio.sum()).backward()
        optimizer.step()
    assert best > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_refuses_images_for_which_its_kernel_is_not_tied(kind: str) -> None:
    block = stable_block(kind, Fixed(method="euler", num_steps=1), (1, 1)).eval()
    with pytest.raises(ValueError, match="size"):
        block(torch.rand(1, 4, 8, 8))
