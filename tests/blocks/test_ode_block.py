"""The block around a field: what it starts from, what it gives back, and who may watch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sonet.blocks import (
    ODEBlock,
    ODENetField,
    name_blocks,
    ode_blocks,
    odenet_block,
    skew_conv_block,
    skew_dense_block,
    watch_solves,
)
from sonet.blocks.lift import DenseLift, PlainLift, SkewLift, repeat_channels
from sonet.solvers import Adaptive, Fixed, Solution, Status, integrate, paper
from sonet.types import State

RK4 = Fixed(method="rk4", num_steps=2)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("channels", "wanted", "order"),
    [(3, 3, [0, 1, 2]), (3, 2, [0, 1]), (3, 7, [0, 1, 2, 0, 1, 2, 0]), (1, 3, [0, 0, 0]), (4, 6, [0, 1, 2, 3, 0, 1])],
)
def test_channels_are_repeated_in_order_and_the_last_repeat_is_cut(
    channels: int, wanted: int, order: list[int]
) -> None:
    x = normal(2, channels, 3, 4)
    repeated = repeat_channels(x, wanted)
    assert torch.equal(repeated, x[:, order])
    assert repeated.is_contiguous()


@pytest.mark.parametrize(("height", "width"), [(4, 6), (7, 7), (5, 8), (8, 9), (3, 2)])
def test_a_lift_of_stride_two_samples_the_nearest(height: int, width: int) -> None:
    """Interpolation by one half, to the size of K z: 7 -> 3, not 4."""
    x = normal(2, 2, height, width)
    y, z = SkewLift(5, 2)(x)
    sampled = F.interpolate(x, scale_factor=0.5, mode="nearest")
    assert sampled.shape[2:] == (height // 2, width // 2)
    assert torch.equal(y, sampled[:, [0, 1, 0, 1, 0]])
    assert z is x


def test_seven_by_seven_becomes_three_by_three_by_hand() -> None:
    x = torch.arange(49.0).view(1, 1, 7, 7)
    y, _ = SkewLift(1, 2)(x)
    assert y[0, 0].tolist() == [[0, 2, 4], [14, 16, 18], [28, 30, 32]]


def test_a_lift_of_stride_one_keeps_the_size() -> None:
    x = normal(2, 2, 3, 5)
    y, z = SkewLift(3, 1)(x)
    assert torch.equal(y, x[:, [0, 1, 0]])
    assert z is x


def test_the_head_starts_at_one_tenth_in_every_class() -> None:
    x = normal(3, 4)
    y, z = DenseLift(5)(x)
    assert y is x
    assert torch.equal(z, torch.full((3, 5), 0.1, dtype=torch.float64))
    assert DenseLift(5)(x.float())[1].dtype == torch.float32


def odenet_field() -> ODENetField:
    torch.manual_seed(0)
    return ODENetField(4).double()


def test_odenet_field_sees_the_time() -> None:
    field, x = odenet_field(), normal(3, 4, 5, 6)
    at = {t: field(torch.full((3,), t, dtype=torch.float64), (x,))[0] for t in (0.0, 0.3, 1.0)}
    assert at[0.0].shape == x.shape
    for early, late in ((0.0, 0.3), (0.3, 1.0)):
        assert ((at[early] - at[late]).abs().amax((1, 2, 3)) > 1e-3).all()


def test_each_sample_of_odenet_field_has_its_own_time() -> None:
    field, x = odenet_field(), normal(3, 4, 5, 6)
    times = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    together = field(times, (x,))[0]
    for i, t in enumerate(times):
        torch.testing.assert_close(together[i : i + 1], field(t[None], (x[i : i + 1],))[0], rtol=0, atol=1e-12)


def test_odenet_field_is_the_formula() -> None:
    """norm, ReLU, conv, norm, ReLU, conv, norm; the time is the convolutions' first channel."""
    field, x = odenet_field(), normal(2, 4, 5, 6)
    t = torch.tensor([0.25, 0.75], dtype=torch.float64)
    with torch.no_grad():
        for seed, parameter in enumerate(field.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=seed))

    def convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
        with_time = torch.stack(
            [torch.cat([torch.full((1, 5, 6), s.item()), image]) for s, image in zip(t, x, strict=True)]
        )
        return F.conv2d(with_time, conv.weight, conv.bias, padding=1)

    def normed(norm: nn.GroupNorm, x: Tensor) -> Tensor:
        return F.group_norm(x, 4, norm.weight, norm.bias)

    out = convolve(field.conv1.conv, normed(field.norm1, x).relu())
    out = convolve(field.conv2.conv, normed(field.norm2, out).relu())
    torch.testing.assert_close(field(t, (x,))[0], normed(field.norm3, out), rtol=1e-11, atol=1e-11)


class Numbers(nn.Module):
    """dy = 1, dz = 2, so that y(1) = y(0) + 1 and z(1) = z(0) + 2."""

    def forward(self, t: Tensor, state: State) -> State:
        return torch.ones_like(state[0]), torch.full_like(state[1], 2.0)


