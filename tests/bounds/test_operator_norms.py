"""Norms of convolutions and matrices from above: never below what a decomposition finds, and rarely far above."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from explicit_matrices import KERNELS, conv_matrix, kernel_of, norm, normal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sonet.bounds import conv_norm, matrix_norm, norms

SEEDS = st.integers(0, 2**30)
EXACT = 1 - 1e-13
"""The decomposition itself is rounded."""
DTYPES = [torch.float32, torch.float64]


def bound(kernel: Tensor, size: tuple[int, int], *, stride: int = 1, padding: int = 1) -> float:
    return conv_norm(kernel, size, stride=stride, padding=padding).detach().item()


@settings(max_examples=300, deadline=None)
@given(
    seed=SEEDS,
    kind=st.sampled_from(KERNELS),
    channels=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    taps=st.sampled_from([3, 4]),
    stride=st.sampled_from([1, 2]),
    padding=st.sampled_from([0, 1]),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    power=st.sampled_from([0, 0, 0, -20, -10, 10, 20]),
    dtype=st.sampled_from(DTYPES),
)
def test_no_convolution_is_larger_than_its_bound(
    seed: int,
    kind: str,
    channels: tuple[int, int],
    taps: int,
    stride: int,
    padding: int,
    height: int,
    width: int,
    power: int,
    dtype: torch.dtype,
) -> None:
    size = (max(height, taps - 2 * padding), max(width, taps - 2 * padding))
    kernel = (kernel_of(kind, seed, *channels, taps, taps) * 10.0**power).to(dtype)
    truth = norm(conv_matrix(kernel, size, stride=stride, padding=padding)) * EXACT
    assert bound(kernel, size, stride=stride, padding=padding) >= truth
    with patch.object(norms, "DENSE", 0):  # small images by way of the torus as well
        assert bound(kernel, size, stride=stride, padding=padding) >= truth


@settings(max_examples=100, deadline=None)
@given(
    seed=SEEDS,
    taps=st.integers(1, 5),
    stride=st.integers(1, 3),
    padding=st.integers(0, 3),
    height=st.integers(5, 9),
    width=st.integers(5, 9),
)
def test_other_kernels_strides_and_paddings_are_bounded_too(
    seed: int, taps: int, stride: int, padding: int, height: int, width: int
) -> None:
    """1 x 1 shortcuts with a stride, and kernels whose taps fall beside the image."""
    kernel, size = kernel_of("wild", seed, 2, 3, taps, taps), (height, width)
    with patch.object(norms, "DENSE", 0):
        found = bound(kernel, size, stride=stride, padding=padding)
    assert found >= norm(conv_matrix(kernel, size, stride=stride, padding=padding)) * EXACT


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("taps", "stride"), [(3, 1), (4, 2)])
def test_a_kernel_of_ones_has_the_norm_of_the_circular_convolution(dtype: torch.dtype, taps: int, stride: int) -> None:
    """All phases add up at frequency zero: the norm is taps^2 sqrt(C_out C_in) / stride."""
    kernel = torch.ones(3, 2, taps, taps, dtype=dtype)
    circular = taps * taps * 6**0.5 / stride
    found = bound(kernel, (20, 17), stride=stride)
    assert circular * EXACT <= found <= circular * 1.002


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("place", [(0, 0), (1, 1), (2, 1)])
@pytest.mark.parametrize("size", [(1, 1), (4, 6), (30, 20)])
def test_a_single_tap_moves_the_image_and_has_its_own_size(
    dtype: torch.dtype, place: tuple[int, int], size: tuple[int, int]
) -> None:
    kernel = torch.zeros(2, 3, 3, 3, dtype=dtype)
    kernel[1, 2, place[0], place[1]] = -0.7
    falls_beside = size == (1, 1) and place != (1, 1)
    found = bound(kernel, size)
    assert found < 1e-18 if falls_beside else 0.7 * (1 - 1e-7) <= found <= 0.7 * 1.01


@pytest.mark.parametrize(("taps", "stride", "size"), [(3, 1, (16, 16)), (4, 2, (18, 16)), (3, 2, (17, 16))])
def test_from_sixteen_pixels_on_it_is_within_five_percent(taps: int, stride: int, size: tuple[int, int]) -> None:
    kernel = normal(0, 2, 2, taps, taps)
    truth = norm(conv_matrix(kernel, size, stride=stride))
    assert truth * EXACT <= bound(kernel, size, stride=stride) <= 1.05 * truth
    assert truth * EXACT <= bound(kernel.float(), size, stride=stride) <= 1.05 * truth


@pytest.mark.parametrize(("taps", "stride", "size"), [(3, 1, (5, 4)), (4, 2, (7, 6)), (4, 2, (5, 9))])
def test_the_transposed_convolution_has_the_same_norm(taps: int, stride: int, size: tuple[int, int]) -> None:
    kernel = normal(1, 3, 2, taps, taps)
    rows, columns = ((n + 2 - taps) // stride + 1 for n in size)
    short = [n - ((m - 1) * stride - 2 + taps) for n, m in zip(size, (rows, columns), strict=True)]
    basis = torch.eye(3 * rows * columns, dtype=torch.float64).view(-1, 3, rows, columns)
    back = F.conv_transpose2d(basis, kernel, stride=stride, padding=1, output_padding=short)
    assert tuple(back.shape[2:]) == size
    there = conv_matrix(kernel, size, stride=stride)
    assert torch.equal(back.flatten(1), there)
    assert norm(back.flatten(1)) * EXACT <= bound(kernel, size, stride=stride)


@settings(max_examples=200, deadline=None)
@given(
    seed=SEEDS,
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kind=st.sampled_from(["normal", "wild", "identity", "orthogonal", "one rank", "graded"]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.complex64, torch.complex128]),
)
def test_no_matrix_is_larger_than_its_bound_nor_much_smaller(
    seed: int, shape: tuple[int, int], kind: str, dtype: torch.dtype
) -> None:
    """At most n^(1/2^11) above: ten squarings, the Frobenius norm at the end."""
    rows, columns = shape
    matrix = normal(seed, rows, columns)
    if kind == "wild":
        matrix = kernel_of("wild", seed, rows, columns, 1, 1)[..., 0, 0]
    elif kind == "identity":
        matrix = torch.eye(rows, columns, dtype=torch.float64)
    elif kind == "orthogonal":
        matrix = torch.linalg.qr(matrix)[0]
    elif kind == "one rank":
        matrix = matrix[:, :1] @ matrix[:1]
    elif kind == "graded":
        matrix = matrix * 10.0 ** -torch.arange(columns)
    if dtype.is_complex:
        matrix = matrix * torch.polar(torch.ones_like(matrix), normal(seed + 1, *matrix.shape))
    matrix = matrix.to(dtype)
    truth, found = norm(matrix), float(matrix_norm(matrix))
    single = dtype in (torch.float32, torch.complex64)
    assert truth * EXACT <= found
    assert found <= truth * min(shape) ** (1 / 2**11) * (1.001 if single else 1 + 1e-9)


@pytest.mark.parametrize("shape", [(1, 100_000), (1000, 1), (3, 10_000)])
@pytest.mark.parametrize("value", [0.1, 0.7])
def test_the_rounding_of_long_sums_is_counted(shape: tuple[int, int], value: float) -> None:
    """Of a matrix of one rank nothing else separates the bound from the norm."""
    matrix = torch.full(shape, value)
    assert norm(matrix) * EXACT <= float(matrix_norm(matrix)) <= norm(matrix) * 1.05
    assert float(matrix_norm(matrix.double())) == pytest.approx(norm(matrix), rel=1e-8)


def test_of_several_matrices_it_is_the_largest() -> None:
    stack = normal(0, 5, 4, 6) * torch.tensor([1.0, 3.0, 0.0, 1e-3, 2.0])[:, None, None]
    alone = [float(matrix_norm(matrix)) for matrix in stack]
    assert float(matrix_norm(stack)) == pytest.approx(max(alone), rel=1e-12)
    assert float(matrix_norm(stack.mT)) == pytest.approx(max(alone), rel=1e-12)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("size", [(3, 3), (20, 20)])
def test_what_is_not_finite_has_no_norm(bad: float, size: tuple[int, int]) -> None:
    kernel = normal(0, 2, 2, 3, 3)
    kernel[1, 0, 2, 2] = bad
    with pytest.raises(ValueError, match="not finite"):
        conv_norm(kernel, size)
    with pytest.raises(ValueError, match="not finite"):
        matrix_norm(kernel[1, 0])
    with pytest.raises(ValueError, match="not finite"):
        matrix_norm(kernel[1, 0].to(torch.complex64))


@pytest.mark.parametrize(("stride", "size"), [(1, (4, 5)), (1, (9, 9)), (2, (9, 8))])
def test_the_gradient_is_that_of_the_bound(stride: int, size: tuple[int, int]) -> None:
    kernel = normal(2, 2, 2, 3, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda k: conv_norm(k, size, stride=stride), kernel)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(3, 3), (12, 12)])
@pytest.mark.parametrize("power", [-15, 0, 10])
def test_gradients_are_finite_at_every_scale(dtype: torch.dtype, size: tuple[int, int], power: int) -> None:
    kernel = (normal(3, 3, 2, 3, 3) * 10.0**power).to(dtype).requires_grad_()
    found = conv_norm(kernel, size)
    (gradient,) = torch.autograd.grad(found, kernel)
    assert torch.isfinite(found)
    assert torch.isfinite(gradient).all()
    # Euler's theorem: the bound is of degree one.
    assert float(found.detach()) == pytest.approx(float((gradient * kernel.detach()).sum()), rel=1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "size",
    [(3, 3), (12, 12)],
)
def test_the_gradient_at_a_kernel_of_zeros_is_finite(dtype: torch.dtype, size: tuple[int, int]) -> None:
    kernel = torch.zeros(3, 2, 3, 3, dtype=dtype, requires_grad=True)
    (gradient,) = torch.autograd.grad(conv_norm(kernel, size), kernel)
    assert torch.isfinite(gradient).all()


def test_the_norm_of_nothing_is_next_to_nothing() -> None:
    for size in ((3, 3), (12, 12)):
        assert 0 <= bound(torch.zeros(2, 2, 3, 3), size) < 1e-18
        assert 0 <= bound(torch.zeros(2, 2, 3, 3, dtype=torch.float64), size) < 1e-150


def test_descending_the_bound_lowers_the_true_norm() -> None:
    kernel, size = normal(4, 2, 2, 3, 3).requires_grad_(), (6, 6)
    before = norm(conv_matrix(kernel, size))
    for _ in range(10):
        (gradient,) = torch.autograd.grad(conv_norm(kernel, size), kernel)
        kernel = (kernel - 0.1 * gradient).detach().requires_grad_()
    assert norm(conv_matrix(kernel, size)) < 0.8 * before
