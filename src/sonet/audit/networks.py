"""Networks to be trained for an audit to judge: one masks its gradient by its activation, the other does not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from sonet.types import Images, Logits


class TakeWinners(nn.Module):
    """Keeps the largest `share` of a sample's activations, at least one, and sets the others to 0. (N, ...) -> same.

    k-winners-take-all (Xiao, Zhong and Zheng 2020, arXiv:1905.10510). Discontinuous wherever the k-th changes place.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        least = flat.topk(max(1, round(self.share * flat.shape[1])), dim=1).values[:, -1:]
        return torch.where(flat >= least, flat, 0.0).view_as(x)


class KWinners(nn.Module):
    """Masked by its activation: `depth` times linear, batch norm, `TakeWinners`; then linear. To be trained as any.

    The gradient is that of the winners alone; what the next winners would bring is in the jumps. Right answer: masked;
    SPSA, whose probes are longer than the distance from jump to jump, tells, Square a little (Tramer et al. 2020,
    arXiv:2002.08347, broke the paper's).

    In training every pixel moves by +-`shake`, clipped to [0, 1]. Without it PGD too falls over the jumps to a wrong
    class, and leaves as little as of `plain`: a poor network, but no masked one.

        model = KWinners()
        sonet.fit(model, data.train, TrainConfig.model_validate({**KWinners.recipe, "device": "cpu"}))

    (N, *shape) in [0, 1] -> (N, classes). seed: of the initial weights.
    """

    recipe: ClassVar[Mapping[str, float]] = {"epochs": 30, "lr": 0.02}
    """For `TrainConfig`: about 5 s on one core for the digits."""

    def __init__(
        self,
        shape: tuple[int, int, int] = (1, 8, 8),
        classes: int = 10,
        *,
        width: int = 512,
        depth: int = 3,
        share: float = 0.1,
        shake: float = 0.3,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.shake = shake
        layers: list[nn.Module] = [nn.Flatten()]
        size = math.prod(shape)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            for _ in range(depth):
                layers += [nn.Linear(size, width, bias=False), nn.BatchNorm1d(width), TakeWinners(share)]
                size = width
            self.layers = nn.Sequential(*layers, nn.Linear(size, classes))

    def forward(self, images: Images) -> Logits:
        if self.training:
            images = (images + self.shake * (2 * torch.randint_like(images, 2) - 1)).clamp(0, 1)
        return self.layers(images)  # type: ignore[no-any-return]


def plain(
    shape: tuple[int, int, int] = (1, 8, 8), classes: int = 10, *, width: int = 64, seed: int = 0
) -> nn.Sequential:
    """A network that masks nothing, to wrap and to compare with: two hidden layers of `width`, ReLU, as yet untrained.

    Right answer: no masking found. seed: of the initial weights. 20 epochs of `fit` at lr 0.1 take a second or two.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        first, second, last = nn.Linear(math.prod(shape), width), nn.Linear(width, width), nn.Linear(width, classes)
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.ReLU(), last)
