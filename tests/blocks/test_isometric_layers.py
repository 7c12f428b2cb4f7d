"""Layers that lose no distance or gain none: isometries, exchanges of places, and rows of length one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sonet.blocks import MaxMin, SpreadChannels, UnitRows, Unshuffle
from sonet.blocks.isometric import SplitLift

SEEDS = st.integers(0, 2**30)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def lengths(x: Tensor) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return found


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, given_channels=st.integers(1, 4), more=st.integers(0, 9))
def test_spreading_channels_is_an_isometry(seed: int, given_channels: int, more: int) -> None:
    x = normal(3, given_channels, 2, 3, seed=seed)
    channels = given_channels + more
    out = SpreadChannels(given_channels, channels)(x)
    assert out.shape == (3, channels, 2, 3)
    assert out.is_contiguous()
    torch.testing.assert_close(lengths(out), lengths(x), rtol=1e-12, atol=0)


def test_spread_channels_are_repeated_and_the_rest_are_zeros_by_hand() -> None:
    x = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
    out = SpreadChannels(2, 9)(x).flatten()
    torch.testing.assert_close(out, torch.tensor([3.0, 4, 3, 4, 3, 4, 3, 4, 0]) / 2)


def test_spreading_refuses_fewer_channels_and_other_images() -> None:
    with pytest.raises(ValueError, match="at least the image's 3 channels, got 2"):
        SpreadChannels(3, 2)
    with pytest.raises(ValueError, match="expected images with 3 channels, got 1"):
        SpreadChannels(3, 6)(torch.rand(1, 1, 2, 2))


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, channels=st.integers(1, 3), height=st.integers(1, 7), width=st.integers(1, 7))
def test_unshuffling_is_an_isometry_for_every_size(seed: int, channels: int, height: int, width: int) -> None:
    x = normal(2, channels, height, width, seed=seed)
    out = Unshuffle()(x)
    assert out.shape == (2, 4 * channels, -(-height // 2), -(-width // 2))
    torch.testing.assert_close(lengths(out), lengths(x), rtol=1e-12, atol=0)
    # Nothing but places changes.
    padded = out.numel() - x.numel()
    wanted = torch.cat((x.flatten(), torch.zeros(padded, dtype=x.dtype)))
    assert torch.equal(out.flatten().sort().values, wanted.sort().values)


def test_a_three_by_three_image_unshuffles_by_hand() -> None:
    out = Unshuffle()(torch.arange(1.0, 10.0).view(1, 1, 3, 3))
    assert out[0].tolist() == [[[1, 3], [7, 9]], [[2, 0], [8, 0]], [[4, 6], [0, 0]], [[5, 0], [0, 0]]]


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, half=st.integers(1, 3))
def test_splitting_is_an_isometry_and_undone_by_putting_together(seed: int, half: int) -> None:
    x = normal(2, 2 * half, 3, 2, seed=seed)
    y, z = SplitLift()(x)
    assert y.shape == z.shape
    assert y.is_contiguous()
    assert z.is_contiguous()
    assert torch.equal(torch.cat((y, z), 1), x)


@settings(max_examples=80, deadline=None)
@given(seed=SEEDS, half=st.integers(1, 4), ties=st.booleans(), near=st.booleans())
def test_the_greater_and_the_smaller_change_places_only(seed: int, half: int, ties: bool, near: bool) -> None:
    x, y = normal(4, 2 * half, 2, 2, seed=seed), normal(4, 2 * half, 2, 2, seed=seed + 1)
    if ties:
        x, y = x.round(), y.round()
    if near:  # pairs that are ordered differently on both sides
        y = x + 1e-3 * y
    swap = MaxMin()
    assert swap(x).shape == x.shape
    assert torch.equal(swap(x).flatten(1).sort(1).values, x.flatten(1).sort(1).values)
    assert bool((lengths(swap(x) - swap(y)) <= lengths(x - y) * (1 + 1e-14)).all())


def test_the_derivative_of_the_exchange_is_orthogonal() -> None:
    found: Tensor = torch.autograd.functional.jacobian(  # type: ignore[no-untyped-call]
        MaxMin(), normal(1, 6, 1, 2)
    )
    jacobian = found.reshape(12, 12)
    torch.testing.assert_close(jacobian @ jacobian.T, torch.eye(12, dtype=torch.float64), rtol=0, atol=0)


def test_the_greater_come_first_by_hand() -> None:
    x = torch.tensor([1.0, 2.0, 5.0, -3.0]).view(1, 4, 1, 1)
    assert MaxMin()(x).flatten().tolist() == [2, 5, 1, -3]


def test_an_odd_number_of_channels_has_no_pairs() -> None:
    with pytest.raises(ValueError, match="even"):
        MaxMin()(normal(1, 3, 2, 2))


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, features=st.integers(1, 6), classes=st.integers(2, 5), power=st.integers(-8, 8))
def test_every_row_has_length_one_and_gaps_bound_differences_of_logits(
    seed: int, features: int, classes: int, power: int
) -> None:
    head = UnitRows(features, classes).double()
    with torch.no_grad():
        head.weight.copy_(normal(classes, features, seed=seed) * 10.0**power)
        head.bias.copy_(normal(classes, seed=seed + 1))
        x, y = normal(20, features, 1, 1, seed=seed + 2), normal(20, features, 1, 1, seed=seed + 3)
        torch.testing.assert_close(head.rows().norm(dim=1), torch.ones(classes, dtype=torch.float64))
        gaps, moved = head.gaps(), head(x) - head(y)
        assert gaps.shape == (classes, classes)
        changes = (moved[:, :, None] - moved[:, None]).abs()
        assert bool((changes <= gaps * lengths(x - y)[:, None, None] + 1e-12).all())
        assert float(gaps.max()) <= 2 * (1 + 1e-12)
        # Attained along w_i - w_j.
        rows = head.rows()
        step = (rows[0] - rows[1]).view(1, features, 1, 1)
        if float(step.norm()) > 1e-3:
            along = head(x[:1] + step) - head(x[:1])
            assert float(along[0, 0] - along[0, 1]) == pytest.approx(float(gaps[0, 1] * step.norm()), rel=1e-9)


def test_gaps_have_a_gradient_also_where_rows_are_the_same() -> None:
    head = UnitRows(4, 3)
    with torch.no_grad():
        head.weight[1] = head.weight[0]
    (gradient,) = torch.autograd.grad(head.gaps().sum(), head.weight)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 0


def test_the_head_takes_images_flattened() -> None:
    head = UnitRows(12, 3).double()
    x = normal(2, 3, 2, 2)
    expected = x.flatten(1) @ (head.weight / head.weight.norm(dim=1, keepdim=True)).T + head.bias
    torch.testing.assert_close(head(x), expected)
