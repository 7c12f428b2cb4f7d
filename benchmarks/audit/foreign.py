"""A SONet as somebody else would write it today: plain PyTorch and torchdiffeq's `odeint`, nothing of `sonet` in it.

    sonet audit benchmarks/audit/foreign.py:trained --data digits --threat linf:0.2 --quick

The block of Huang et al. 2020 (see `sonet.blocks.fields.SkewConv`): y' = phi(K z), z' = phi(-K^T y) with GroupNorm
around both; three stages, an average pool, the dense block as head. torchdiffeq as it comes: dopri5 at tolerance 0.1,
one step size for a batch, the size of the first step differentiated.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchdiffeq import odeint

TOLERANCE = 0.1
SEED = 0


class Skew(nn.Module):
    def __init__(self, fewer: int, more: int, stride: int) -> None:
        super().__init__()
        side = 3 if stride == 1 else 4
        self.stride = stride
        self.kernel = nn.Parameter(torch.empty(more, fewer, side, side))
        nn.init.kaiming_uniform_(self.kernel, a=5**0.5)
        self.norms = nn.ModuleList(nn.GroupNorm(_groups(c), c) for c in (more, fewer, more, fewer))

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        y, z = state
        up = F.conv2d(self.norms[1](z), self.kernel, stride=self.stride, padding=1)
        down = F.conv_transpose2d(self.norms[0](y), self.kernel, stride=self.stride, padding=1)
        return self.norms[2](F.leaky_relu(up)), self.norms[3](F.leaky_relu(-down))


class Block(nn.Module):
    def __init__(self, fewer: int, more: int, stride: int, tolerance: float) -> None:
        super().__init__()
        self.field, self.more, self.stride, self.tolerance = Skew(fewer, more, stride), more, stride, tolerance

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.stride == 1 else x[:, :, ::2, ::2]
        y = y.repeat(1, -(-self.more // y.shape[1]), 1, 1)[:, : self.more].contiguous()
        times = torch.tensor([0.0, 1.0], dtype=x.dtype, device=x.device)
        ends = odeint(self.field, (y, x), times, rtol=self.tolerance, atol=self.tolerance)
        return ends[0][-1]


class Dense(nn.Module):
    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(features, classes))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        self.first, self.second = nn.Parameter(torch.zeros(features)), nn.Parameter(torch.zeros(classes))

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        y, z = state
        return F.leaky_relu(z) @ self.weight.T + self.first, self.second - F.leaky_relu(y) @ self.weight


class TorchdiffeqSONet(nn.Module):
    """(N, 1, 8, 8) in [0, 1] -> logits, (N, 10)."""

    def __init__(self, channels: int = 16, tolerance: float = TOLERANCE) -> None:
        super().__init__()
        widths = (1, channels, channels, 2 * channels, 4 * channels)
        strides = (1, 1, 2, 2)
        self.blocks = nn.Sequential(
            *(Block(a, b, s, tolerance) for a, b, s in zip(widths, widths[1:], strides, strict=False))
        )
        self.head, self.tolerance = Dense(4 * channels, 10), tolerance

    def forward(self, x: Tensor) -> Tensor:
        features = self.blocks(x).mean((2, 3))
        evidence = torch.full((len(x), 10), 0.1, dtype=x.dtype, device=x.device)
        times = torch.tensor([0.0, 1.0], dtype=x.dtype, device=x.device)
        ends = odeint(self.head, (features, evidence), times, rtol=self.tolerance, atol=self.tolerance)
        return ends[1][-1]


def _groups(channels: int) -> int:
    return max(groups for groups in range(1, 9) if channels % groups == 0)


def trained(seed: int = SEED, tolerance: float = TOLERANCE) -> nn.Module:
    """Trained naturally on the digits, 12 epochs of a one-cycle; a minute or two on one core."""
    import sonet
    from sonet.training import TrainConfig

    torch.manual_seed(seed)
    model = TorchdiffeqSONet(tolerance=tolerance)
    data = sonet.load("digits")
    sonet.fit(model, data.train, TrainConfig(epochs=12, lr=0.1, device="cpu", seed=seed))
    return model.eval()
