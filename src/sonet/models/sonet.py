"""SONet: a network whose every layer is a skew-symmetric ODE block."""

from __future__ import annotations

from torch import nn

from sonet.blocks import GlobalPool, skew_conv_block, skew_dense_block
from sonet.models.config import SONetConfig
from sonet.models.path import Path, layers
from sonet.types import Images, Logits


class SONet(nn.Module):
    """First block C_in -> c, stages of blocks c, 2c, 4c, ..., global average pool, dense ODE block to the logits.

    Source: Huang et al. 2020, arXiv:2009.13145. (N, C_in, H, W) in [0, 1] -> (N, classes); H, W >= 8.
    """

    def __init__(self, config: SONetConfig) -> None:
        super().__init__()
        self.config = config

        def block(in_channels: int, out_channels: int, stride: int) -> nn.Module:
            return skew_conv_block(
                in_channels,
                out_channels,
                stride,
                config.solver,
                gamma=config.gamma,
                slope=config.slope,
                norm=config.norm,
            )

        self.first = block(config.in_channels, config.channels, 1)
        channels, stages = config.channels, []
        for number, stride in zip(config.blocks, config.strides, strict=True):
            stage = [block(channels, channels * stride, stride)]
            channels *= stride
            stage += [block(channels, channels, 1) for _ in range(number - 1)]
            stages.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*stages)
        self.pool = GlobalPool()
        self.head = skew_dense_block(channels, config.classes, config.solver, slope=config.slope)

    def forward(self, images: Images) -> Logits:
        x = self.stages(self.first(images))  # (N, c 2^k, H / 2^k, W / 2^k)
        return self.head(self.pool(x))  # type: ignore[no-any-return]

    def path(self) -> Path:
        """Its layers in the order in which the image passes them."""
        return layers(self, "first", "stages", "pool", "head")
