"""The networks SONet is compared with: ResNet10 and WideResNet, with and without an ODE block in front, and ODENet."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from sonet.blocks import BasicBlock, GlobalPool, WideBlock, odenet_block, skew_conv_block
from sonet.blocks.fields import group_norm
from sonet.blocks.lift import repeat_channels
from sonet.models.config import (
    ODENetConfig,
    ResNet10Config,
    SOBlockResNet10Config,
    SOBlockWideResNetConfig,
    WideResNetConfig,
)
from sonet.models.path import Path, layers
from sonet.types import Images, Logits


def _soblock(config: SOBlockResNet10Config | SOBlockWideResNetConfig, channels: int) -> nn.Module:
    """The skew-symmetric block in front; no norm or activation follows it, as in the paper's code."""
    return skew_conv_block(
        config.in_channels, channels, 1, config.solver, gamma=config.gamma, slope=config.slope, norm=config.norm
    )


class ResNet10(nn.Module):
    """First layer, stages of BasicBlocks c, 2c, 4c, ..., global average pool, linear.

    The first layer is conv-BN-ReLU, or for SOBlock-ResNet10 one ODE block. (N, C_in, H, W) in [0, 1] -> (N, classes).
    """

    def __init__(self, config: ResNet10Config | SOBlockResNet10Config) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        if isinstance(config, SOBlockResNet10Config):
            self.first = _soblock(config, channels)
        else:
            conv = nn.Conv2d(config.in_channels, channels, 3, padding=1, bias=False)
            self.first = nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU())
        stages: list[nn.Module] = []
        for number, stride in zip(config.blocks, config.strides, strict=True):
            stage = [BasicBlock(channels, channels * stride, stride)]
            channels *= stride
            stage += [BasicBlock(channels, channels) for _ in range(number - 1)]
            stages.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*stages)
        self.pool = GlobalPool()
        self.head = nn.Linear(channels, config.classes)

    def forward(self, images: Images) -> Logits:
        return self.head(self.pool(self.stages(self.first(images))))  # type: ignore[no-any-return]

    def path(self) -> Path:
        """Its layers in the order in which the image passes them."""
        return layers(self, "first", "stages", "pool", "head")


class WideResNet(nn.Module):
    """First layer to 16 channels, three stages of WideBlocks, BN-ReLU, global average pool, linear.

    (N, C_in, H, W) in [0, 1] -> (N, classes). Pooling is global, so that sizes other than 32 work; at 32 it is the
    8 x 8 pooling of the paper's code. Convolutions: Kaiming-normal, fan out.
    """

    def __init__(self, config: WideResNetConfig | SOBlockWideResNetConfig) -> None:
        super().__init__()
        self.config = config
        channels = 16
        self.first: nn.Module = (
            _soblock(config, channels)
            if isinstance(config, SOBlockWideResNetConfig)
            else nn.Conv2d(config.in_channels, channels, 3, padding=1)
        )
        number = (config.depth - 4) // 6
        blocks: list[nn.Module] = []
        for width, stride in ((16, 1), (32, 2), (64, 2)):
            for i in range(number):
                blocks.append(WideBlock(channels, width * config.widen, stride if i == 0 else 1, config.dropout))
                channels = width * config.widen
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(channels, momentum=0.9)
        self.relu = nn.ReLU()
        self.pool = GlobalPool()
        self.head = nn.Linear(channels, config.classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Images) -> Logits:
        x = self.relu(self.norm(self.blocks(self.first(images))))
        return self.head(self.pool(x))  # type: ignore[no-any-return]

    def path(self) -> Path:
        """Its layers in the order in which the image passes them."""
        return layers(self, "first", "blocks", "norm", "relu", "pool", "head")


class ODENet(nn.Module):
    """Input channels repeated to c, ODE blocks, norm, pool to 3 x 3, linear (Chen et al. 2018; Huang et al. 2020).

    No weight has the shape of the input's channels, so that they are checked here.
    """

    def __init__(self, config: ODENetConfig) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.Sequential(*(odenet_block(config.channels, config.solver) for _ in range(config.num_blocks)))
        self.norm = group_norm(config.channels)
        self.head = nn.Linear(9 * config.channels, config.classes)

    def forward(self, images: Images) -> Logits:
        if images.shape[1] != self.config.in_channels:
            raise ValueError(f"ODENet: expected images with {self.config.in_channels} channels, got {images.shape[1]}.")
        x = self.blocks(repeat_channels(images, self.config.channels))
        return self.head(F.adaptive_avg_pool2d(self.norm(x), 3).flatten(1))  # type: ignore[no-any-return]
