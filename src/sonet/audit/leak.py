"""The cross-sample leak: how much of a sample's input gradient comes from its batch-mates' losses."""

from __future__ import annotations

import torch
from torch import Tensor

from sonet.attacks import cross_entropy
from sonet.attacks.losses import Loss
from sonet.types import Classifier, Images, Labels


def own_gradient_share(
    classifier: Classifier, images: Images, labels: Labels, *, stride: int | None = None, loss: Loss = cross_entropy
) -> Tensor:
    r"""For each sample i, ||g_own|| / (||g_own|| + ||g_mates||), (N,) in [0, 1]; 1 where both are zero.

    NaN where a gradient is not finite: nothing is known of such a sample.

        g_own = d L_i / d x_i,    g_mates = sum_{j != i} d L_j / d x_i

    A classifier that treats samples independently has 1 everywhere. One whose samples share step sizes that carry
    gradient has less: the gradient that an attack follows is then mostly about other images.

    stride: where only samples of the same group of `stride` consecutive ones can influence each other, one backward
    pass serves one sample of every group; the default, N, assumes nothing. N / stride must be whole.
    """
    count = len(images)
    stride = count if stride is None else stride
    if stride < 1 or count % stride:
        raise ValueError(
            f"own_gradient_share: got stride {stride}, expected a number >= 1 that divides the {count} images. "
            "Samples are taken in whole groups of it; give a multiple of it as images."
        )
    leaf = images.detach().clone().requires_grad_(True)
    losses = loss(classifier(leaf), labels)
    if not losses.requires_grad:  # the graph is cut: no gradient, neither own nor others'
        return torch.ones_like(losses)
    whole = _gradient(losses.sum(), leaf, keep=True)
    own = torch.empty_like(whole)
    for member in range(stride):
        chosen = torch.arange(member, count, stride, device=images.device)
        own[chosen] = _gradient(losses[chosen].sum(), leaf, keep=member + 1 < stride)[chosen]
    mine, mates = own.flatten(1).norm(dim=1), (whole - own).flatten(1).norm(dim=1)
    total = mine + mates
    return torch.where(total == 0, 1.0, mine / torch.where(total == 0, 1.0, total))


def _gradient(loss: Tensor, leaf: Tensor, *, keep: bool) -> Tensor:
    """0 where the graph does not lead to `leaf`."""
    (gradient,) = torch.autograd.grad(loss, leaf, retain_graph=keep, allow_unused=True)
    return torch.zeros_like(leaf) if gradient is None else gradient
