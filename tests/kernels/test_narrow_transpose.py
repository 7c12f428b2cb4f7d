"""The transposed convolution to few channels equals PyTorch's, and is taken only where it is for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from sonet.kernels import channels_last, narrow_kernel, narrow_transpose, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=f"no kernels here: {why_not()}")


@given(
    samples=st.integers(1, 3),
    vectors=st.integers(1, 3),
    few=st.integers(1, 4),
    height=st.integers(1, 7),
    width=st.integers(4, 11),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**16),
)
def test_it_is_the_transposed_convolution(
    samples: int, vectors: int, few: int, height: int, width: int, dtype: torch.dtype, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(samples, 16 * vectors, height, width, generator=generator, dtype=torch.float64)
    weight = torch.randn(16 * vectors, few, 3, 3, generator=generator, dtype=torch.float64)
    kernel = narrow_kernel(weight.to(dtype), width)
    assert kernel is not None
    got = narrow_transpose(channels_last(values.to(dtype)), kernel)
    truth = F.conv_transpose2d(values, weight, padding=1)
    size = F.conv_transpose2d(values.abs(), weight.abs(), padding=1)
    # Each number is a sum of 9 C products.
    assert bool(((got - truth).abs() <= 9 * 16 * vectors * torch.finfo(dtype).eps * size).all())


@pytest.mark.parametrize(
    ("shape", "width"), [((16, 5, 3, 3), 8), ((16, 3, 4, 4), 8), ((16, 3, 3, 3), 3), ((12, 3, 3, 3), 8)]
)
def test_other_kernels_are_left_to_pytorch(shape: tuple[int, ...], width: int) -> None:
    assert narrow_kernel(torch.zeros(shape), width) is None


def test_nan_and_infinity_reach_their_neighbours_alone() -> None:
    values = torch.zeros(2, 16, 5, 6)
    values[0, 3, 2, 2] = torch.nan
    kernel = narrow_kernel(torch.ones(16, 3, 3, 3), 6)
    assert kernel is not None
    got = narrow_transpose(channels_last(values), kernel)
    expected = F.conv_transpose2d(values, torch.ones(16, 3, 3, 3), padding=1)
    assert torch.equal(got.isnan(), expected.isnan())
