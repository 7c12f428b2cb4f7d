"""The threat model: norm, radius and box. The only home of eps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sonet.attacks.noise import ImageNoise
from sonet.types import Images

Norm = Literal["linf", "l2"]
ROUNDING = 1e-6
"""By how much rounding may carry a pixel past box or budget."""


class ThreatError(ValueError):
    """A threat that makes no sense, or an image outside the one it was made for."""


def parse_eps(text: str | float) -> float:
    """A radius in pixel units of [0, 1], from 0.031 or "8/255"."""
    try:
        if isinstance(text, str):
            top, slash, bottom = text.partition("/")
            value = float(top) / float(bottom) if slash else float(top)
        else:
            value = float(text)
    except (ValueError, ZeroDivisionError):
        raise ThreatError(
            f"eps: got {text!r}, expected a number such as 0.031 or a fraction such as 8/255: "
            "it is a radius in pixel units of [0, 1]."
        ) from None
    if not math.isfinite(value) or value < 0:
        raise ThreatError(
            f"eps: got {value:g}, expected a finite number >= 0. It is a radius in pixel units of [0, 1]; "
            "write 8/255 for 8 grey levels."
        )
    return value


@dataclass(frozen=True)
class Threat:
    r"""All images x' in [0, 1] with ||x' - x|| <= eps; the l2 norm runs over all pixels and channels of an image.

    `Linf(8 / 255)` and `L2(0.5)` build one, `Threat.parse("linf:8/255")` reads one.
    """

    norm: Norm
    eps: float

    def __post_init__(self) -> None:
        if self.norm not in ("linf", "l2"):
            raise ThreatError(f"norm: got {self.norm!r}, expected linf or l2.")
        object.__setattr__(self, "eps", parse_eps(self.eps))

    @classmethod
    def parse(cls, text: str) -> Threat:
        norm, colon, eps = text.partition(":")
        if not colon:
            raise ThreatError(f"threat: got {text!r}, expected NORM:EPS, for example linf:8/255 or l2:0.5.")
        return cls(norm.strip().lower(), parse_eps(eps.strip()))  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"{self.norm}:{self.eps:g}"

    def distance(self, adversarial: Images, images: Images) -> Tensor:
        """||x' - x||, (N,)."""
        difference = (adversarial - images).flatten(1)
        return difference.abs().amax(1) if self.norm == "linf" else _length(difference).to(difference.dtype)

    def project(self, adversarial: Images, images: Images) -> Images:
        """Into the ball around `images`, then into the box. Both norms shrink toward x in the box, so one pass does."""
        difference = adversarial - images
        if self.norm == "linf":
            difference = difference.clamp(-self.eps, self.eps)
        else:
            shrink = (self.eps / _length(difference).clamp_min(1e-12)).clamp_max(1.0)
            difference = difference * shrink.to(difference.dtype).view(-1, 1, 1, 1)
        return (images + difference).clamp(0.0, 1.0)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The direction of unit length in which a linear loss grows fastest: sign (linf), gradient / norm (l2)."""
        if self.norm == "linf":
            return gradient.sign()
        length = _length(gradient).view(-1, 1, 1, 1)
        return (gradient / torch.where(length > 0, length, 1.0)).to(gradient.dtype)

    def random_start(self, images: Images, noise: ImageNoise) -> Images:
        """A point uniform in the ball around each image, then projected into the box."""
        offset = self.random_offset(noise.uniform(), noise.normal(), noise.scalar())
        return self.project(images + offset, images)

    def random_offset(self, uniform: Tensor, normal: Tensor, radius: Tensor) -> Tensor:
        """A point uniform in the ball, from draws: uniform in [0, 1), normal, (N, C, H, W); radius in [0, 1), (N,)."""
        if self.norm == "linf":
            return (2 * uniform - 1) * self.eps
        dimensions = normal[0].numel()
        length = self.eps * radius.pow(1 / dimensions).view(-1, 1, 1, 1)
        return self.steepest(normal) * length

    def check(self, adversarial: Images, images: Images) -> None:
        """Raise `ThreatError` where an image left box or budget by more than rounding, or is not finite."""
        finite = bool(torch.isfinite(adversarial).all())
        outside = max(float(-adversarial.min()), float(adversarial.max()) - 1.0)
        beyond = float((self.distance(adversarial, images) - self.eps).max())
        slack = ROUNDING
        if self.norm == "l2":  # every pixel is rounded, and so is the factor that shrinks them
            slack += torch.finfo(torch.float32).eps / 2 * (images[0].numel() ** 0.5 + 2 * self.eps)
        if not finite or outside > ROUNDING or beyond > slack:
            raise ThreatError(
                f"an attacked image left its threat {self}: {max(outside, 0):.2g} outside [0, 1], {max(beyond, 0):.2g} "
                f"beyond eps, finite: {finite}. An attack must return images it was allowed to make."
            )


def _length(values: Tensor) -> Tensor:
    """l2 norm over all but the first dimension, (N,), float64.

    In float32 the squares of a saturated loss's gradient, 1e-25 and less, would underflow, and the sum over the
    150,000 pixels of a large image would be off by 1e-4.
    """
    length: Tensor = values.flatten(1).norm(dim=1, dtype=torch.float64)
    return length


def Linf(eps: float | str) -> Threat:
    """max |x' - x| <= eps."""
    return Threat("linf", parse_eps(eps))


def L2(eps: float | str) -> Threat:
    """||x' - x||_2 <= eps."""
    return Threat("l2", parse_eps(eps))
