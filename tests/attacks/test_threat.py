"""The threat: reading it, projecting into it, drawing from it, and the check that nothing leaves it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toy_classifiers import images

from sonet.attacks import L2, Linf, Threat, ThreatError, parse_eps


@pytest.mark.parametrize(
    ("text", "norm", "eps"),
    [
        ("linf:8/255", "linf", 8 / 255),
        ("linf:0.031", "linf", 0.031),
        ("l2:0.5", "l2", 0.5),
        ("L2: 1 ", "l2", 1.0),
        (" Linf : 16 / 255", "linf", 16 / 255),
        ("l2:0", "l2", 0.0),
        ("linf:1e-3", "linf", 1e-3),
        ("l2:.5", "l2", 0.5),
    ],
)
def test_reads(text: str, norm: str, eps: float) -> None:
    threat = Threat.parse(text)
    assert (threat.norm, threat.eps) == (norm, eps)
    assert Threat.parse(str(threat)).norm == norm
    assert Threat.parse(str(threat)).eps == pytest.approx(eps, rel=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("l1:0.1", "norm: got 'l1', expected linf or l2"),
        (":0.1", "norm: got ''"),
        ("linf", "threat: got 'linf', expected NORM:EPS, for example linf:8/255"),
        ("", "threat: got ''"),
        ("0.1", "threat: got '0.1'"),
        ("linf:", "eps: got '', expected a number such as 0.031 or a fraction such as 8/255"),
        ("linf:eight", "eps: got 'eight'"),
        ("linf:8/0", "eps: got '8/0'"),
        ("linf:8/255/2", "eps: got '8/255/2'"),
        ("linf:8/", "eps: got '8/'"),
        ("linf:0.1:2", "eps: got '0.1:2'"),
        ("linf:-0.03", "eps: got -0.03, expected a finite number >= 0. .*write 8/255 for 8 grey levels"),
        ("linf:-8/255", "eps: got -0.0313"),
        ("linf:nan", "eps: got nan, expected a finite number"),
        ("l2:inf", "eps: got inf"),
        ("l2:1e999", "eps: got inf"),
        ("l2:1e400/1", "eps: got inf"),
    ],
)
def test_refuses(text: str, message: str) -> None:
    with pytest.raises(ThreatError, match=message):
        Threat.parse(text)


@pytest.mark.parametrize("eps", [-0.03, math.nan, math.inf, "nan", "-1", "x"])
@pytest.mark.parametrize("make", [Linf, L2, parse_eps, lambda eps: Threat("linf", eps)])
def test_every_way_to_a_radius_refuses_the_same(make: Any, eps: float | str) -> None:
    with pytest.raises(ThreatError, match="eps: got"):
        make(eps)


def test_a_radius_is_a_number_however_it_was_written() -> None:
    assert Linf("8/255") == Linf(8 / 255) == Threat("linf", "8/255")  # type: ignore[arg-type]
    assert Threat("l2", 1).eps == 1.0
    assert isinstance(Threat("l2", 1).eps, float)
    with pytest.raises(ThreatError, match="norm: got 'l1'"):
        Threat("l1", 0.1)  # type: ignore[arg-type]


def hand_distance(norm: str, a: Tensor, b: Tensor) -> Tensor:
    difference = (a - b).flatten(1).double()
    return difference.abs().amax(1) if norm == "linf" else difference.square().sum(1).sqrt()


def test_distances_by_hand() -> None:
    x = torch.zeros(2, 1, 1, 2)
    moved = torch.tensor([[[[0.3, 0.4]]], [[[0.0, 1.0]]]])
    assert Linf(1).distance(moved, x).tolist() == pytest.approx([0.4, 1.0])
    assert L2(1).distance(moved, x).tolist() == pytest.approx([0.5, 1.0])


SIZES = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5))
THREATS = st.builds(Threat, st.sampled_from(["linf", "l2"]), st.one_of(st.just(0.0), st.floats(1e-4, 3)))


@settings(max_examples=120, deadline=None)
@given(threat=THREATS, shape=SIZES, seed=st.integers(0, 99), reach=st.floats(1e-3, 5), double=st.booleans())
def test_projection(threat: Threat, shape: tuple[int, int, int], seed: int, reach: float, double: bool) -> None:
    """Inside ball and box; a second time changes nothing; what is inside already stays."""
    dtype = torch.float64 if double else torch.float32
    rounding = 1e-13 if double else 1e-6
    x = images(3, seed, shape=shape).to(dtype)
    x[1] = x[1].round()  # a corner of the box
    far = x + reach * (2 * images(3, seed + 1, shape=shape).to(dtype) - 1)
    near = threat.project(far, x)
    assert near.dtype == dtype
    assert near.min() >= 0
    assert near.max() <= 1
    assert (hand_distance(threat.norm, near, x) <= threat.eps + rounding).all()
    torch.testing.assert_close(threat.project(near, x), near, rtol=0, atol=rounding)
    threat.check(near, x)
    inside = x + 0.9 * (near - x)
    torch.testing.assert_close(threat.project(inside, x), inside, rtol=0, atol=rounding)
    assert torch.equal(threat.project(x, x), x)


def test_projection_by_hand() -> None:
    x = torch.full((1, 1, 1, 2), 0.5)
    far = torch.tensor([[[[0.5 + 0.6, 0.5 - 0.8]]]])
    torch.testing.assert_close(Linf(0.3).project(far, x), torch.tensor([[[[0.8, 0.2]]]]))
    torch.testing.assert_close(L2(0.5).project(far, x), torch.tensor([[[[0.8, 0.1]]]]))
    torch.testing.assert_close(L2(0.9).project(far, x), torch.tensor([[[[1.0, 0.0]]]]))  # 1.04, -0.22: the box cuts


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-25, 1e-40, 1e30])
def test_steepest_has_unit_length_however_small_the_gradient(scale: float) -> None:
    """A saturated cross-entropy has gradients of 1e-25: the step is no shorter for that."""
    gradient = torch.tensor([[[[3.0, -4.0]]]]) * scale
    assert Linf(1).steepest(gradient).flatten().tolist() == [1.0, -1.0]
    assert L2(1).steepest(gradient).flatten().tolist() == pytest.approx(
        [0.6, -0.8], abs=1e-4 if scale < 1e-37 else 1e-6
    )
    assert L2(1).steepest(gradient).dtype == torch.float32


@pytest.mark.parametrize("make", [Linf, L2])
def test_steepest_of_a_zero_gradient_stands_still(make: Any) -> None:
    assert torch.equal(make(1).steepest(torch.zeros(2, 1, 2, 2)), torch.zeros(2, 1, 2, 2))


def draws(n: int, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(n, *shape, generator=generator, dtype=torch.float64)
    normal = torch.randn(n, *shape, generator=generator, dtype=torch.float64)
    return uniform, normal, torch.rand(n, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("eps", [0.0, 0.1, 2.0])
def test_random_offsets_are_uniform_in_the_cube(eps: float) -> None:
    offsets = Linf(eps).random_offset(*draws(4000, (1, 2, 2)))
    assert offsets.abs().max() <= eps
    assert offsets.abs().amax((1, 2, 3)).median() == pytest.approx(eps * 0.5**0.25, rel=0.03)
    torch.testing.assert_close(offsets.mean(0), torch.zeros(1, 2, 2).double(), rtol=0, atol=0.03 * eps)
    torch.testing.assert_close(offsets.std(0), torch.full((1, 2, 2), eps / 3**0.5).double(), rtol=0.03, atol=0)


@pytest.mark.parametrize("eps", [0.0, 0.1, 2.0])
def test_random_offsets_are_uniform_in_the_l2_ball(eps: float) -> None:
    """The d-th power of the radius is uniform, and no direction is preferred: E x x^T = eps^2 / (d + 2) 1."""
    offsets = L2(eps).random_offset(*draws(4000, (1, 2, 2))).flatten(1)
    radius = offsets.norm(dim=1)
    assert radius.max() <= eps * (1 + 1e-12)
    for share in (0.1, 0.5, 0.9):
        assert (radius <= eps * share**0.25).double().mean().item() == pytest.approx(
            1.0 if eps == 0 else share, abs=0.03
        )
    covariance = offsets.T @ offsets / 4000
    torch.testing.assert_close(covariance, torch.eye(4).double() * eps**2 / 6, rtol=0, atol=0.01 * eps**2)


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.3)])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x + 0.2, "beyond eps"),
        (lambda x: torch.where(x == x.max(), 1.001, x), r"0\.001 outside \[0, 1\]"),
        (lambda x: torch.where(x == x.min(), -0.002, x), r"0\.002 outside \[0, 1\]"),
        (lambda x: torch.where(x == x.min(), torch.nan, x), "finite: False"),
        (lambda x: torch.where(x == x.min(), torch.inf, x), "finite: False"),
    ],
)
def test_the_check_catches_what_left(threat: Threat, change: Any, message: str) -> None:
    x = images(2).float()
    x[0, 0, 0, 0], x[0, 0, 0, 1] = 0.99, 0.001
    threat.check(x, x)
    with pytest.raises(ThreatError, match=message):
        threat.check(change(x), x)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.5)])
def test_the_check_lets_rounding_pass_and_nothing_more(norm: Any, eps: float) -> None:
    threat = Threat(norm, eps)
    x = torch.full((1, 3, 32, 32), 0.5, dtype=torch.float64)
    direction = threat.steepest(torch.ones_like(x))
    threat.check(x + (eps + 5e-7) * direction, x)
    with pytest.raises(ThreatError, match="beyond eps"):
        threat.check(x + (eps + 1e-5) * direction, x)


@pytest.mark.parametrize("size", [32, 224])
@pytest.mark.parametrize("eps", [0.5, 5.0, 20.0])
def test_a_projected_large_image_passes_the_check(size: int, eps: float) -> None:
    """Every pixel is rounded, and all the same way: a norm summed in float32 would be off by 1e-4."""
    x = torch.full((2, 3, size, size), 0.5)
    far = x + 0.4 * torch.ones_like(x) * torch.tensor([1.0, -1.0])[:, None, None, None]
    near = L2(eps).project(far, x)
    L2(eps).check(near, x)
    assert (hand_distance("l2", near, x) > min(eps, 0.4 * (3 * size * size) ** 0.5) - 1e-4).all()
