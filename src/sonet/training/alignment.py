"""Gradient alignment: how far the gradients at an image and near it point apart."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sonet.attacks import Threat
from sonet.attacks.noise import ImageNoise
from sonet.types import Images, Labels

NEIGHBOUR = 1
"""Added to the seed of the attack's start, so that eta is another draw."""


def misalignment(model: nn.Module, images: Images, labels: Labels, threat: Threat, seed: int) -> Tensor:
    r"""Mean of 1 - cos(g(x), g(x + eta)), in [0, 2], with graph (Andriushchenko and Flammarion 2020, arXiv:2007.02617).

    g(x): gradient of CE(x, y) with respect to x. eta: uniform in the ball of `threat`, x + eta in the box; the draw
    belongs to (seed, image). Both passes are made in the mode that the network is in. A sample of which a gradient is
    exactly zero counts 0: it has no direction.
    """
    near = threat.random_start(images, ImageNoise(images, seed + NEIGHBOUR))
    # In float64, where the squares of a saturated loss's gradient do not underflow.
    here, there = (_slope(model, some, labels).flatten(1).double() for some in (images, near))
    lengths = here.norm(dim=1), there.norm(dim=1)
    known = ((lengths[0] > 0) & (lengths[1] > 0)).nonzero().squeeze(1)
    cosine: Tensor = (here[known] * there[known]).sum(1) / lengths[0][known] / lengths[1][known]
    return ((1 - cosine).sum() / len(images)).to(images.dtype)


def _slope(model: nn.Module, images: Images, labels: Labels) -> Tensor:
    points = images.detach().clone().requires_grad_()
    loss = F.cross_entropy(model(points), labels, reduction="sum")
    slope: Tensor = torch.autograd.grad(loss, points, create_graph=True)[0]
    return slope
