"""Certificates made by code: a full, believable one with attacks beside it, and one without anything optional."""

from __future__ import annotations

from sonet.report import BlockRow, BoundRow, CertificateRecord, Certified, Count, CurvePoint, Environment
from sonet.types import Proportion

SUMMARY = (
    "38 of 40 test images are right without attack. At l2 0.25 28 of them are certified, 0.700 [0.546, 0.819]: no "
    "change of that size, by any attack, changes the answer. The worst of quick leaves 36, 0.900; the truth is between "
    "the two."
)
WHY = "ODENetField: GroupNorm divides by its input's spread, which can be as small as it likes."
RADII = (0.0, 0.25, 0.5, 1.0)
CERTIFIED, LEFT = (38, 28, 15, 0), (None, 36, 32, 25)
"""What the images say."""


def count(right: int, n: int = 40) -> Count:
    return Count.of(Proportion(right, n))


def minimal_certificate(**changes: object) -> CertificateRecord:
    values: dict[str, object] = {
        "title": "Certificate of a small network",
        "summary": "1 of 2 test images are right without attack.",
        "model": "small",
        "norm": "linf",
        "attack": "none",
        "command": "sonet certify run --attack none",
        "data": {},
        "settings": {},
        "environment": _environment(),
        "natural": count(1, 2),
        "gap": 1.25,
        "error": 1e-5,
        "float64": 0.0,
        "layers": [],
        "blocks": [],
        "curve": [CurvePoint(eps=0.0, certified=count(1, 2))],
        "images": [Certified(index=0, label=0, radius=0.5), Certified(index=1, label=1, radius=-1.0)],
        "seconds": 1.5,
    }
    return CertificateRecord.model_validate({**values, **changes})


def synthetic_certificate(**changes: object) -> CertificateRecord:
    values: dict[str, object] = {
        "title": "stable: certified against l2",
        "summary": SUMMARY,
        "model": "stable",
        "norm": "l2",
        "attack": "quick",
        "command": "sonet certify runs/stable --radii 0.25,0.5,1",
        "data": {"name": "digits", "n_test": 40, "shape": [1, 8, 8]},
        "settings": {"seed": 0, "radii": list(RADII), "model": {"kind": "stable-sonet", "kernel_norm": 0.4}},
        "environment": _environment(),
        "natural": count(38),
        "gap": 1.4567,
        "error": 2.5e-4,
        "float64": 3.1e-6,
        "layers": [
            BoundRow(name="spread", kind="SpreadChannels", gain=1.0, error=1.2e-6),
            BoundRow(name="stages.0.0", kind="ODEBlock", gain=1.0000001, error=8.9e-5),
            BoundRow(name="head", kind="UnitRows", gain=1.3456, error=1.7e-4),
        ],
        "blocks": [
            BlockRow(
                name="stages.0.0",
                kind="TiedSkewConv",
                kernel_norm=0.4004,
                logarithmic=-0.0343,
                flow=0.9663,
                step=1.0,
                block=1.0,
                measured=0.9712,
                pairs=0.9534,
                field=-0.0511,
            ),
            BlockRow(name="stages.1.0", kind="ODENetField", measured=1.8712, pairs=1.4321, why=f"stages.1.0: {WHY}"),
            BlockRow(name="stages.1.1", kind="ODENetField", measured=1.7, pairs=1.3, why=f"stages.1.1: {WHY}"),
        ],
        "curve": [
            CurvePoint(
                eps=eps,
                certified=count(sure),
                attacked=None if left is None else count(left),
                seconds=0.0 if left is None else 65.0,
            )
            for eps, sure, left in zip(RADII, CERTIFIED, LEFT, strict=True)
        ],
        "images": [_image(index) for index in range(40)],
        "seconds": 541.8,
    }
    return CertificateRecord.model_validate({**values, **changes})


def _image(index: int) -> Certified:
    """Two wrong, the others certified up to 0.8 and a bit; some fell beyond."""
    if index < 2:
        return Certified(index=index, label=index, radius=-1.0)
    radius = 0.02 * index + 0.0123
    fell = index % 3 == 0
    return Certified(
        index=index,
        label=index % 10,
        radius=radius,
        fell_at=radius + 0.1 if fell else None,
        fell_to="pgd" if fell else "",
    )


def _environment() -> Environment:
    return Environment(
        versions={"python": "3.11.7", "torch": "2.13.0", "sonet": "0.1.0"},
        device="cpu",
        threads=2,
        commit="1a2b3c4",
        platform="Linux-6.1-x86_64",
        created="2025-01-31T12:00:00+00:00",
    )
