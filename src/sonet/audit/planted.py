"""Models with a known fault: what an attack or an audit must say of each is in its docstring.

Each wraps another model, often a `Linear`, whose answers it keeps or spoils in one way. Those of `sonet.audit.masks`
wrap trained networks, for an audit; `MASKS` has these by name.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from sonet.audit.linear import SHAPE, Linear, Scene, first_crossing
from sonet.audit.masks import (
    LEVELS,
    MASK_EPS,
    BatchMates,
    JPEGStep,
    RandomPhase,
    SaturatedLogits,
    Shattering,
    SureSoftmax,
    WrongBackward,
)
from sonet.audit.networks import KWinners, TakeWinners, plain
from sonet.audit.wrapper import Wrapper
from sonet.types import Classifier, Images, Logits

__all__ = [
    "MASKS",
    "MASK_EPS",
    "SHAPE",
    "BatchMates",
    "Coupled",
    "Detached",
    "JPEGStep",
    "KWinners",
    "LeftInTraining",
    "Linear",
    "NaNNear",
    "Noisy",
    "Quantised",
    "RandomPhase",
    "SaturatedLogits",
    "Scaled",
    "Scene",
    "Shattering",
    "Shifted",
    "Softmax",
    "SureSoftmax",
    "TakeWinners",
    "Wrapper",
    "WrongBackward",
    "first_crossing",
    "mirrored",
    "plain",
]


class Shifted(Wrapper):
    """Planted: `by` added to all logits. Right answer: nothing changes; softmax and margins do not see it."""

    def __init__(self, model: Classifier, by: float) -> None:
        super().__init__(model)
        self.by = by

    def forward(self, images: Images) -> Logits:
        return self.model(images) + self.by


class Scaled(Wrapper):
    r"""Planted: logits times `by` > 0. Right answer: the predictions and so the radii do not change.

    Times 1000 a sure model's cross-entropy saturates in float32: p(label) = 1, and its gradient is exactly 0. An attack
    on cross-entropy cannot then succeed, but it can say why: `zero_gradients`. One on margins is not affected.
    """

    def __init__(self, model: Classifier, by: float) -> None:
        super().__init__(model)
        self.by = by

    def forward(self, images: Images) -> Logits:
        return self.model(images) * self.by


class Softmax(Wrapper):
    """Planted: probabilities instead of logits. Right answer: the same predictions, radii and directions.

    Around a sure model (margins beyond about 100) the probabilities are 0 and 1 and no gradient is left, of any loss.
    """

    def forward(self, images: Images) -> Logits:
        return self.model(images).softmax(1)


class Quantised(Wrapper):
    """Planted: pixels rounded to `levels` grey levels first, so that the gradient is 0 everywhere.

    Right answer: attacks that need a gradient report it as zero for every image; others succeed, for a radius of
    several levels, nearly as without. The radius of the rounded model is off by half a level in each pixel at most.
    """

    def __init__(self, model: Classifier, levels: int = 256) -> None:
        super().__init__(model)
        self.levels = levels

    def forward(self, images: Images) -> Logits:
        return self.model((images * (self.levels - 1)).round() / (self.levels - 1))


class Detached(Wrapper):
    """Planted: the graph is cut. Right answer: zero gradients for every image; without gradients, as if it were not."""

    def forward(self, images: Images) -> Logits:
        return self.model(images.detach())


class Noisy(Wrapper):
    """Planted: logits with fresh normal noise of standard deviation `std` at every call; `seed` starts the stream.

    Right answer: accuracy under attack means little, and judging the same images again shows it: `flips` > 0. For a
    std far beyond the margins a prediction of K classes stays the same with probability 1 / K.
    """

    def __init__(self, model: Classifier, std: float, seed: int = 0) -> None:
        super().__init__(model)
        self.std = std
        self._generator = torch.Generator().manual_seed(seed)

    def forward(self, images: Images) -> Logits:
        logits = self.model(images)
        noise = torch.randn(logits.shape, generator=self._generator, dtype=logits.dtype)
        return logits + self.std * noise.to(logits.device)


class Coupled(Wrapper):
    r"""Planted: logit 0 of every sample grows by strength (brightness - 1/2), the mean brightness of the batch.

    Right answer: predictions depend on batch-mates, which judging in batches of another size shows: `flips` > 0. For
    images as of `mirrored` a batch of all of them keeps its own predictions, and a batch of bright (dark) ones alone is
    of class 0 (1), whatever an attack makes of them within a few hundredths.
    """

    def __init__(self, model: Classifier, strength: float = 200.0) -> None:
        super().__init__(model)
        self.strength = strength

    def forward(self, images: Images) -> Logits:
        logits = self.model(images)
        first = nn.functional.one_hot(torch.tensor(0), logits.shape[1]).to(logits)
        return logits + self.strength * (images.mean() - 0.5) * first


class NaNNear(Wrapper):
    """Planted: NaN logits within `reach`, in every pixel, of the one image `marked`, (C, H, W).

    Right answer: that image counts as fooled, it gave no answer; all others are as without it.
    """

    def __init__(self, model: Classifier, marked: Tensor, reach: float) -> None:
        super().__init__(model)
        self.marked, self.reach = marked, reach

    def forward(self, images: Images) -> Logits:
        near = (images - self.marked).flatten(1).abs().amax(1) <= self.reach
        return self.model(images).masked_fill(near[:, None], torch.nan)


class LeftInTraining(Wrapper):
    """Planted: normalisation by the batch's statistics, and dropout, left in train mode.

    Right answer: an attack refuses it with an `AttackError` before any work.
    """

    def __init__(self, model: Classifier, channels: int = SHAPE[0]) -> None:
        super().__init__(model)
        # New modules are in train mode. Not self.train(), which would put the wrapped model there too.
        self.normalise, self.dropout = nn.BatchNorm2d(channels), nn.Dropout(0.5)
        self.training = True

    def forward(self, images: Images) -> Logits:
        return self.model(self.dropout(self.normalise(images)))


def mirrored(model: Linear, n: int, seed: int) -> Images:
    """n images (n even): bright ones in [0.2, 1] first, then their mirror images 1 - x, for `Coupled`.

    Classes 0 and 1 of the model of two classes take turns, so that each pair of neighbours has both.
    """
    bright = 0.2 + 0.8 * torch.rand(50 * n, *SHAPE, generator=torch.Generator().manual_seed(seed))
    classes = model(bright).argmax(1)
    each = [(classes == kind).nonzero().squeeze(1)[: n // 2] for kind in (0, 1)]
    index = torch.stack(each, 1).flatten()[: n // 2]
    return torch.cat((bright[index], 1 - bright[index]))


MASKS: dict[str, Callable[[Classifier], nn.Module]] = {
    "rounded pixels": partial(Quantised, levels=LEVELS),
    "cut gradient": Detached,
    "random phase": RandomPhase,
    "batch-mates": BatchMates,
    "saturated logits": SaturatedLogits,
    "sure softmax": SureSoftmax,
    "jpeg": JPEGStep,
    "shattered": Shattering,
    "wrong backward": WrongBackward,
}
"""Around a trained `plain`, with settings that mask at `MASK_EPS`. The tenth, `KWinners`, is a network of its own."""
