"""What attacks share that look for the nearest image that fools, whatever its distance, and not inside a radius."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from sonet.attacks.attack import Attack
from sonet.attacks.crafted import Crafted, Progress
from sonet.attacks.gradients import GradientSource
from sonet.attacks.losses import Goal
from sonet.attacks.threat import Threat
from sonet.types import Images, Labels

CLEARANCE = 1e-3
"""Share of its distance by which an image found goes beyond the boundary."""
BISECTIONS = 10
"""Halvings of a search's last way back to the clean image."""


@dataclass(frozen=True)
class Found:
    """What a search gave: `Crafted`'s loss, zero_gradients and queries, and the nearest images that fool.

    images: (N, C, H, W) in [0, 1]; where nothing fooled, the search's best guess. distance: (N,) to the clean image,
    infinite where nothing fooled.
    """

    images: Images
    distance: Tensor
    loss: Tensor
    zero_gradients: Tensor
    queries: Tensor


class MinimumNorm(Attack):
    """Base of the attacks that minimise the distance. Subclasses fill in `search`.

    An image found within the threat is the result as it is. One farther away is projected into the threat, where it
    may or may not fool: so the result is judged like any other, and `AttackResult.minimum` keeps the distance found.
    On the boundary itself rounding decides, and with it the batch size: an image found goes a thousandth of its
    distance beyond, where the threat has room and it fools there too.
    """

    stop_when_fooled: bool = Field(
        default=False, description="stop an image once it fools inside the threat; its distance is then not the least"
    )

    @abstractmethod
    def search(
        self, source: GradientSource, images: Images, labels: Labels, threat: Threat, progress: Progress | None
    ) -> Found:
        """The nearest images that fool, in `threat.norm`. With `stop_when_fooled`, any within `threat.eps` will do."""

    def craft(
        self,
        source: GradientSource,
        images: Images,
        labels: Labels,
        threat: Threat,
        checkpoints: Sequence[int],
        progress: Progress | None,
    ) -> Crafted:
        found = self.search(source, images, labels, threat, progress)
        near = threat.project(found.images, images)
        inside = (found.distance <= threat.eps).nonzero().squeeze(1)
        near[inside] = found.images[inside]
        moved = inside[found.distance[inside] > 0]
        if CLEARANCE and len(moved):
            clean = images[moved]
            clear = threat.project(clean + (1 + CLEARANCE) * (found.images[moved] - clean), clean)
            still = Goal(labels[moved]).fooled(source.logits(clear)).view(-1, 1, 1, 1)
            near[moved] = torch.where(still, clear, near[moved])
            found.queries[moved] += 1
        return Crafted(near, found.loss, found.zero_gradients, found.queries, minimum=found.distance)


class Nearest:
    """For each sample the nearest image seen that fools. A clean image that fools by itself is at distance 0."""

    def __init__(self, images: Images, threat: Threat) -> None:
        self._clean, self._threat = images, threat
        self.images = images.clone()
        self.distance = torch.full((len(images),), torch.inf, dtype=images.dtype, device=images.device)

    def note(self, whose: Tensor, images: Images, fell: Tensor) -> Tensor:
        """Compare the samples `whose`, (M,) places, with `images`, of which `fell` fool; gives (M,) who came nearer."""
        distance = self._threat.distance(images, self._clean[whose])
        nearer = fell & (distance < self.distance[whose])
        chosen = whose[nearer]
        self.images[chosen], self.distance[chosen] = images[nearer], distance[nearer]
        return nearer

    @property
    def within(self) -> Tensor:
        """(N,) bool: an image that fools was found inside the threat."""
        return self.distance <= self._threat.eps

    def going(self, stop_within: bool) -> Tensor:
        """(N,) bool: who can come nearer and, with `stop_within`, is not yet inside the threat."""
        nearer = self.distance > 0
        return nearer & ~self.within if stop_within else nearer

    def to_boundary(self, source: GradientSource, goal: Goal, steps: int, going: Tensor | None = None) -> Tensor:
        """Walk each image found back toward its clean image, by bisection; gives (N,) int64, the queries spent.

        Only images that fool are kept, so that a search's overshoot costs nothing in the end. goal: of all N samples.
        going: (N,) bool, whose images to walk back; default all.
        """
        queries = torch.zeros(len(self.images), dtype=torch.int64, device=self.images.device)
        found = torch.isfinite(self.distance) & (self.distance > 0)
        whose = (found if going is None else found & going).nonzero().squeeze(1)
        if not len(whose):
            return queries
        clean, far, rest = self._clean[whose], self.images[whose], goal.take(whose)
        low, high = (torch.full((len(whose), 1, 1, 1), end, dtype=far.dtype, device=far.device) for end in (0.0, 1.0))
        for _ in range(steps):
            middle = (low + high) / 2
            between = clean + middle * (far - clean)
            fell = rest.fooled(source.logits(between)).view(-1, 1, 1, 1)
            queries[whose] += 1
            low, high = torch.where(fell, low, middle), torch.where(fell, middle, high)
            self.note(whose, between, fell.flatten())
        return queries
