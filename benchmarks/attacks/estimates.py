"""How far an attack gets whose gradient is right on average but estimated: SPSA's loop on the network's own gradient.

    python benchmarks/attacks/estimates.py RUN [--data digits] [--images 50] [--eps 0.1] [--seed 0] [--data-dir DIR]

Each step takes the network's own gradient g, by backpropagation, and puts in its place what SPSA would see of a linear
loss, 1/m sum_i (g . v_i) v_i. That cannot be masked where g is not, so what such a run leaves above the run on g itself
is the noise of the estimate. Margin loss, from the image, steps of eps / 4, each image's own step sizes where the
network has any.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch

import sonet
from sonet.attacks import GradientSource, Linf
from sonet.attacks.ascent import ascend
from sonet.attacks.gradients import Slope
from sonet.attacks.losses import LOSSES, Goal
from sonet.attacks.noise import Directions, ImageNoise
from sonet.evaluation import gradient_sources
from sonet.types import Images, Logits

RUNS: tuple[tuple[Directions | None, int, int, float, bool], ...] = (
    (None, 0, 100, 0.75, False),
    ("independent", 64, 100, 0.75, False),
    ("independent", 256, 100, 0.75, False),
    ("independent", 256, 50, 0.75, True),
    ("orthogonal", 64, 100, 0.75, False),
    ("orthogonal", 64, 100, 0.95, True),
    ("orthogonal", 256, 50, 0.75, False),
    ("orthogonal", 256, 50, 0.75, True),
)
"""Directions (none: g itself) and pairs of them at a step; steps; momentum; whether the steps shorten."""


@dataclass(frozen=True)
class Seen(GradientSource):
    """The gradient of `source` as m random directions show it."""

    source: GradientSource
    samples: int
    directions: Directions

    def __call__(self, images: Images, goal: Goal, noise: ImageNoise) -> Slope:
        slope = self.source(images, goal, noise)
        seen = noise.directions(self.samples, self.directions).flatten(2)
        along = torch.einsum("nmd,nd->nm", seen, slope.gradient.flatten(1)) / self.samples
        gradient = torch.einsum("nmd,nm->nd", seen, along).view_as(images)
        return Slope(gradient, slope.loss, slope.logits, slope.queries)

    def logits(self, images: Images) -> Logits:
        return self.source.logits(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-dir", type=Path)
    asked = parser.parse_args()
    model = sonet.load_model(asked.run).eval()
    test = sonet.load(asked.data, data_dir=asked.data_dir).test
    images, labels = test.images[: asked.images].contiguous(), test.labels[: asked.images]
    sources = gradient_sources(model, images, labels)
    own = sources.get("alone", sources["own"])
    threat, goal = Linf(asked.eps), Goal(labels, LOSSES["margin"])
    print("directions   pairs  steps  momentum  decay   left  mean margin")
    for directions, samples, steps, momentum, decay in RUNS:
        noise = ImageNoise(images, asked.seed)
        source = own if directions is None else Seen(own, samples, directions)
        crafted = ascend(
            source,
            images,
            goal,
            threat,
            start=images,
            noise=noise,
            steps=steps,
            step_size=threat.eps / 4,
            keep="best",
            stop_when_fooled=False,
            momentum=momentum,
            decay=decay,
        )
        logits = own.logits(crafted.images)
        left, reached = len(images) - int(goal.fooled(logits).sum()), float(goal(logits).mean())
        words = f"{'yes' if decay else 'no':>5}  {left:>5}  {reached:>11.3f}"
        print(f"{directions or 'none: g':<12} {samples:>5}  {steps:>5}  {momentum:>8}  {words}", flush=True)


if __name__ == "__main__":
    main()
