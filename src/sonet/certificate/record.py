"""A certification as a record, and in words."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from sonet.certificate.run import Certification, Point
from sonet.data import Dataset
from sonet.report import (
    BlockRow,
    BoundRow,
    CertificateRecord,
    Certified,
    Count,
    CurvePoint,
    Environment,
)


def make_certificate(
    found: Certification,
    data: Dataset,
    *,
    model: str,
    attack: str,
    command: str,
    settings: dict[str, Any],
) -> CertificateRecord:
    """The record: bounds, the curve, and every image with its radius and the nearest attack that fooled it."""
    labels = data.test.labels.tolist()
    radii = found.certificates.radii.tolist()
    nearest = found.nearest.tolist()
    return CertificateRecord(
        title=f"{model}: certified against {found.certificates.norm}",
        summary=sentences(found, attack),
        model=model,
        norm=found.certificates.norm,
        attack=attack,
        command=command,
        data=data.describe(),
        settings=settings,
        environment=Environment.here(device="cpu"),
        natural=Count.of(found.certificates.natural),
        gap=found.bound.largest,
        error=found.bound.error,
        float64=found.float64,
        layers=[BoundRow(**asdict(layer)) for layer in found.bound.layers],
        blocks=[BlockRow(**asdict(block)) for block in found.blocks],
        curve=[_point(found, point) for point in found.points],
        images=[
            Certified(
                index=index,
                label=labels[index],
                radius=radii[index],
                fell_at=nearest[index] if math.isfinite(nearest[index]) else None,
                fell_to=found.nearest_by[index],
            )
            for index in range(len(labels))
        ],
        seconds=found.seconds,
    )


def _point(found: Certification, point: Point) -> CurvePoint:
    left = point.attacked
    return CurvePoint(
        eps=point.eps,
        certified=Count.of(found.certificates.at(point.eps)),
        attacked=None if left is None else Count.of(left.accuracy),
        seconds=0.0 if left is None else left.seconds,
    )


def sentences(found: Certification, attack: str) -> str:
    """What came out, at the largest of the radii at which half of the images are certified, or at the smallest."""
    natural, norm = found.certificates.natural, found.certificates.norm
    asked = [point for point in found.points if point.eps > 0]
    said = [f"{natural.count} of {natural.n} test images are right without attack."]
    if asked:
        most = [point for point in asked if found.certificates.at(point.eps).value >= 0.5]
        middle = most[-1] if most else asked[0]
        held = found.certificates.at(middle.eps)
        low, high = held.interval
        said.append(
            f"At {norm} {middle.eps:g} {held.count} of them are certified, {held.value:.3f} [{low:.3f}, {high:.3f}]: "
            "no change of that size, by any attack, changes the answer."
        )
        if middle.attacked is not None:
            left = middle.attacked.accuracy
            said.append(
                f"The worst of {attack} leaves {left.count}, {left.value:.3f}; the truth is between the two. "
                "No attack at any radius fooled the network on an image within its certificate."
            )
    return " ".join(said)
