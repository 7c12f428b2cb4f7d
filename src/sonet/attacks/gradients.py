"""Where an attack's gradient comes from. The attack asks for a slope; how it is made is decided here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sonet.attacks.losses import Loss
from sonet.attacks.noise import ImageNoise
from sonet.types import Classifier, Images, Labels, Logits


@dataclass(frozen=True)
class Slope:
    """At some images: the gradient of the loss, (N, C, H, W), the loss, (N,), the logits, and the queries spent."""

    gradient: Tensor
    loss: Tensor
    logits: Logits
    queries: int


class GradientSource(Protocol):
    """Anything that gives the slope of a loss at images; it sees the noise so that draws belong to the image."""

    def __call__(self, images: Images, labels: Labels, noise: ImageNoise) -> Slope: ...


@dataclass(frozen=True)
class Backpropagation:
    """The gradient of the batch's summed loss, by autograd through `classifier`.

    For a classifier that treats samples independently that is each sample's own gradient. For one that does not
    (batch-wide step sizes that carry gradient) each sample's part contains that of its batch-mates.
    `classifier` may be a variant of the model under attack: other solver, frozen steps. One that cuts the graph
    (detach, rounding) has the gradient 0, which the attack reports; it is no error.
    """

    classifier: Classifier
    loss: Loss

    def __call__(self, images: Images, labels: Labels, noise: ImageNoise) -> Slope:
        leaf = images.detach().clone().requires_grad_(True)
        with torch.enable_grad():
            logits = self.classifier(leaf)
            loss = self.loss(logits, labels)
            gradient = None
            if loss.requires_grad:
                (gradient,) = torch.autograd.grad(loss.sum(), leaf, allow_unused=True)
        if gradient is None:
            gradient = torch.zeros_like(leaf, requires_grad=False)
        return Slope(gradient, loss.detach(), logits.detach(), 2 * len(images))


@dataclass(frozen=True)
class SPSAGradient:
    r"""Simultaneous perturbation (Spall 1992; Uesato et al. 2018): no gradient of the model is used.

        g = 1/m sum_i (L(x + delta v_i) - L(x - delta v_i)) / (2 delta) v_i,     v_i uniform in {-1, +1}^d

    with m = samples, each an antithetic pair of queries, each image with directions of its own; unbiased to O(delta^2).
    `chunk`: the most images the classifier sees at once. The model's images count one each. A probe may lie up to
    delta outside [0, 1]: clipping it would bias the estimate at the faces of the box.
    """

    classifier: Classifier
    loss: Loss
    samples: int
    delta: float
    chunk: int

    def __call__(self, images: Images, labels: Labels, noise: ImageNoise) -> Slope:
        pairs = self.samples
        directions = noise.signs(pairs)  # (N, m, C, H, W)
        offsets = self.delta * torch.cat((directions, -directions), 1)
        with torch.no_grad():
            logits = self.classifier(images)
            moved = (images[:, None] + offsets).flatten(0, 1)
            repeated = labels.repeat_interleave(2 * pairs)
            chunks = zip(torch.split(moved, self.chunk), torch.split(repeated, self.chunk), strict=True)
            losses = torch.cat([self.loss(self.classifier(part.contiguous()), label) for part, label in chunks])
            losses = losses.view(len(images), 2, pairs)
            slopes = (losses[:, 0] - losses[:, 1]) / (2 * self.delta)
            gradient = torch.einsum("nm,nmchw->nchw", slopes, directions) / pairs
        return Slope(gradient, self.loss(logits, labels), logits, len(images) * (1 + 2 * pairs))
