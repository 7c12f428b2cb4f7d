"""The kernels of a step's sums and errors against PyTorch's operators."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import DOUBLE, drawn, errors, no_worse, same
from torch import Tensor

from sonet.kernels import (
    Sum,
    all_finite,
    error_square,
    error_square_back,
    scaled_squares,
    scaled_squares_back,
)
from sonet.solvers.step import combine, mean_square

pytestmark = pytest.mark.usefixtures("compiled")
quick = settings(max_examples=60, deadline=None)
shapes = st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 7), st.integers(1, 7))
WEIGHTS = [0.25, -1.5, 3.0, 1e-3, -0.7, 0.1, 2.0]


def state(shape: tuple[int, ...], count: int, seed: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, list[Tensor]]:
    """(base, scale, terms)."""
    terms = [drawn(seed + 2 + i, *shape, dtype=dtype) for i in range(count)]
    return drawn(seed, *shape, dtype=dtype), drawn(seed + 1, shape[0]), terms


def per(scale: Tensor, like: Tensor) -> Tensor:
    return scale.to(like.dtype).view(-1, *(1,) * (like.dim() - 1))


@quick
@given(shapes, st.integers(1, 7), st.booleans(), st.integers(0, 99))
def test_sums_are_the_operators(shape: tuple[int, ...], count: int, based: bool, seed: int) -> None:
    base, scale, terms = state(shape, count, seed, torch.float64)
    weights, along = WEIGHTS[:count], drawn(seed + 77, *shape)
    inner = combine(weights, terms)
    expected = per(scale, inner) * inner + (base if based else 0)
    dots = torch.ones(len(base), dtype=torch.float64)
    got = [Sum(base if based else None, scale, terms, weights).made()]
    got += [Sum(base if based else None, scale, terms, weights, along, dots).made(), dots]
    size = 10 * (1 + expected.abs().max().item())
    wanted = [expected, expected, 1 + (along * inner).flatten(1).sum(1)]
    for error, unit in zip(errors(got, wanted), (size, size, size * base[0].numel()), strict=True):
        assert error <= DOUBLE * unit


def plain_error(before: Tensor, after: Tensor, scale: Tensor, inner: Tensor, rtol: float, atol: float) -> Tensor:
    tolerance = atol + rtol * torch.maximum(before.abs(), after.abs())
    return mean_square(inner * per(scale, inner) / tolerance)


def error_case(shape: tuple[int, ...], seed: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """(before, after, scale, terms), with elements where |before| and |after| are equal, and zero."""
    before, scale, terms = state(shape, 3, seed, dtype)
    after = drawn(seed + 30, *shape, dtype=dtype)
    flat_before, flat_after = before.permute(0, 2, 3, 1).flatten(1), after.permute(0, 2, 3, 1).flatten(1)
    flat_after[:, ::3] = -flat_before[:, ::3]
    flat_after[:, ::7], flat_before[:, ::7] = 0.0, 0.0
    assert flat_after.data_ptr() == after.data_ptr()
    return before, after, scale, terms


def fast_and_plain(shape: tuple[int, ...], seed: int, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    """(squares, gradients to before, after and the sum) by the kernels and by the operators."""
    before, after, scale, terms = error_case(shape, seed, dtype)
    weights, rtol, atol, grad = WEIGHTS[:3], 0.1, 0.03, drawn(seed + 60, shape[0])
    squares = error_square(before, after, scale, terms, weights, rtol, atol)
    more = drawn(seed + 70, *shape, dtype=dtype) if seed % 2 else None
    dsum, dbefore, dafter = error_square_back(before, after, scale, terms, weights, rtol, atol, grad, more)
    asked = [part.clone().requires_grad_() for part in (before, after, combine(weights, terms))]
    expected = plain_error(asked[0], asked[1], scale, asked[2], rtol, atol)
    gradients = torch.autograd.grad(expected, asked, grad)
    wanted = [expected.detach(), gradients[0], gradients[1] + (0 if more is None else more), gradients[2]]
    return [squares, dbefore, dafter, per(scale, dsum) * dsum], wanted


@quick
@given(shapes, st.integers(0, 99))
def test_errors_are_the_operators(shape: tuple[int, ...], seed: int) -> None:
    fast, plain = fast_and_plain(shape, seed, torch.float64)
    for error, part in zip(errors(fast, plain), plain, strict=True):
        assert error <= DOUBLE * (1 + part.abs().max().item())


@quick
@given(shapes, st.integers(0, 99))
def test_errors_in_float32_round_no_worse(shape: tuple[int, ...], seed: int) -> None:
    fast, plain = fast_and_plain(shape, seed, torch.float32)
    before, after, scale, terms = error_case(shape, seed, torch.float32)
    wide = plain_error(
        before.double(), after.double(), scale, combine(WEIGHTS[:3], [t.double() for t in terms]), 0.1, 0.03
    )
    size = wide.max().item()
    assert no_worse(fast[:1], plain[:1], [wide], [size], torch.finfo(torch.float32).eps)


def test_errors_of_large_states_in_float32() -> None:
    shape = (2, 64, 64, 64)
    before, after, scale, terms = error_case(shape, 0, torch.float32)
    truth = plain_error(
        before.double(), after.double(), scale, combine(WEIGHTS[:3], [t.double() for t in terms]), 0.1, 0.03
    )
    fast = error_square(before, after, scale, terms, WEIGHTS[:3], 0.1, 0.03)
    plain = plain_error(before, after, scale, combine(WEIGHTS[:3], terms), 0.1, 0.03)
    assert no_worse([fast], [plain], [truth], [truth.max().item()], torch.finfo(torch.float32).eps)


def test_inner_products_of_large_states_in_float32() -> None:
    """All of one sign, so that a sum in float32 that is carried along would lose digits."""
    along, term = (drawn(i, 2, 64, 64, 64, dtype=torch.float32).abs() for i in range(2))
    dots, ones = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    Sum(None, ones, [term], [1.0], along, dots).made()
    truth = (along.double() * term.double()).flatten(1).sum(1)
    plain = (along * term).flatten(1).sum(1)
    assert no_worse([dots], [plain], [truth], [truth.max().item()], torch.finfo(torch.float32).eps)


ROWS = ((1.0, 0.0, 0.0), (0.0, 0.5, -2.0), (0.3, 0.0, 1.0))


def scaled_and_plain(shape: tuple[int, ...], seed: int, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    """(squares, gradients to the terms), by the kernels and by the operators in float64; zeros are among the first."""
    first, _, terms = state(shape, 2, seed, dtype)
    first.permute(0, 2, 3, 1).flatten(1)[:, ::3] = 0.0
    terms, grad = [first, *terms], drawn(seed + 60, len(ROWS), shape[0])
    fast = [scaled_squares(terms, ROWS, 0.1, 0.03), *scaled_squares_back(terms, ROWS, 0.1, 0.03, grad)]
    asked = [term.double().requires_grad_() for term in terms]
    unit = 0.03 + 0.1 * asked[0].abs()
    squares = torch.stack([mean_square(combine(row, asked) / unit) for row in ROWS])
    return fast, [squares.detach(), *torch.autograd.grad(squares, asked, grad)]


@quick
@given(shapes, st.integers(0, 99), st.sampled_from([torch.float64, torch.float32]))
def test_squares_in_tolerances_are_the_operators(shape: tuple[int, ...], seed: int, dtype: torch.dtype) -> None:
    fast, plain = scaled_and_plain(shape, seed, dtype)
    unit = DOUBLE if dtype == torch.float64 else 32 * torch.finfo(dtype).eps
    for error, part in zip(errors(fast, plain), plain, strict=True):
        assert error <= unit * (1 + part.abs().max().item())


def test_a_term_without_weight_spoils_no_row() -> None:
    terms = [drawn(i, 3, 5, 3, 3) for i in range(3)]
    terms[2][1, 2, 1, 1] = torch.nan
    squares = scaled_squares(terms, ROWS, 0.1, 0.03)
    assert squares.isnan().tolist() == [[False] * 3, [False, True, False], [False, True, False]]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", [0, 7, -1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_no_number_spoils_one_sample(bad: float, place: int, dtype: torch.dtype) -> None:
    shape = (3, 5, 3, 3)
    results = []
    for spoil in (False, True):
        base, scale, terms = state(shape, 3, 0, dtype)
        if spoil:
            terms[1][1].permute(1, 2, 0).flatten()[place] = bad
        dots = torch.zeros(3, dtype=torch.float64)
        total = Sum(base, scale, terms, WEIGHTS[:3], base, dots).made()
        squares = error_square(base, total, scale, terms, WEIGHTS[:3], 0.1, 0.1)
        results.append([total, dots, squares, all_finite(terms[1]), all_finite(total)])
    well, ill = results
    assert same([part[::2] for part in well], [part[::2] for part in ill])
    assert all(part.all() for part in well[3:])
    assert not any(part[1] for part in ill[3:])
    assert not any(part[1].isfinite().all() for part in ill[:3])


@pytest.mark.parametrize("which", ["before", "after"])
def test_an_error_is_nan_where_a_state_is(which: str) -> None:
    """As `torch.maximum` does it; infinite states give an error of 0, as the operators do."""
    for bad in (torch.nan, torch.inf):
        for place in (0, -1):
            before, after, scale, terms = error_case((2, 3, 3, 3), 0, torch.float64)
            {"before": before, "after": after}[which][1].permute(1, 2, 0).flatten()[place] = bad
            got = error_square(before, after, scale, terms, WEIGHTS[:3], 0.1, 0.1)
            wanted = plain_error(before, after, scale, combine(WEIGHTS[:3], terms), 0.1, 0.1)
            torch.testing.assert_close(got, wanted, rtol=DOUBLE, atol=0, equal_nan=True)
            assert bool(got[1].isnan()) == (bad is torch.nan)


@pytest.mark.parametrize("largest", [3.0e38, -3.0e38])
def test_the_largest_numbers_are_finite(largest: float) -> None:
    assert all_finite(torch.full((2, 37), largest, dtype=torch.float32)).all()


def test_threads_change_no_bit(two_threads: None) -> None:
    results = []
    for threads in (2, 1):
        torch.set_num_threads(threads)
        base, scale, terms = state((5, 7, 6, 6), 3, 0, torch.float32)
        dots = torch.zeros(5, dtype=torch.float64)
        total = Sum(base, scale, terms, WEIGHTS[:3], base, dots).made()
        squares = error_square(base, total, scale, terms, WEIGHTS[:3], 0.1, 0.1)
        gradients = error_square_back(base, total, scale, terms, WEIGHTS[:3], 0.1, 0.1, squares)
        results.append([total, dots, squares, *gradients, all_finite(total)])
    assert same(*results)
