"""1-Lipschitz convolutions of other papers, as the layers to compare with: none of them is an ODE block.

Each maps (N, C, H, W) to the same shape and has a bias; `MaxMin` follows it. They are written from the papers.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sonet.bounds import conv_norm


class _Conv(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.weight = nn.Parameter(torch.empty(channels, channels, 3, 3))
        nn.init.dirac_(self.weight)
        noise = torch.empty_like(self.weight)
        nn.init.kaiming_uniform_(noise, a=math.sqrt(5))
        self.weight.data += 0.1 * noise
        self.bias = nn.Parameter(torch.zeros(channels))
        self._kept: tuple[int, Tensor] | None = None

    def ready(self) -> Tensor:
        """What `prepare` makes of the weights, once for each state of them in eval mode."""
        if self.training:
            return self.prepare()
        if self._kept is None or self._kept[0] != self.weight._version:
            with torch.no_grad():
                self._kept = (self.weight._version, self.prepare())
        return self._kept[1]

    def prepare(self) -> Tensor:
        raise NotImplementedError


class SpectralConv(_Conv):
    """The kernel over an upper bound of its norm: spectral normalisation (Miyato et al. 2018), made sound."""

    def prepare(self) -> Tensor:
        return self.weight / conv_norm(self.weight, self.size)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.ready(), self.bias, padding=1)


class AOLConv(_Conv):
    r"""Almost-orthogonal Lipschitz layer (Prach and Lampert 2022, arXiv:2208.03160).

    P diag(d), d_i = (sum_j |P^T P|_ij)^-1/2. Of a convolution P^T P is the kernel's correlation with itself; the sum
    runs over channels and places.
    """

    def prepare(self) -> Tensor:
        # (C_in, C_in, 5, 5): correlation of every input channel's taps with every other's.
        taps = self.weight.transpose(0, 1)
        gram = F.conv2d(taps, taps, padding=2)
        scale = gram.abs().sum((0, 2, 3)).clamp_min(1e-12).rsqrt()
        return self.weight * scale[None, :, None, None]

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.ready(), self.bias, padding=1)


class CayleyConv(_Conv):
    r"""Orthogonal convolution on a torus (Trockman and Kolter 2021, arXiv:2104.07167): (I - A)(I + A)^-1, A = W - W^H.

    At each frequency of the Fourier transform; the padding is circular.
    """

    def prepare(self) -> Tensor:
        height, width = self.size
        spectrum = torch.fft.rfft2(self.weight, s=(height, width)).permute(2, 3, 0, 1)
        shift = torch.exp(
            2j * math.pi * (torch.arange(height)[:, None] / height + torch.arange(width // 2 + 1) / width)
        )
        spectrum = spectrum * shift.to(spectrum.dtype)[..., None, None]  # the middle tap to the origin
        skew = spectrum - spectrum.mH
        unit = torch.eye(spectrum.shape[-1], dtype=spectrum.dtype)
        return torch.linalg.solve(unit + skew, unit - skew)

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(x).permute(2, 3, 1, 0)  # (H, W / 2 + 1, C, N)
        turned = self.ready() @ spectrum
        return torch.fft.irfft2(turned.permute(3, 2, 0, 1), s=self.size) + self.bias[:, None, None]


LAYERS: dict[str, type[_Conv]] = {"spectral": SpectralConv, "aol": AOLConv, "cayley": CayleyConv}
