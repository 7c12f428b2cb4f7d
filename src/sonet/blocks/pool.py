"""Global average pooling, as a layer: a network is then a chain of layers, which can be bounded one by one."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class GlobalPool(nn.Module):
    """(N, C, H, W) -> (N, C), the mean over pixels; as a map of l_2 norms it divides by sqrt(H W)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, 1).flatten(1)
