"""From a block's input to the state it starts from."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sonet.types import State


def repeat_channels(x: Tensor, channels: int) -> Tensor:
    """(N, C, H, W) -> (N, channels, H, W): the channels repeated until there are enough, the last repeat cut."""
    times = -(-channels // x.shape[1])
    return (x.repeat(1, times, 1, 1) if times > 1 else x)[:, :channels].contiguous()


class SkewLift(nn.Module):
    """z(0) = x; y(0) = x with its channels repeated, at stride 2 first halved by nearest-neighbour sampling.

    (N, C_in, H, W) -> (N, C_out, H', W'), (N, C_in, H, W); at stride 2 H' = floor(H / 2), the height of K * z.
    """

    def __init__(self, out_channels: int, stride: int) -> None:
        super().__init__()
        self.out_channels, self.stride = out_channels, stride

    def forward(self, x: Tensor) -> State:
        y = x
        if self.stride == 2:
            y = x[:, :, ::2, ::2][:, :, : x.shape[2] // 2, : x.shape[3] // 2]
        return repeat_channels(y, self.out_channels), x


class DenseLift(nn.Module):
    """y(0) = x, z(0) = 0.1 in every class: (N, features) -> (N, features), (N, classes)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, x: Tensor) -> State:
        return x, torch.full((x.shape[0], self.classes), 0.1, dtype=x.dtype, device=x.device)


class PlainLift(nn.Module):
    """The input is the state."""

    def forward(self, x: Tensor) -> State:
        return (x,)
