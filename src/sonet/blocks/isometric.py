"""Layers around the blocks of a stable network that lose no distance, or cannot gain any."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sonet.types import State


class SpreadChannels(nn.Module):
    """(N, C_in, H, W) -> (N, C, H, W): the channels r = floor(C / C_in) times over sqrt(r), then zeros; isometric."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        if channels < in_channels:
            raise ValueError(
                f"SpreadChannels: expected at least the image's {in_channels} channels, got {channels}: fewer would "
                "drop some. Take more channels."
            )
        self.in_channels, self.channels = in_channels, channels

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != self.in_channels:
            raise ValueError(f"SpreadChannels: expected images with {self.in_channels} channels, got {x.shape[1]}.")
        times = self.channels // self.in_channels
        x = x.repeat(1, times, 1, 1) / math.sqrt(times)
        return F.pad(x, (0, 0, 0, 0, 0, self.channels - x.shape[1])).contiguous()


class Unshuffle(nn.Module):
    """(N, C, H, W) -> (N, 4 C, H / 2, W / 2): each 2 x 2 square to channels; odd sizes get zeros first. An isometry."""

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_unshuffle(F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2)), 2)


class SplitLift(nn.Module):
    """x -> (y, z), its first and second half of the channels. An isometry."""

    def forward(self, x: Tensor) -> State:
        y, z = x.chunk(2, 1)
        return y.contiguous(), z.contiguous()


class MaxMin(nn.Module):
    """Neighbouring channels (u, v) -> max(u, v) among the first half, min(u, v) among the second (Anil et al. 2019).

    It only changes places, by the input, and its derivative is orthogonal: no distance is gained, no gradient lost.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] % 2:
            raise ValueError(f"MaxMin: got {x.shape[1]} channels, expected an even number: they are taken in pairs.")
        u, v = x[:, ::2], x[:, 1::2]
        return torch.cat((torch.maximum(u, v), torch.minimum(u, v)), 1)


class UnitRows(nn.Module):
    """x -> W x + b on flattened x, each row of W of length 1: (N, C, H, W) -> (N, classes).

    The sums are made in float64, whatever the dtype: they are the longest of a network, and rounding in them would cost
    certified radius.
    """

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, features) / math.sqrt(features))
        self.bias = nn.Parameter(torch.zeros(classes))

    def rows(self) -> Tensor:
        return F.normalize(self.weight, dim=1)

    def gaps(self) -> Tensor:
        """(classes, classes): ||w_i - w_j||, the Lipschitz constant of logit i minus logit j."""
        rows = self.rows()
        distances = (rows[:, None] - rows[None]).square().sum(-1)
        same = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
        return distances.masked_fill(same, 1.0).clamp_min(1e-12).sqrt().masked_fill(same, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        long = x.flatten(1).double()
        return F.linear(long, self.rows().double(), self.bias.double()).to(x.dtype)
