"""Networks that cannot expand, by construction: stable SONet, and the same frame down convex potentials."""

from __future__ import annotations

from torch import Tensor, nn

from sonet.blocks import SpreadChannels, UnitRows, Unshuffle, convex_potential_block, stable_skew_block
from sonet.models.config import ConvexPotentialConfig, StableSONetConfig
from sonet.models.path import Path, layers
from sonet.types import Images, Logits


class StableNet(nn.Module):
    """Channels spread, stages of non-expansive blocks with a 2 x 2 unshuffle where the stride is 2, unit-row head.

    (N, C_in, H, W) in [0, 1] -> (N, classes). Every layer is 1-Lipschitz in l_2, so logit i minus logit j changes by at
    most ||w_i - w_j|| times what the image does. Channels: c, times 4 at each stride of 2; nothing is pooled away.
    """

    def __init__(self, config: StableSONetConfig | ConvexPotentialConfig) -> None:
        super().__init__()
        self.config = config
        channels, size = config.channels, config.image_size
        self.spread = SpreadChannels(config.in_channels, channels)
        stages: list[nn.Module] = []
        for number, stride in zip(config.blocks, config.strides, strict=True):
            if stride == 2:
                stages.append(Unshuffle())
                channels, size = 4 * channels, (-(-size[0] // 2), -(-size[1] // 2))
            stages += [_block(config, channels, size) for _ in range(number)]
        self.stages = nn.Sequential(*stages)
        self.head = UnitRows(channels * size[0] * size[1], config.classes)

    def forward(self, images: Images) -> Logits:
        if images.shape[2:] != self.config.image_size:
            raise ValueError(
                f"{self.config.kind}: got images of {tuple(images.shape[2:])}, expected {self.config.image_size}: its "
                "constants and its head are for one size. Build it for this one."
            )
        return self.head(self.stages(self.spread(images)))  # type: ignore[no-any-return]

    def gaps(self) -> Tensor:
        """(classes, classes), with graph: Lipschitz constant in l_2 of logit i minus logit j, by construction."""
        return self.head.gaps()

    def path(self) -> Path:
        """Its layers in the order in which the image passes them."""
        return layers(self, "spread", "stages", "head")


def _block(config: StableSONetConfig | ConvexPotentialConfig, channels: int, size: tuple[int, int]) -> nn.Module:
    if isinstance(config, ConvexPotentialConfig):
        return convex_potential_block(channels, size, config.solver)
    return stable_skew_block(channels, size, config.solver, kernel_norm=config.kernel_norm, slope=config.slope)
