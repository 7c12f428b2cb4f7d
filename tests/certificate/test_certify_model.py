"""Certificates and attacks side by side: what is held against what, evidence that resumes, and the alarm that rings."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from certificate_networks import Chained, digits, linear, pixels, some, stable, trained
from torch import nn

from sonet.attacks import APGD, PGD
from sonet.attacks.ensemble import ENSEMBLES, Member
from sonet.attacks.threat import Norm
from sonet.certificate import (
    Bound,
    CannotCertify,
    CertificateBroken,
    Certification,
    certify,
    certify_model,
    distances,
    make_certificate,
)
from sonet.certificate import radii as module
from sonet.data import Split
from sonet.report import read_certificate, write_certificate
from sonet.solvers import Fixed

SHORT = (
    Member(name="pgd", attack=PGD(steps=10, loss="margin")),
    Member(name="apgd", attack=APGD(steps=12, loss="margin")),
)
RADII = (0.0, 0.1, 0.4, 1.5)


def labelled(model: nn.Module, n: int = 12, size: tuple[int, int] = (5, 4)) -> Split:
    """Random images with the answers the model gives, but a wrong label for the first."""
    x = pixels(n, size=size)
    with torch.no_grad():
        labels = model(x).argmax(1)
    labels[0] = (labels[0] + 1) % 3
    return Split(x, labels)


def fingerprint(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def same(one: Certification, other: Certification) -> bool:
    accuracies = [
        [None if point.attacked is None else point.attacked.accuracy for point in each.points] for each in (one, other)
    ]
    return accuracies[0] == accuracies[1] and torch.equal(one.nearest, other.nearest)


def consistent(found: Certification) -> None:
    """The certified share is never above what attacks leave, and both only fall."""
    certified = [found.certificates.at(point.eps).count for point in found.points]
    assert certified == sorted(certified, reverse=True)
    left = [point.attacked.accuracy.count for point in found.points if point.attacked is not None]
    assert left == sorted(left, reverse=True)
    for point, sure in zip(found.points, certified, strict=True):
        assert point.attacked is None or sure <= point.attacked.accuracy.count
    assert not bool((found.nearest < found.certificates.radii).any())


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_attacks_at_every_radius_stay_between_the_certificate_and_the_natural_accuracy(norm: Norm) -> None:
    model, test = trained(), some(30)
    scale = 1.0 if norm == "l2" else 0.2
    found = certify_model(model, test, norm, [scale * eps for eps in RADII], SHORT)
    consistent(found)
    assert [point.eps for point in found.points] == [scale * eps for eps in RADII]
    assert found.points[0].attacked is None
    last = found.points[-1].attacked
    assert last is not None
    assert last.accuracy.count < found.certificates.natural.count
    assert found.certificates.at(scale * 0.1).count > 10 or norm == "linf"
    fell = torch.isfinite(found.nearest)
    assert fell.any()
    assert all((name != "") == bool(was) for name, was in zip(found.nearest_by, fell.tolist(), strict=True))
    assert set(found.nearest_by) <= {"", "pgd", "apgd"}
    assert not fell[found.certificates.radii < 0].any()  # what is wrong by itself needs no attack
    assert 0 < found.float64 <= found.bound.error
    assert [row.name for row in found.blocks] == ["stages.0.0", "stages.2.0"]
    assert all(row.block is not None and row.block <= 1 + 1e-6 >= row.measured for row in found.blocks)


def test_the_nearest_image_is_measured_where_it_is() -> None:
    model, test = linear(), labelled(linear())
    found = certify_model(model, test, "l2", [0.0, 0.3, 0.6], SHORT)
    for point in found.points[1:]:
        assert point.attacked is not None
        far = distances(point.attacked.adversarial, test.images, "l2")
        fell = point.attacked.fell_to >= 0
        assert bool((found.nearest[fell] <= far[fell]).all())
        assert bool((far[fell] <= point.eps + 1e-5).all())


def test_distances_are_those_of_the_images_in_float64() -> None:
    a, b = torch.zeros(1, 1, 2, 2), torch.tensor([[[[0.3, 0.0], [0.4, 0.0]]]])
    assert float(distances(a, b, "l2")) == pytest.approx(0.5, rel=1e-7)
    assert float(distances(a, b, "linf")) == pytest.approx(float(torch.tensor(0.4)), rel=1e-12)
    assert distances(a, b, "l2").dtype == torch.float64


def test_without_attacks_there_are_certificates_alone() -> None:
    model = stable(kernel_norm=0.2)
    test = labelled(model)
    found = certify_model(model, test, "l2", RADII, ())
    assert all(point.attacked is None for point in found.points)
    assert torch.equal(found.certificates.radii, certify(model, test.images, test.labels, "l2")[0].radii)
    assert float(found.certificates.radii[0]) == -1
    assert found.certificates.natural.count == 11


# The ensembles as they are


@pytest.mark.parametrize(("name", "n"), [("quick", 6), ("standard", 2)])
def test_the_suite_s_ensembles_run_beside_it_as_they_are(name: str, n: int) -> None:
    found = certify_model(trained(), some(n), "l2", [0.3], ENSEMBLES[name][0]((), 0))
    consistent(found)
    (point,) = found.points
    assert point.attacked is not None
    names = [member.name for member in ENSEMBLES[name][0]((), 0)]
    assert [attempt.member.name for attempt in point.attacked.attempts] == names


# Evidence


class Stop(Exception):
    pass


def test_a_run_that_was_stopped_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    model, test = trained(), some(10)
    seen: list[str] = []

    def stop(name: str, done: float, word: str) -> None:
        seen.append(name)
        if name == "apgd at 0.4":
            raise Stop

    whole = certify_model(model, test, "l2", RADII, SHORT)
    with pytest.raises(Stop):
        certify_model(model, test, "l2", RADII, SHORT, out=tmp_path, watch=stop)
    assert {"pgd at 0.1", "apgd at 0.1", "pgd at 0.4"} <= set(seen)
    assert {folder.name for folder in tmp_path.iterdir()} == {"l2-0.1", "l2-0.4"}
    resumed = certify_model(model, test, "l2", RADII, SHORT, out=tmp_path)
    assert same(resumed, whole)
    before = fingerprint(tmp_path)
    assert {name.split("/")[0] for name in before} == {"l2-0.1", "l2-0.4", "l2-1.5"}
    again = certify_model(model, test, "l2", RADII, SHORT, out=tmp_path)
    assert same(again, whole)
    assert fingerprint(tmp_path) == before


def test_what_is_certified_is_said_first() -> None:
    said: list[str] = []
    found = certify_model(linear(), labelled(linear()), "l2", [0.0], (), say=said.append)
    assert said == [
        f"certified: every difference of logits changes by at most {found.bound.largest:.4g} times the image, in l2."
    ]


# The alarm


def shrunk(factor: float) -> Callable[..., Bound]:
    real = module.bound_network

    def bound(*given: Any, **more: Any) -> Bound:
        found = real(*given, **more)
        return replace(found, gaps=factor * found.gaps)

    return bound


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("factor", [0.5, 0.0])
def test_constants_that_are_too_small_are_disproved_by_the_attacks(
    monkeypatch: pytest.MonkeyPatch, factor: float, norm: Norm
) -> None:
    """In l2 already half of them, because a linear network falls where its certificate ends; in linf none at all."""
    if factor and norm == "linf":
        return
    model = linear(seed=3)
    test = labelled(model, 20)
    radii = certify(model, test.images, test.labels, "l2")[0].radii
    eps = 1.5 * float(radii[radii > 0].median())
    certify_model(model, test, norm, [eps], SHORT)
    monkeypatch.setattr(module, "bound_network", shrunk(factor))
    with pytest.raises(CertificateBroken, match=r"image \d+ is certified up to .* fooled the network at .* report it"):
        certify_model(model, test, norm, [eps], SHORT)


def test_of_a_stable_network_no_constants_at_all_are_disproved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "bound_network", shrunk(0.0))
    with pytest.raises(CertificateBroken, match=r"(pgd|apgd) fooled the network at"):
        certify_model(trained(), some(20), "l2", [1.5], SHORT)


def test_a_path_that_lies_about_other_images_is_found_out_by_attacking() -> None:
    """On the image that the path is tried with it tells the truth, but not on brighter ones."""
    model = Chained(steep=300.0, above=0.5).eval()
    x = (0.4 + 0.2 * pixels(20)).clamp(0, 1)
    x[0] = 0.45
    with torch.no_grad():
        test = Split(x, model(x).argmax(1))
    with pytest.raises(CertificateBroken, match=r"not what its path\(\) says"):
        certify_model(model, test, "l2", [0.5], SHORT)


def test_a_network_of_which_rounding_is_not_counted_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = module.bound_network
    monkeypatch.setattr(module, "bound_network", lambda *given, **more: replace(real(*given, **more), error=1e-12))
    with pytest.raises(CannotCertify, match=r"float32 and float64 are .* apart, more than the 1e-12"):
        certify_model(linear(), labelled(linear()), "l2", [0.0], ())


def test_a_small_stable_network_is_not_refused_for_the_kernels_of_its_twin() -> None:
    one_stage = {"kernel_norm": 0.8, "slope": 0.9, "blocks": (1,), "strides": (1,), "image_size": (8, 8)}
    model = stable(seed=2, solver=Fixed(method="euler", num_steps=1), **one_stage)
    found = certify_model(model, labelled(model, 50, (8, 8)), "l2", [0.0], ())
    assert found.float64 < found.bound.error / 10


# The record


def test_the_record_says_what_was_found(tmp_path: Path) -> None:
    model, test = trained(), some(12)
    found = certify_model(model, test, "l2", RADII, SHORT)
    data = replace(digits(), test=test)
    record = make_certificate(found, data, model="m", attack="short", command="sonet certify m", settings={"seed": 0})
    assert read_certificate(write_certificate(record, tmp_path)) == record
    assert (record.model, record.norm, record.attack, record.natural.n) == ("m", "l2", "short", 12)
    assert record.gap == found.bound.largest
    assert [(point.eps, point.certified.count) for point in record.curve] == [
        (point.eps, found.certificates.at(point.eps).count) for point in found.points
    ]
    assert [point.attacked is None for point in record.curve] == [True, False, False, False]
    for image, radius, near in zip(
        record.images, found.certificates.radii.tolist(), found.nearest.tolist(), strict=True
    ):
        assert image.radius == radius
        assert image.fell_at == (None if near == float("inf") else near)
    assert [layer.name for layer in record.layers] == [layer.name for layer in found.bound.layers]
    natural = found.certificates.natural.count
    assert record.summary.startswith(f"{natural} of 12 test images are right without attack. At l2 ")
    assert "no change of that size, by any attack, changes the answer" in record.summary
    assert "The worst of short leaves" in record.summary


def test_the_summary_without_attacks_claims_none() -> None:
    found = certify_model(linear(), labelled(linear()), "linf", [0.0, 0.01], ())
    data = replace(digits(), test=labelled(linear()), train=labelled(linear()))
    record = make_certificate(found, data, model="m", attack="none", command="c", settings={})
    assert "worst of" not in record.summary
    assert "No attack" not in record.summary
    assert "At linf 0.01" in record.summary
