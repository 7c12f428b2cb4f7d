"""Where an attack's gradient comes from. The attack asks for a slope; how it is made is decided here.

The seam through which everything special about a model enters: step sizes frozen, a finer solver, jittered tolerances,
intermediate states, one image at a time, no gradient at all. No attack has a second form for any of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from sonet.attacks.losses import Goal
from sonet.attacks.noise import Directions, ImageNoise
from sonet.types import Classifier, Images, Logits


@dataclass(frozen=True)
class Slope:
    """At some images: the gradient of the loss, (N, C, H, W), the loss, (N,), the logits; queries spent on each."""

    gradient: Tensor
    loss: Tensor
    logits: Logits
    queries: int


class GradientSource(ABC):
    """Anything that gives the slope of a loss at images; it sees the noise so that draws belong to the image."""

    @abstractmethod
    def __call__(self, images: Images, goal: Goal, noise: ImageNoise) -> Slope: ...

    @abstractmethod
    def logits(self, images: Images) -> Logits:
        """The outputs alone, without a graph; one query an image."""


def as_source(classifier: Classifier | GradientSource) -> GradientSource:
    """A source as it is, a classifier as the source of its own gradient."""
    return classifier if isinstance(classifier, GradientSource) else Backpropagation(classifier)


@dataclass(frozen=True)
class Backpropagation(GradientSource):
    """The gradient of the batch's summed loss, by autograd through `classifier`.

    For a classifier that treats samples independently that is each sample's own gradient. For one that does not
    (batch-wide step sizes that carry gradient) each sample's part contains that of its batch-mates.
    `classifier` may be a variant of the model under attack: other solver, frozen steps. One that cuts the graph
    (detach, rounding) has the gradient 0, which the attack reports; it is no error.
    """

    classifier: Classifier

    def __call__(self, images: Images, goal: Goal, noise: ImageNoise) -> Slope:
        leaf = images.detach().clone().requires_grad_(True)
        with torch.enable_grad():
            logits = self.classifier(leaf)
            loss = goal(logits)
            gradient = None
            if loss.requires_grad:
                (gradient,) = torch.autograd.grad(loss.sum(), leaf, allow_unused=True)
        if gradient is None:
            gradient = torch.zeros_like(leaf, requires_grad=False)
        return Slope(gradient, loss.detach(), logits.detach(), 2)

    def logits(self, images: Images) -> Logits:
        with torch.no_grad():
            return self.classifier(images.contiguous())


@dataclass(frozen=True)
class Alone(GradientSource):
    """Another source, asked for one image at a time: what an attack batch of one sees.

    Of batch-wide step sizes it makes each image's own, whatever the model. For our ODE blocks `scope="sample"` is the
    same and much faster.
    """

    source: GradientSource

    def __call__(self, images: Images, goal: Goal, noise: ImageNoise) -> Slope:
        slopes = []
        for place in torch.split(torch.arange(len(images), device=images.device), 1):
            own = noise.keep(place)
            slopes.append(self.source(images[place], goal.take(place), own))
        noise.catch_up(own)  # or the next call would draw the same again
        return Slope(
            torch.cat([slope.gradient for slope in slopes]),
            torch.cat([slope.loss for slope in slopes]),
            torch.cat([slope.logits for slope in slopes]),
            slopes[0].queries,
        )

    def logits(self, images: Images) -> Logits:
        return torch.cat([self.source.logits(image) for image in torch.split(images, 1)])


@dataclass(frozen=True)
class Average(GradientSource):
    r"""The mean of several sources' directions, g = sum_i g_i / ||g_i||_2: each source has one vote.

    Averages over jittered tolerances and step sizes, or over the logits read off intermediate states. A source whose
    gradient is 0 or not finite abstains. Loss and logits are the first source's: it decides who is fooled.
    Expectation over transformation (Athalye et al. 2018) with fixed transformations and normalised gradients.
    """

    sources: tuple[GradientSource, ...]

    def __call__(self, images: Images, goal: Goal, noise: ImageNoise) -> Slope:
        slopes = [source(images, goal, noise) for source in self.sources]
        total = torch.zeros_like(images)
        for slope in slopes:
            length = slope.gradient.flatten(1).norm(dim=1, dtype=torch.float64)
            usable = torch.isfinite(length) & (length > 0)
            unit = slope.gradient / torch.where(usable, length, 1.0).view(-1, 1, 1, 1)
            total += unit.to(total.dtype).masked_fill(~usable.view(-1, 1, 1, 1), 0.0)
        return Slope(total, slopes[0].loss, slopes[0].logits, sum(slope.queries for slope in slopes))

    def logits(self, images: Images) -> Logits:
        return self.sources[0].logits(images)


@dataclass(frozen=True)
class Guided(GradientSource):
    """The gradient of one source, loss and logits of another: of the deployed map, which decides who is fooled.

    With other networks as `gradient` this is the transfer attack (Papernot et al. 2016), asked at each step whether it
    has succeeded; with variants of the model, an attack through them.
    """

    gradient: GradientSource
    guide: GradientSource

    def __call__(self, images: Images, goal: Goal, noise: ImageNoise) -> Slope:
        slope, logits = self.gradient(images, goal, noise), self.guide.logits(images)
        return Slope(slope.gradient, goal(logits), logits, slope.queries + 1)

    def logits(self, images: Images) -> Logits:
        return self.guide.logits(images)


@dataclass(frozen=True)
class SPSAGradient(GradientSource):
    r"""Simultaneous perturbation (Spall 1992; Uesato et al. 2018): no gradient of the model is used.

        g = 1/m sum_i (L(x + delta v_i) - L(x - delta v_i)) / (2 delta) v_i,     v_i uniform in {-1, +1}^d

    with m = samples, each an antithetic pair of queries, each image with directions of its own; unbiased to O(delta^2).
    A probe may lie up to delta outside [0, 1]: clipping it would bias the estimate at the faces of the box.

    directions: "orthogonal" takes the v_i from a Hadamard matrix (Bhatnagar et al. 2003) and goes on in it from call to
    call. Of a linear loss m independent ones miss the gradient by |g| sqrt((d - 1) / m), any n = 2^p >= d orthogonal
    ones in a row not at all.
    `chunk`: the most images the classifier sees at once. They are whole batches, as many as fit, so that where samples
    share their steps a probe has its own batch-mates about it, each of them probed, too. The images count one each.
    """

    source: GradientSource
    samples: int
    delta: float
    chunk: int
    directions: Directions = "independent"

    def __call__(self, images: Images, goal: Goal, noise: ImageNoise) -> Slope:
        pairs, n = self.samples, len(images)
        directions = noise.directions(pairs, self.directions)
        logits = self.source.logits(images)
        losses = []
        whole = self.chunk - self.chunk % n or self.chunk
        for probes in torch.split(torch.arange(2 * pairs * n, device=images.device), whole):
            whose, pair, side = probes % n, probes // n // 2, 1 - 2 * (probes // n % 2)
            offset = self.delta * side.to(images.dtype).view(-1, 1, 1, 1) * directions[whose, pair]
            losses.append(goal.take(whose)(self.source.logits(images[whose] + offset)))
        up, down = torch.cat(losses).view(pairs, 2, n).unbind(1)
        slopes = ((up - down) / (2 * self.delta)).to(directions.dtype)
        return Slope(torch.einsum("mn,nmchw->nchw", slopes, directions) / pairs, goal(logits), logits, 1 + 2 * pairs)

    def logits(self, images: Images) -> Logits:
        return self.source.logits(images)
