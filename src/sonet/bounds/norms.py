"""Upper bounds of operator norms that are sound: by Gram iteration, on a torus, with every rounding error counted."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SQUARINGS = 10
"""Gram iterations; the bound then exceeds the norm by at most n^(1 / 2^11), 0.3 % at n = 512."""

DENSE = 128
"""Up to so many entries of an image the matrix of a convolution is looked at as it is."""


def matrix_norm(matrix: Tensor, squarings: int = SQUARINGS) -> Tensor:
    r"""An upper bound of the spectral norms of (..., m, n) matrices: their largest, a scalar with graph.

    Gram iteration (Delattre et al. 2023, arXiv:2305.16173): with G_0 = A and G_{j+1} = G_j G_j^H,

        ||A||_2^(2^j) = ||G_j||_2 <= ||G_j||_F.

    Unlike power iteration, which comes from below, this is an upper bound after any number of squarings. Each G_j is
    scaled to ||G_j||_F = 1, and each product's rounding error, at most gamma ||G_j||_F^2 in norm with
    gamma = 8 (n + 4) u, is added: ||G_j||_2^2 <= ||fl(G_j G_j^H)||_2 + gamma.

    Errors: ValueError where an entry is not finite: the answer would be no bound.
    """
    if not bool(torch.isfinite(torch.view_as_real(matrix) if matrix.is_complex() else matrix).all()):
        raise ValueError("matrix_norm: got entries that are not finite, expected numbers; such a matrix has no norm.")
    gram = matrix if matrix.shape[-2] <= matrix.shape[-1] else matrix.mH.resolve_conj()
    unit = torch.finfo(matrix.dtype).eps / 2
    gamma = 8 * (max(matrix.shape[-2:]) + 4) * unit
    tiny = torch.finfo(matrix.dtype).tiny
    scales: list[Tensor] = []
    for _ in range(squarings):
        scale = _frobenius(gram) + tiny
        scales.append(scale)
        gram = gram / scale[..., None, None]
        gram = gram @ gram.mH
    bound = _frobenius(gram) * (1 + gamma)
    for scale in reversed(scales):
        bound = scale * torch.sqrt(bound + gamma) * (1 + 8 * unit)
    return bound.max()


def conv_norm(kernel: Tensor, size: tuple[int, int], *, stride: int = 1, padding: int = 1) -> Tensor:
    r"""An upper bound of ||K||_2 for x -> conv2d(x, kernel, stride, padding) on images of `size`, a scalar with graph.

    The convolution with zero padding is a corner of the circular one on a torus large enough that nothing wraps: rows
    and columns of that matrix are left out, which cannot raise the norm. With stride s the pixels of a torus position
    are its s^2 phases. The Fourier transform makes it block diagonal, a block (C_out, C_in s^2) for each frequency w:

        A(w)[o, (i, r)] = sum over taps t with (t - padding) mod s = r of K[o, i, t] exp(1j w floor((t - padding) / s)).

    Real kernels have A(-w) = conj A(w), so that half of the frequencies are enough. It is the norm of the circular
    operator up to what the Gram iteration adds; zero padding leaves the norm itself a little lower, and much lower on
    images of few pixels: with at most `DENSE` entries the matrix itself is taken.

    kernel: (C_out, C_in, k, k). The transposed convolution has the same norm. Source: Sedghi et al. 2019,
    arXiv:1805.10408, for circular convolutions.
    """
    with torch.autocast(kernel.device.type, enabled=False):
        return _conv_norm(kernel, size, stride, padding)


def _conv_norm(kernel: Tensor, size: tuple[int, int], stride: int, padding: int) -> Tensor:
    if kernel.shape[1] * size[0] * size[1] <= DENSE:
        return matrix_norm(_dense(kernel, size, stride, padding))
    symbol = _symbols(kernel, size, stride, padding)
    unit = torch.finfo(kernel.dtype).eps / 2
    taps = kernel.shape[-1] * kernel.shape[-2]
    rounding = 16 * (taps + 4) * unit * _frobenius(kernel.abs().sum((-1, -2)))
    return matrix_norm(symbol) + rounding


def _dense(kernel: Tensor, size: tuple[int, int], stride: int, padding: int) -> Tensor:
    """The matrix of the convolution. Every entry is a weight, exactly: each is a sum of one weight and zeros."""
    inputs = kernel.shape[1] * size[0] * size[1]
    basis = torch.eye(inputs, dtype=torch.float64, device=kernel.device).view(inputs, kernel.shape[1], *size)
    # In float64, so that fast algorithms, where there are any, leave float32 entries as they are.
    return F.conv2d(basis, kernel.double(), stride=stride, padding=padding).flatten(1).t().to(kernel.dtype)


def _symbols(kernel: Tensor, size: tuple[int, int], stride: int, padding: int) -> Tensor:
    """(frequencies, C_out, C_in s^2) complex."""
    waves = []
    for pixels, taps, halved in ((size[0], kernel.shape[-2], True), (size[1], kernel.shape[-1], False)):
        place = torch.arange(taps, device=kernel.device) - padding
        phase = place % stride
        offset = torch.div(place - phase, stride, rounding_mode="floor")
        outputs = (pixels + 2 * padding - taps) // stride + 1
        torus = max(outputs, 1) + int(offset.max() - offset.min())
        number = torus // 2 + 1 if halved else torus
        turns = torch.arange(number, dtype=torch.float64, device=kernel.device) / torus
        angle = 2 * math.pi * torch.remainder(turns[:, None] * offset, 1.0)
        wave = torch.zeros(number, stride, taps, dtype=torch.complex128, device=kernel.device)
        wave[:, phase, torch.arange(taps, device=kernel.device)] = torch.polar(torch.ones_like(angle), angle)
        waves.append(wave.to(torch.complex64 if kernel.dtype == torch.float32 else torch.complex128))
    outs, ins = kernel.shape[:2]
    symbol = torch.einsum("oiab,xpa,yqb->xyoipq", kernel.to(waves[0].dtype), waves[0], waves[1])
    return symbol.reshape(-1, outs, ins * stride * stride)


def _frobenius(matrix: Tensor) -> Tensor:
    """(..., m, n) -> (...), differentiable at zero matrices too."""
    squares = torch.view_as_real(matrix).square().sum(-1) if matrix.is_complex() else matrix.square()
    return torch.sqrt(squares.sum((-1, -2)) + torch.finfo(squares.dtype).tiny)