@pytest.mark.parametrize(("output", "gain", "shape"), [(0, 1.0, (2, 3)), (1, 2.0, (2, 5))])
def test_a_block_gives_the_part_of_the_state_it_was_told(output: int, gain: float, shape: tuple[int, int]) -> None:
    block = ODEBlock(DenseLift(5), Numbers(), RK4, output=output)
    x = normal(2, 3)
    start = (x, torch.full((2, 5), 0.1, dtype=torch.float64))[output]
    torch.testing.assert_close(block(x), start + gain, rtol=0, atol=1e-12)
    assert block(x).shape == shape


@pytest.mark.parametrize("solver", [RK4, Adaptive(), paper()], ids=["fixed", "adaptive", "paper"])
def test_a_block_is_its_lift_its_field_and_its_solver(solver: Fixed | Adaptive) -> None:
    torch.manual_seed(0)
    conv = skew_conv_block(2, 3, 2, solver, gamma=0.3, slope=0.1, norm=True).double()
    dense = skew_dense_block(3, 4, solver, slope=0.1).double()
    plain = odenet_block(2, solver).double()
    x, features = normal(2, 2, 7, 6), normal(2, 3)
    for block, lift, given, output in (
        (conv, SkewLift(3, 2), x, 0),
        (dense, DenseLift(4), features, 1),
        (plain, PlainLift(), x, 0),
    ):
        expected = integrate(block.field, lift(given), solver).state[output]
        assert torch.equal(block(given), expected)
    assert conv(x).shape == (2, 3, 3, 3)
    assert dense(features).shape == (2, 4)
    assert plain(x).shape == x.shape
    assert (conv.field.gamma, conv.field.slope, dense.field.slope) == (0.3, 0.1, 0.1)


def two_blocks() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        skew_conv_block(2, 3, 1, RK4, gamma=0.0, slope=0.01, norm=True),
        nn.Sequential(nn.ReLU(), skew_conv_block(3, 2, 2, RK4, gamma=0.0, slope=0.01, norm=True)),
    )
    name_blocks(model)
    return model


def test_blocks_are_named_by_their_module_path() -> None:
    model = two_blocks()
    assert list(ode_blocks(model)) == ["0", "1.1"]
    assert [block.name for block in ode_blocks(model).values()] == ["0", "1.1"]
    with pytest.raises(ValueError, match=r"^1\.1: expected tensors with a common first dimension"):
        model[1](torch.rand(0, 3, 4, 4))


def test_watching_hears_every_solve_with_its_name_and_ends() -> None:
    model = two_blocks()
    heard: list[tuple[str, Solution]] = []
    x = torch.rand(3, 2, 6, 6)
    with watch_solves(model, lambda name, solution: heard.append((name, solution))):
        out = model(x)
        model(x)
    model(x)
    assert [name for name, _ in heard] == ["0", "1.1", "0", "1.1"]
    assert torch.equal(heard[1][1].state[0], out)
    assert heard[0][1].status.tolist() == [Status.OK] * 3
    assert heard[0][1].evaluations.tolist() == [8] * 3  # two steps of four stages


def test_watching_ends_after_an_exception_and_leaves_other_watchers() -> None:
    model = two_blocks()
    outer: list[str] = []
    inner: list[str] = []
    x = torch.rand(1, 2, 6, 6)

    def fail(name: str, solution: Solution) -> None:
        inner.append(name)
        raise KeyError(name)

    with watch_solves(model, lambda name, _: outer.append(name)):
        with pytest.raises(KeyError), watch_solves(model, fail):
            model(x)
        model(x)
    assert (outer, inner) == (["0", "0", "1.1"], ["0"])
    assert all(block.listeners == [] for block in ode_blocks(model).values())


def test_watching_twice_with_one_listener_hears_twice_and_then_once() -> None:
    model, heard = two_blocks(), []
    x = torch.rand(1, 2, 6, 6)

    def listen(name: str, solution: Solution) -> None:
        heard.append(name)

    with watch_solves(model, listen):
        with watch_solves(model, listen):
            model(x)
        model(x)
    assert heard == ["0", "0", "1.1", "1.1", "0", "1.1"]
    assert all(block.listeners == [] for block in ode_blocks(model).values())


def test_a_sample_that_fails_comes_out_as_nan_and_says_why() -> None:
    model = two_blocks()
    for block in ode_blocks(model).values():
        block.solver = Adaptive()
    x = torch.rand(3, 2, 6, 6)
    x[1, 0, 2, 2] = torch.nan
    statuses: list[list[int]] = []
    with watch_solves(model, lambda _, solution: statuses.append(solution.status.tolist())):
        out = model(x)
    assert torch.isnan(out[1]).all()
    assert torch.isfinite(out[[0, 2]]).all()
    assert statuses == [[Status.OK, Status.NOT_FINITE, Status.OK]] * 2
