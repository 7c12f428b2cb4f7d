"""What the kernels are given in tests, what they must give, and how far they may be from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from hypothesis import assume
from hypothesis import strategies as st
from torch import Tensor

from sonet.kernels import act_norm, act_norm_back, channels_last

EPS = 1e-5
DOUBLE = 1e-12


def drawn(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Normal numbers, channels last where they are images."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    return channels_last(values) if len(shape) == 4 else values


@dataclass(frozen=True)
class Case:
    """A norm and its input: `offset` is the mean of the values in units of their deviation, about 1."""

    shape: tuple[int, int, int, int]
    groups: int
    sign: float = 1.0
    slope: float = 1.0
    offset: float = 0.0
    seed: int = 0

    def inputs(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(upstream gradient, values, weight, bias)."""
        values = drawn(self.seed, *self.shape) + self.offset
        rest = (drawn(self.seed + 1 + i, self.shape[1]) for i in range(2))
        given = (drawn(self.seed + 9, *self.shape), values, *rest)
        grad, values, weight, bias = (part.to(dtype) for part in given)
        return grad, values, weight, bias

    def plain(self, grad: Tensor, values: Tensor, weight: Tensor, bias: Tensor) -> list[Tensor]:
        """(output, gradients of values, weight, bias) by PyTorch's operators."""
        asked = [part.detach().clone().requires_grad_() for part in (values, weight, bias)]
        out = F.group_norm(F.leaky_relu(self.sign * asked[0], self.slope), self.groups, *asked[1:], EPS)
        return [out.detach(), *torch.autograd.grad(out, asked, grad)]

    def fast(self, grad: Tensor, values: Tensor, weight: Tensor, bias: Tensor) -> list[Tensor]:
        """The same by the kernels."""
        out, mean, rstd = act_norm(values, weight, bias, self.groups, EPS, self.sign, self.slope)
        found = act_norm_back(grad, values, weight, mean, rstd, self.sign, self.slope)
        return [out, *(part for part in found if part is not None)]

    def size(self, grad: Tensor, values: Tensor, weight: Tensor, bias: Tensor) -> list[float]:
        """How large the terms are whose sums are the four results: what rounding is to be measured by."""
        active = F.leaky_relu(self.sign * values, self.slope)
        rows = active.transpose(0, 1).reshape(len(weight), -1) if active.numel() else active
        steep = max(1.0, abs(self.slope))
        deviation = active.reshape(len(active), self.groups, -1).var(2, unbiased=False)
        r = (deviation + EPS).rsqrt().max().item()
        top, g, w = (1 + rows.abs().max().item()), grad.abs().max().item(), weight.abs().max().item() + 1
        count = values.numel() / len(weight)
        return [r * top * w + bias.abs().max().item(), steep * g * w * (r + r * top), count * g * r * top, count * g]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Every number of channels up to 40, most of them no multiple of a vector; images of 1 x 1 up to 7 x 7."""
    groups, each = draw(st.integers(1, 8)), draw(st.integers(1, 5))
    size = st.integers(1, 7)
    shape = (draw(st.integers(1, 3)), groups * each, draw(size), draw(size))
    assume(math.prod(shape) > groups)  # PyTorch refuses to normalise one number
    sign, slope = draw(st.sampled_from([1.0, -1.0])), draw(st.sampled_from([1.0, 0.01, 0.5, 0.0, -0.3, 2.0]))
    return Case(shape, groups, sign, slope, seed=draw(st.integers(0, 1000)))


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    """Bit for bit, NaN for NaN."""
    return all(
        torch.equal(x.isnan(), y.isnan()) and torch.equal(x.nan_to_num(), y.nan_to_num())
        for x, y in zip(a, b, strict=True)
    )


def errors(found: list[Tensor], truth: list[Tensor]) -> list[float]:
    """The largest error of each."""
    return [(a.double() - b.double()).abs().max().item() for a, b in zip(found, truth, strict=True)]


def no_worse(fast: list[Tensor], plain: list[Tensor], truth: list[Tensor], sizes: list[float], eps: float) -> bool:
    """No error of the kernels above four of PyTorch's and eight roundings of the largest term."""
    pairs = zip(errors(fast, truth), errors(plain, truth), sizes, strict=True)
    return all(mine <= 4 * theirs + 8 * eps * size for mine, theirs, size in pairs)
