"""Sums with weights for each sample: values and gradients are the operators', with kernels and without."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sonet import kernels
from sonet.solvers.interpolation import quartic, quartic_weights
from sonet.solvers.mixture import mixture


def drawn(seed: int, shape: tuple[int, ...], last: bool = False) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return kernels.channels_last(values) if last and len(shape) == 4 else values


def plain(base: Tensor | None, weights: Tensor, terms: tuple[Tensor, ...]) -> Tensor:
    column = (-1, *(1,) * (terms[0].dim() - 1))
    total = sum(term * weights[:, k].reshape(column) for k, term in enumerate(terms))
    assert isinstance(total, Tensor)
    return total if base is None else base + total


shapes = st.one_of(
    st.tuples(st.integers(1, 4)),
    st.tuples(st.integers(1, 4), st.integers(1, 19)),
    st.tuples(st.integers(1, 3), st.integers(1, 17), st.integers(1, 5), st.integers(1, 5)),
)


@settings(deadline=None)
@given(
    shape=shapes,
    count=st.integers(1, 6),
    based=st.booleans(),
    last=st.booleans(),
    asked=st.sets(st.integers(0, 7)),
    off=st.booleans(),
    seed=st.integers(0, 999),
)
def test_values_and_gradients_are_the_operators(
    shape: tuple[int, ...], count: int, based: bool, last: bool, asked: set[int], off: bool, seed: int
) -> None:
    weights = drawn(seed, (shape[0], count))
    terms = tuple(drawn(seed + 2 + k, shape, last) for k in range(count))
    base = drawn(seed + 1, shape, last) if based else None
    given = [weights, *terms, *([base] if base is not None else [])]
    wanted = [part.requires_grad_() for i, part in enumerate(given) if i in asked]
    upstream = drawn(seed + 50, shape)

    switch: AbstractContextManager[None] = kernels.plain() if off else nullcontext()
    with switch:
        got = mixture(base, weights, terms)
        found = torch.autograd.grad(got, wanted, upstream) if wanted else ()
    expected = plain(base, weights, terms)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    if wanted:
        for a, b in zip(found, torch.autograd.grad(expected, wanted, upstream), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("based", [True, False])
def test_gradients_of_gradients(based: bool) -> None:
    shape = (2, 3, 2, 2)
    base = drawn(0, shape).requires_grad_() if based else torch.zeros(shape, dtype=torch.float64)
    weights, terms = drawn(1, (2, 2)).requires_grad_(), [drawn(2 + k, shape).requires_grad_() for k in range(2)]
    mix = lambda base, weights, *terms: mixture(base if based else None, weights, terms)  # noqa: E731
    assert torch.autograd.gradcheck(mix, (base, weights, *terms))
    assert torch.autograd.gradgradcheck(mix, (base, weights, *terms))


def test_the_terms_are_kept_for_the_weights_alone() -> None:
    terms = tuple(drawn(2 + k, (2, 3)).requires_grad_() for k in range(2))
    for sized, expected in ((False, [4]), (True, [4, 6, 6])):
        sizes: list[int] = []

        def note(kept: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(kept.numel())
            return kept

        with torch.autograd.graph.saved_tensors_hooks(note, lambda kept: kept):
            mixture(None, drawn(1, (2, 2)).requires_grad_(sized), terms)
        assert sizes == expected


def test_a_sum_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="a base or terms"):
        mixture(None, torch.zeros(2, 0, dtype=torch.float64), ())


@settings(deadline=None)
@given(coefficients=st.lists(st.floats(-3, 3), min_size=5, max_size=5), h=st.floats(0.1, 2), x=st.floats(0, 1))
def test_the_quartic_is_exact_on_quartics(coefficients: list[float], h: float, x: float) -> None:
    def value(s: float) -> float:
        return sum(c * s**i for i, c in enumerate(coefficients))

    def slope(s: float) -> float:
        return sum(i * c * s ** (i - 1) for i, c in enumerate(coefficients) if i)

    numbers = (value(0), value(h / 2), value(h), slope(0), slope(h))
    data = tuple(torch.full((1, 3), number, dtype=torch.float64) for number in numbers)
    weights = quartic_weights(torch.tensor([h], dtype=torch.float64), torch.tensor([x], dtype=torch.float64))
    got = quartic((data[0], data[1], data[2], data[3], data[4]), weights)
    torch.testing.assert_close(got, torch.full_like(got, value(x * h)), rtol=1e-9, atol=1e-9)


def test_without_terms_it_is_the_base_and_of_nothing_an_error() -> None:
    base = drawn(0, (3, 4))
    assert mixture(base, torch.empty(3, 0, dtype=torch.float64), ()) is base
    with pytest.raises(ValueError, match="expected a base or terms, got neither"):
        mixture(None, torch.empty(3, 0, dtype=torch.float64), ())
