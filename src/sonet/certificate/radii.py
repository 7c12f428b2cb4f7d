"""The radius within which no change of an image changes the answer, image by image."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sonet.attacks.threat import Norm
from sonet.certificate.bound import Bound, CannotCertify, bound_network
from sonet.types import Images, Labels, Proportion

BATCH = 100
"""Images judged together."""


@dataclass(frozen=True)
class Certificates:
    r"""For each image the radius certified, 0 where nothing is, and -1 where the answer is wrong without any change.

        radius = min over j != y of (logit_y - logit_j - 2 error) / gap_yj              l_2
        radius_inf = radius / sqrt(C H W)                                               |d|_2 <= sqrt(C H W) |d|_inf

    The error of rounding counts twice, at the image and at the attacked one: the statement is about what is computed.
    """

    norm: Norm
    radii: Tensor

    @property
    def natural(self) -> Proportion:
        return Proportion(int((self.radii >= 0).sum()), len(self.radii))

    def at(self, eps: float) -> Proportion:
        """Images certified at a radius: right, and no change of at most `eps` makes them wrong."""
        return Proportion(int((self.radii > eps).sum()) if eps > 0 else int((self.radii >= 0).sum()), len(self.radii))


def certify(model: nn.Module, images: Images, labels: Labels, norm: Norm) -> tuple[Certificates, Bound]:
    """Certified radii of images, (N, C, H, W) in [0, 1], on the CPU, and the bound that gave them.

    Rounding is counted for images as long as these, and those within the largest radius of them. Errors: CannotCertify.
    """
    first = bound_network(model, images[:1])
    logits = _logits(model, images)
    if int(labels.max()) >= logits.shape[1]:
        raise CannotCertify(
            f"the network has {logits.shape[1]} classes, and labels go up to {int(labels.max())}; "
            "give the data it is for."
        )
    # Without rounding the radii are larger, so that no certified ball reaches beyond this length.
    reach = float(_radii(logits, labels, replace(first, error=0.0)).max())
    longest = float(images.double().flatten(1).norm(dim=1).max())
    bound = bound_network(model, images[:1], size=(longest + reach) * (1 + 1e-9))
    radii = _radii(logits, labels, bound)
    if norm == "linf":
        radii = radii / math.sqrt(images[0].numel()) * (1 - 1e-9)
    right = logits.argmax(1) == labels
    return Certificates(norm, torch.where(right, radii, torch.full_like(radii, -1.0))), bound


def _logits(model: nn.Module, images: Images) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(batch) for batch in images.split(BATCH)]).double()  # type: ignore[no-untyped-call]


def _radii(logits: Tensor, labels: Labels, bound: Bound) -> Tensor:
    """(N,) in l_2, at least 0."""
    own = logits.gather(1, labels[:, None])
    gaps = bound.gaps.clamp_min(1e-300)[labels]
    ratios = ((own - logits - 2 * bound.error) / gaps).scatter(1, labels[:, None], math.inf)
    return ratios.amin(1).clamp_min(0.0) * (1 - 1e-9)
