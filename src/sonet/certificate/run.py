"""`certify_model`: bounds, certified radii, and the suite's attacks beside them, image by image."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sonet.attacks import Threat
from sonet.attacks.ensemble import Member
from sonet.attacks.threat import Norm
from sonet.blocks import TiedField, UnitRows
from sonet.blocks.stability import Stability, stability
from sonet.certificate.bound import Bound, CannotCertify
from sonet.certificate.radii import BATCH, Certificates, certify
from sonet.data import Split
from sonet.evaluation import Evaluation, Watch, evaluate

TABLE = 8
"""Images at which stretches are measured."""


class CertificateBroken(RuntimeError):
    """An attack fooled the network within a certified radius: the certificate is wrong. Says which image."""


@dataclass(frozen=True)
class Point:
    """A radius, and what the attacks left there; None where none was run."""

    eps: float
    attacked: Evaluation | None


@dataclass(frozen=True)
class Certification:
    """nearest: (N,) distance of the nearest image that fooled the network, infinite where none was found.

    float64: how far differences of logits in float32 are from those in float64, at most.
    """

    bound: Bound
    certificates: Certificates
    points: tuple[Point, ...]
    nearest: Tensor
    nearest_by: tuple[str, ...]
    blocks: tuple[Stability, ...]
    float64: float
    seconds: float


def certify_model(
    model: nn.Module,
    test: Split,
    norm: Norm,
    radii: Sequence[float],
    members: Sequence[Member],
    *,
    out: Path | None = None,
    about: dict[str, Any] | None = None,
    watch: Watch = lambda name, done, word: None,
    say: Callable[[str], None] = lambda sentence: None,
) -> Certification:
    """Certify a network on the CPU, in float32, and attack it at each radius with an ensemble; no members, no attack.

    Every image that any attack moved is held against its certificate. out: folder of the attacks' evidence, resumable.
    Errors: CannotCertify; CertificateBroken where an attack disproves the certificate.
    """
    begun = time.perf_counter()
    images, labels = test.images, test.labels
    certificates, bound = certify(model, images, labels, norm)
    float64 = _against_float64(model, images, bound)
    say(f"certified: every difference of logits changes by at most {bound.largest:.4g} times the image, in l2.")
    nearest = torch.full((len(labels),), math.inf, dtype=torch.float64)
    by = [""] * len(labels)
    points: list[Point] = []
    earlier: Evaluation | None = None
    for eps in sorted(radii):
        if members and eps > 0:
            folder = None if out is None else out / f"{norm}-{eps:g}"
            threat = Threat(norm, eps)
            earlier = evaluate(
                model,
                images,
                labels,
                threat,
                members,
                judge_batch=BATCH,
                earlier=earlier,
                out=folder,
                about=about,
                watch=_at(eps, watch),
            )
            _hold(earlier, images, certificates, nearest, by)
        points.append(Point(eps, earlier if members and eps > 0 else None))
    blocks = stability(model, images[:TABLE])
    seconds = time.perf_counter() - begun
    return Certification(bound, certificates, tuple(points), nearest, tuple(by), blocks, float64, seconds)


def _at(eps: float, watch: Watch) -> Watch:
    return lambda name, done, word: watch(f"{name} at {eps:g}", done, word)


def distances(adversarial: Tensor, images: Tensor, norm: Norm) -> Tensor:
    """(N,) in float64: what is held against a certificate is where an image really is, not what was allowed."""
    apart = (adversarial.double() - images.double()).flatten(1)
    return apart.abs().amax(1) if norm == "linf" else apart.norm(dim=1)


def _hold(found: Evaluation, images: Tensor, certificates: Certificates, nearest: Tensor, by: list[str]) -> None:
    """Enter the images that fell, and stop where one fell within its certificate."""
    far = distances(found.adversarial, images, certificates.norm)
    fell = (found.fell_to >= 0) & (certificates.radii >= 0)
    for index in (fell & (far < nearest)).nonzero().flatten().tolist():
        nearest[index] = far[index]
        by[index] = found.attempts[int(found.fell_to[index])].member.name
    broken = (nearest < certificates.radii).nonzero().flatten().tolist()
    if broken:
        index = broken[0]
        raise CertificateBroken(
            f"image {index} is certified up to {float(certificates.radii[index]):.6g} and {by[index]} fooled the "
            f"network at {float(nearest[index]):.6g} ({len(broken)} such images): the certificate is wrong. "
            "This is a bug of ours, or the network is not what its path() says; please report it."
        )


def _twin(model: nn.Module) -> nn.Module:
    """The network in float64, with the kernels and rows that it made of its weights in float32: what is bounded."""
    twin = copy.deepcopy(model).double()
    for here, there in zip(model.modules(), twin.modules(), strict=True):
        if isinstance(here, TiedField):
            vars(there)["kernel"] = partial(_given, here.kernel().detach().double())
        elif isinstance(here, UnitRows):
            vars(there)["rows"] = partial(_given, here.rows().detach().double())
    return twin


def _given(value: Tensor) -> Tensor:
    return value


def _against_float64(model: nn.Module, images: Tensor, bound: Bound) -> float:
    """How far differences of logits are from float64's, which must be within what the bound says of rounding."""
    twin = _twin(model)
    with torch.no_grad():
        apart = torch.cat([model(x).double() - twin(x.double()) for x in images.split(BATCH)])  # type: ignore[no-untyped-call]
    worst = float((apart.amax(1) - apart.amin(1)).max())
    if not worst <= bound.error:
        raise CannotCertify(
            f"differences of logits in float32 and float64 are {worst:.3g} apart, more than the {bound.error:.3g} that "
            "rounding was counted for: this machine computes convolutions in another way than by plain sums."
        )
    return worst
