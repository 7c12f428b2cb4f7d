"""The way to a plane within the box, against linear programming, a quadratic solver and the conditions it must meet."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize
from torch import Tensor

from sonet.attacks import hyperplane
from sonet.attacks.hyperplane import length, to_plane

Norm = Literal["linf", "l2"]
NORMS: list[Norm] = ["linf", "l2"]


def distance_by_bisection(x: np.ndarray, w: np.ndarray, value: float, norm: Norm) -> float:
    """How far x is from {<w, .> = <w, x> - value} in the box, infinite where that misses it; halving the multiplier."""
    up = w if value < 0 else -w
    direction = np.sign(up) if norm == "linf" else up / np.abs(up).max()

    def moved(strength: float) -> np.ndarray:
        return np.clip(x + strength * direction, 0, 1) - x

    low, high = 0.0, 1.0 if norm == "linf" else 1e9
    if up @ moved(high) < abs(value):
        return np.inf
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if up @ moved(middle) < abs(value) else (low, middle)
    return float(np.abs(moved(high)).max() if norm == "linf" else np.linalg.norm(moved(high)))


def problem(seed: int, n: int = 1, d: int = 5, rounded: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Points, normals, and values of which most, not all, can be brought to 0 in the box."""
    draw = torch.Generator().manual_seed(seed)
    points = torch.rand(n, d, generator=draw, dtype=torch.float64)
    points = points.round() if rounded else points
    normal = torch.randn(n, d, generator=draw, dtype=torch.float64)
    value = (torch.rand(n, generator=draw, dtype=torch.float64) - 0.5) * 1.4 * normal.abs().sum(1)
    return points, normal, value


@pytest.mark.parametrize("rounded", [False, True])
def test_the_linf_move_is_the_linear_programme_s(rounded: bool) -> None:
    """min t over (move, t) with |move_i| <= t, point + move in the box, <w, move> = -value."""
    points, normal, value = problem(0, n=40, rounded=rounded)
    moves, share = to_plane(points, normal, value, "linf")
    missed = 0
    for x, w, v, move, part in zip(*(each.numpy() for each in (points, normal, value, moves, share)), strict=True):
        d = len(x)
        eye, column = np.eye(d), np.ones((d, 1))
        got = linprog(
            np.r_[np.zeros(d), 1.0],
            A_ub=np.block([[eye, -column], [-eye, -column]]),
            b_ub=np.zeros(2 * d),
            A_eq=np.r_[w, 0.0][None],
            b_eq=[-v],
            bounds=[*zip(-x, 1 - x, strict=True), (0, None)],
        )
        assert (part == 1) == (got.status == 0)
        if part == 1:
            assert np.abs(move).max() == pytest.approx(got.fun, abs=1e-9)
            assert w @ move == pytest.approx(-v, abs=1e-12)
        missed += part < 1
    assert 3 < missed < 37


