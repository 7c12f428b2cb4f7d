"""Classifiers and gradients that go round one way of masking: randomness, saturation, rounding, roughness."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sonet.attacks.gradients import GradientSource, Slope
from sonet.attacks.losses import Goal
from sonet.attacks.noise import ImageNoise
from sonet.types import Classifier, Images, Logits


class Mean:
    """The mean of `calls` answers, (N, classes): what attacks on a random model climb (Athalye et al. 2018, EOT)."""

    def __init__(self, classifier: Classifier, calls: int) -> None:
        self._classifier, self._calls = classifier, calls

    def __call__(self, images: Images, /) -> Logits:
        return torch.stack([self._classifier(images) for _ in range(self._calls)]).mean(0)


class Vote:
    """How many of `calls` answers are for each class, (N, classes): the prediction of a random model.

    NaN where no answer was finite, for the model gave none.
    """

    def __init__(self, classifier: Classifier, calls: int) -> None:
        self._classifier, self._calls = classifier, calls

    def __call__(self, images: Images, /) -> Logits:
        answers = [self._classifier(images) for _ in range(self._calls)]
        votes, voters = torch.zeros_like(answers[0]), torch.zeros_like(answers[0][:, :1])
        for logits in answers:
            usable = torch.isfinite(logits).all(1, keepdim=True)
            votes += nn.functional.one_hot(logits.argmax(1), logits.shape[1]) * usable
            voters += usable
        return votes.masked_fill(voters == 0, torch.nan)


class LogOfProbabilities:
    """log p instead of p, (N, classes): undoes a softmax that the model ends in, wherever p has not underflowed."""

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier

    def __call__(self, images: Images, /) -> Logits:
        probabilities = self._classifier(images)
        return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


class Cut:
    """A classifier that is never asked for a gradient: of one that would raise an error, numpy inside for example."""

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier

    def __call__(self, images: Images, /) -> Logits:
        with torch.no_grad():
            return self._classifier(images.detach())


class Doubled:
    """A copy of a module in float64, images and logits converted: more room before exponentials vanish.

    Raises what the module raises where it cannot run so (constants of float32 inside it).
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = copy.deepcopy(model).double()

    def __call__(self, images: Images, /) -> Logits:
        return self._model(images.double())  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Smoothed(GradientSource):
    r"""The mean gradient around the image, g = 1/m sum_i grad L(x + sigma v_i), v_i normal; logits at x itself.

    A gradient that shatters on a small scale (Balduzzi et al. 2017) averages out, the trend over sigma stays.
    """

    source: GradientSource
    samples: int
    sigma: float

    def __call__(self, images: Images, goal: Goal, noise: ImageNoise) -> Slope:
        offsets = self.sigma * noise.normal(self.samples, *images.shape[1:]).to(images.dtype)
        total, queries = torch.zeros_like(images), 1
        for offset in offsets.unbind(1):
            slope = self.source(images + offset, goal, noise)
            total += slope.gradient.nan_to_num(0.0, 0.0, 0.0).to(total.dtype)
            queries += slope.queries
        logits = self.source.logits(images)
        return Slope(total / self.samples, goal(logits), logits, queries)

    def logits(self, images: Images) -> Logits:
        return self.source.logits(images)


class Counted:
    """A classifier that counts the images it sees, forward and backward."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier, self.passes = classifier, 0

    def __call__(self, images: Images, /) -> Logits:
        self.passes += len(images)
        logits = self.classifier(images)
        if logits.requires_grad:
            logits.register_hook(self._backward(len(images)))  # type: ignore[no-untyped-call]
        return logits

    def _backward(self, number: int) -> Callable[[Tensor], None]:
        def count(gradient: Tensor) -> None:
            self.passes += number

        return count
