"""The normalising kernels against PyTorch's operators: values, gradients, and what rounding does to both."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import DOUBLE, EPS, Case, cases, drawn, errors, no_worse, same
from torch import Tensor

from sonet.kernels import Sum, act_norm, act_norm_back, sum_norm

pytestmark = pytest.mark.usefixtures("compiled")
FLOAT = torch.finfo(torch.float32).eps
quick = settings(max_examples=60, deadline=None)


def check(case: Case) -> None:
    inputs = case.inputs()
    sizes = case.size(*inputs)
    for error, size in zip(errors(case.fast(*inputs), case.plain(*inputs)), sizes, strict=True):
        assert error <= DOUBLE * size


@quick
@given(cases())
def test_in_float64_they_are_the_operators(case: Case) -> None:
    check(case)


def rounding(case: Case) -> bool:
    """In float32, against the same inputs in float64."""
    inputs = case.inputs(torch.float32)
    wide = [part.double() for part in inputs]
    return no_worse(case.fast(*inputs), case.plain(*inputs), case.plain(*wide), case.size(*wide), FLOAT)


@quick
@given(cases())
def test_in_float32_they_round_no_worse(case: Case) -> None:
    assert rounding(case)


LARGE = [
    Case((2, 8, 16, 16), 2, offset=1000.0),
    Case((2, 7, 9, 5), 1, -1.0, 0.01, offset=-300.0),
    Case((1, 3, 1, 1), 1, offset=1000.0),
    Case((2, 1, 1, 3), 1, offset=1000.0),
    Case((2, 64, 32, 32), 8),
    Case((1, 1, 256, 256), 1, offset=10.0),
    Case((1, 16, 128, 128), 4, 1.0, 0.01),
]


@pytest.mark.parametrize("shape", [(1, 1, 1024, 1024), (1, 16, 128, 128), (4, 64, 32, 32)])
@pytest.mark.parametrize("offset", [0.0, 10.0])
def test_moments_of_large_images_keep_their_digits(shape: tuple[int, int, int, int], offset: float) -> None:
    """Mean and inverse deviation in float32, within two roundings: a long sum would lose three bits more."""
    _, values, weight, bias = Case(shape, 1, offset=offset).inputs(torch.float32)
    _, mean, rstd = act_norm(values, weight, bias, 1, EPS)
    wide = values.double().flatten(1)
    assert errors([mean], [wide.mean(1, keepdim=True)])[0] <= 2 * FLOAT * (1 + offset)
    assert errors([rstd], [(wide.var(1, unbiased=False, keepdim=True) + EPS).rsqrt()])[0] <= 2 * FLOAT


@pytest.mark.parametrize("case", LARGE, ids=str)
def test_neither_large_means_nor_large_images_cost_digits(case: Case) -> None:
    assert rounding(case)
    check(case)


@pytest.mark.parametrize("shape", [(2, 5, 1, 1), (2, 5, 2, 1), (2, 16, 4, 4), (1, 1, 1, 1)])
@pytest.mark.parametrize("offset", [1e6, -1e9])
def test_small_images_far_from_zero_keep_their_variance(shape: tuple[int, int, int, int], offset: float) -> None:
    """On a grid that is exact at any offset, so that moving the values moves the mean and nothing else."""
    case = Case(shape, 1)
    _, values, weight, bias = case.inputs()
    grid = (values * 64).round() / 64
    near, far = (act_norm(grid + by, weight, bias, 1, EPS) for by in (0.0, offset))
    torch.testing.assert_close(far[2], near[2], rtol=1e-12, atol=0)
    torch.testing.assert_close(far[1], near[1] + offset, rtol=1e-15, atol=0)
    # The mean is rounded in the last digit that it has there, and so are the values.
    torch.testing.assert_close(far[0], near[0], rtol=0, atol=1e-15 * abs(offset) * near[2].max().item() * 4)


@pytest.mark.parametrize("value", [0.0, 1.0, -7.3, 1e8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_image_is_the_bias(value: float, dtype: torch.dtype) -> None:
    """Up to the last digit of the value over the smallest deviation, sqrt(eps)."""
    values = torch.full((2, 6, 5, 5), value, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight, bias = drawn(0, 6, dtype=dtype), drawn(1, 6, dtype=dtype)
    out, mean, rstd = act_norm(values, weight, bias, 3, EPS)
    assert (rstd <= EPS**-0.5 * (1 + 4 * torch.finfo(dtype).eps)).all()
    torch.testing.assert_close(mean, torch.full_like(mean, value), rtol=torch.finfo(dtype).eps, atol=0)
    slip = 4 * torch.finfo(dtype).eps * (1 + abs(value)) * EPS**-0.5 * weight.abs().max().item()
    torch.testing.assert_close(out, bias.view(1, -1, 1, 1).expand_as(out), rtol=0, atol=slip)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("shape", [(3, 5, 3, 3), (3, 16, 8, 8), (3, 2, 1, 1)])
@pytest.mark.parametrize("slope", [1.0, 0.01])
def test_a_sample_that_is_no_number_spoils_itself_alone(
    bad: float, shape: tuple[int, int, int, int], slope: float
) -> None:
    case = Case(shape, 1, -1.0, slope)
    grad, values, weight, bias = case.inputs()
    spoilt = values.clone()
    spoilt[1, -1, -1, -1] = bad
    results = []
    for x in (values, spoilt):
        out, mean, rstd = act_norm(x, weight, bias, 1, EPS, case.sign, slope)
        results.append(
            [out, mean, rstd, act_norm_back(grad, x, weight, mean, rstd, case.sign, slope, weights=False)[0]]
        )
    well, ill = results
    assert same([part[::2] for part in well], [part[::2] for part in ill])
    assert all(part[1].isnan().all() for part in (ill[0], ill[3]))
    assert case.plain(grad, spoilt, weight, bias)[0][1].isnan().all()  # as PyTorch has it


@pytest.mark.parametrize("case", [Case((5, 6, 7, 7), 3, -1.0, 0.1), Case((2, 64, 16, 16), 8)], ids=str)
def test_neither_threads_nor_batch_mates_change_a_bit(case: Case, two_threads: None) -> None:
    grad, values, weight, bias = case.inputs(torch.float32)
    both = case.fast(grad, values, weight, bias)
    torch.set_num_threads(1)
    assert same(both, case.fast(grad, values, weight, bias))
    for i in range(len(values)):
        one = case.fast(grad[i : i + 1], values[i : i + 1], weight, bias)
        assert same([part[i : i + 1] for part in both[:2]], one[:2])


def test_without_weights_the_gradient_of_the_values_is_the_same() -> None:
    case = Case((3, 6, 5, 5), 2, -1.0, 0.1)
    grad, values, weight, bias = case.inputs()
    _, mean, rstd = act_norm(values, weight, bias, 2, EPS, -1.0, 0.1)
    some, nothing, none = act_norm_back(grad, values, weight, mean, rstd, -1.0, 0.1, weights=False)
    assert nothing is None
    assert none is None
    assert torch.equal(some, act_norm_back(grad, values, weight, mean, rstd, -1.0, 0.1)[0])


@quick
@given(cases())
def test_a_sum_normalised_on_the_way_is_the_sum_normalised(case: Case) -> None:
    """Whether the sum is kept or not."""
    case = dataclasses.replace(case, sign=1.0, slope=1.0)
    _, base, weight, bias = case.inputs()
    terms = [drawn(40 + i, *case.shape) for i in range(3)]
    h, shares = drawn(50, len(base)), [0.3, -2.0, 1.5]
    x = Sum(base, h, terms, shares).made()
    expected: list[Tensor] = [x, *act_norm(x, weight, bias, case.groups, EPS)]
    kept, *rest = sum_norm(base, h, terms, shares, weight, bias, case.groups, EPS)
    lost, *again = sum_norm(base, h, terms, shares, weight, bias, case.groups, EPS, keep=False)
    assert lost is None
    assert kept is not None
    assert same([kept, *rest], [x, *again])
    for error, size in zip(
        errors([kept, *rest], expected), [1.0, *[part.abs().max() for part in expected[1:]]], strict=True
    ):
        assert error <= DOUBLE * size


@quick
@given(cases(), st.booleans(), st.booleans())
def test_a_gradient_summed_on_the_way_is_the_sum(case: Case, based: bool, sized: bool) -> None:
    """With the gradients of the weights, and the inner products that a step's size wants."""
    grad, values, weight, bias = case.inputs()
    terms, scale = [drawn(40 + i, *case.shape) for i in range(3)], drawn(50, len(values))
    along, dots = drawn(60, *case.shape), [torch.ones(len(values), dtype=torch.float64) for _ in range(2)]
    summed = [
        Sum(grad if based else None, scale, terms, [0.3, -2.0, 1.5], *((along, d) if sized else ())) for d in dots
    ]
    _, mean, rstd = act_norm(values, weight, bias, case.groups, EPS, case.sign, case.slope)
    rest = (values, weight, mean, rstd, case.sign, case.slope)
    found, expected = act_norm_back(summed[0], *rest), act_norm_back(summed[1].made(), *rest)
    assert same([part for part in found if part is not None], [part for part in expected if part is not None])
    assert torch.equal(dots[0], dots[1])