def test_the_l2_move_is_the_quadratic_programme_s() -> None:
    points, normal, value = problem(1, n=25)
    moves, share = to_plane(points, normal, value, "l2")
    hit = 0
    for x, w, v, move, part in zip(*(each.numpy() for each in (points, normal, value, moves, share)), strict=True):
        if part < 1:
            continue
        got = minimize(
            lambda u: u @ u,
            move * 0,
            jac=lambda u: 2 * u,
            bounds=list(zip(-x, 1 - x, strict=True)),
            constraints={"type": "eq", "fun": lambda u, w=w, v=v: w @ u + v, "jac": lambda u, w=w: w},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        assert got.success
        np.testing.assert_allclose(move, got.x, atol=1e-6)
        hit += 1
    assert hit > 8


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_its_length_is_that_found_by_bisection(norm: Norm, rounded: bool) -> None:
    points, normal, value = problem(2, n=30, d=40, rounded=rounded)
    value = value * 0.4
    moves, share = to_plane(points, normal, value, norm)
    for i in range(30):
        want = distance_by_bisection(points[i].numpy(), normal[i].numpy(), value[i].item(), norm)
        assert (share[i].item() < 1) == (want == np.inf)
        if want < np.inf:
            assert length(moves, norm)[i].item() == pytest.approx(want, rel=1e-9)
    assert (share == 1).sum() > 20


def test_by_hand() -> None:
    """Two pixels, <w, x> = 3 x_1 + 4 x_2, free in both norms; then with the second one cut at the box."""
    point, normal = torch.tensor([[0.5, 0.5]]).double(), torch.tensor([[3.0, 4.0]]).double()
    value = torch.tensor([-0.7]).double()
    move, share = to_plane(point, normal, value, "linf")
    torch.testing.assert_close(move, torch.tensor([[0.1, 0.1]]).double())
    assert share.item() == 1
    move, _ = to_plane(point, normal, value, "l2")
    torch.testing.assert_close(move, torch.tensor([[0.084, 0.112]]).double())
    move, _ = to_plane(point, normal, -value, "l2")
    torch.testing.assert_close(move, torch.tensor([[-0.084, -0.112]]).double())
    near = torch.tensor([[0.5, 0.95]]).double()  # 4 * 0.05 = 0.2 from the second pixel, 0.5 = 3 * 1/6 from the first
    for norm in NORMS:
        move, share = to_plane(near, normal, value, norm)
        torch.testing.assert_close(move, torch.tensor([[0.5 / 3, 0.05]]).double())
        assert share.item() == 1


@given(
    seed=st.integers(0, 10**6),
    d=st.integers(1, 12),
    ask=st.floats(-3, 3),
    spread=st.sampled_from([0, 1, 8]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    norm=st.sampled_from(NORMS),
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_it_meets_the_conditions_of_the_least_move(
    seed: int, d: int, ask: float, spread: int, dtype: torch.dtype, norm: Norm
) -> None:
    """In the box; on the plane or as near as the box comes; and no random move that does as well is shorter."""
    draw = torch.Generator().manual_seed(seed)
    points = torch.rand(1, d, generator=draw, dtype=torch.float64)
    points = torch.where(torch.rand(1, d, generator=draw) < 0.3, points.round(), points).to(dtype)
    normal = torch.randn(1, d, generator=draw, dtype=torch.float64)
    normal = (normal * 10 ** (-spread * torch.rand(1, d, generator=draw, dtype=torch.float64))).to(dtype)
    value = (ask * normal.abs().sum(1) / 4).to(dtype)
    move, share = to_plane(points, normal, value, norm)
    tiny = 20 * torch.finfo(dtype).eps
    end = points + move
    assert end.min() >= -tiny
    assert end.max() <= 1 + tiny
    weight = normal.abs().sum().item()
    brought = (normal * move).sum().item()
    assert brought == pytest.approx(-value.item() * share.item(), abs=tiny * weight)
    others = torch.rand(500, d, generator=draw, dtype=torch.float64).to(dtype)
    others = torch.cat((others, others.round(), end + (others - end) * 1e-3))  # all in the box
    levels = value + ((others - points) * normal).sum(1)
    if share.item() == 1:
        # Those beyond the plane cross it somewhere on the way: there they are on it.
        crossing = value / (value - levels)
        across = (levels.sign() != value.sign()) & (value != 0)
        lengths = length((others - points) * crossing.unsqueeze(1), norm)[across]
        if len(lengths):
            assert length(move, norm).item() <= lengths.min().item() + 1e-5
    else:
        assert (levels.abs() >= (value + (normal * move).sum(1)).abs() - tiny * weight).all()
        assert (levels.sign() == value.sign()).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e-3, 1e3, 1e20])
def test_the_scale_of_the_plane_does_not_matter_in_float32(norm: Norm, scale: float) -> None:
    points, normal, value = problem(3, n=20, d=30)
    want, part = to_plane(points, normal, value, norm)
    got, share = to_plane(points.float(), (normal * scale).float(), (value * scale).float(), norm)
    torch.testing.assert_close(got.double(), want, rtol=0, atol=2e-5)
    torch.testing.assert_close(share.double(), part, rtol=0, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_many_planes_at_once_are_each_alone(norm: Norm) -> None:
    points, _, _ = problem(4, n=6)
    normals, values = (torch.stack(each) for each in zip(*(problem(s, n=6)[1:] for s in (5, 6, 7)), strict=True))
    moves, share = to_plane(points, normals, values, norm)
    assert moves.shape == (3, 6, 5)
    for k in range(3):
        for i in range(6):
            move, part = to_plane(points[i : i + 1], normals[k, i : i + 1], values[k, i : i + 1], norm)
            torch.testing.assert_close(moves[k, i], move[0], rtol=0, atol=1e-14)
            torch.testing.assert_close(share[k, i], part[0], rtol=0, atol=1e-14)


@pytest.mark.parametrize("norm", NORMS)
def test_the_ends_of_what_can_be_asked(norm: Norm) -> None:
    points = torch.tensor([[0.25, 0.5, 1.0]]).expand(4, 3)
    normal = torch.tensor([[0.0, 0.0, 0.0], [1.0, -1.0, 0.0], [1.0, -1.0, 0.0], [0.0, 0.0, 1.0]])
    value = torch.tensor([-1.0, 0.0, -torch.inf, -1.0])
    move, share = to_plane(points, normal, value, norm)
    want = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.75, -0.5, 0.0], [0.0, 0.0, 0.0]])
    assert torch.equal(move, want)  # no way; already there; to the corner, endlessly far; no room
    assert share.tolist() == [0.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("norm", NORMS)
def test_large_images_with_weights_of_all_sizes_take_few_rounds(norm: Norm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rooms and weights from 1 down to 1e-12, so that the breakpoints lie as far apart as they can."""
    monkeypatch.setattr(hyperplane, "ROUNDS", 60)
    draw = torch.Generator().manual_seed(0)
    points = 10 ** (-12 * torch.rand(12, 3072, generator=draw))
    normal = -(10 ** (-12 * torch.rand(12, 3072, generator=draw)))
    most = (normal.abs() * points).sum(1)
    value = -most * torch.linspace(0.05, 0.9999, 12)
    move, share = to_plane(points, normal, value, norm)
    assert (share == 1).all()
    left = (value + (move * normal).sum(1)).abs() / most
    assert left.max() < 3e-6
