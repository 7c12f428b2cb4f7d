"""Nothing fools a network within a certificate: searched for at the radius itself, over networks, norms and attacks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from certificate_networks import COVERED, SMALL, climb, pixels, some, stable, trained
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sonet.attacks import APGD, ATTACKS, FAB, PGD, SPSA, DeepFool, Square, Threat
from sonet.attacks.threat import Norm
from sonet.certificate import certify, distances
from sonet.solvers import Fixed

NORMS: tuple[Norm, ...] = ("l2", "linf")
SKEW: list[dict[str, Any]] = [
    {"kernel_norm": 0.4, "slope": 0.9, "solver": Fixed(method="euler", num_steps=2)},
    {"kernel_norm": 0.4, "slope": 0.9, "solver": Fixed(method="heun", num_steps=1)},
    {"kernel_norm": 0.9, "slope": 0.9, "solver": Fixed(method="euler", num_steps=1)},
    {"kernel_norm": 0.6, "slope": 0.4, "solver": Fixed(method="euler", num_steps=4)},
    {"kernel_norm": 2.0, "slope": 1.0, "solver": Fixed(method="euler", num_steps=3)},
]
POTENTIAL: list[dict[str, Any]] = [
    {"solver": Fixed(method=method, num_steps=steps)} for method, steps in (("euler", 1), ("euler", 3), ("heun", 2))
]
ANY = st.one_of(
    st.sampled_from(SKEW).map(lambda options: ("stable-sonet", options)),
    st.sampled_from(POTENTIAL).map(lambda options: ("convex-potential", options)),
)


def right(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        labels: Tensor = model(x).argmax(1)
    return labels


def fooled_within(model: nn.Module, moved: Tensor, x: Tensor, labels: Tensor, radii: Tensor, norm: Norm) -> list[float]:
    """Distances, over the radius, of moved images that fool where none may; in float64, where the images really are."""
    far = distances(moved, x, norm)
    broken = (right(model, moved) != labels) & (far <= radii)
    return (far / radii)[broken].tolist()


def search(model: nn.Module, x: Tensor, labels: Tensor, norm: Norm) -> tuple[list[float], Tensor]:
    """What fooled within its certificate, by attacks right at it, just inside, and from outside; and the radii."""
    radii = certify(model, x, labels, norm)[0].radii
    moved = [
        restart
        for share in (1.0, 1 - 1e-6)
        for restart in climb(model, x, labels, share * radii, norm, steps=25, restarts=3)
    ]
    for attack in (FAB(steps=15), DeepFool(steps=12, laps=2)):
        moved.append(attack.run(model, x, labels, Threat(norm, 3.0)).adversarial)
    return [share for each in moved for share in fooled_within(model, each, x, labels, radii, norm)], radii


@settings(max_examples=10, deadline=None)
@given(
    network=ANY,
    norm=st.sampled_from(NORMS),
    seed=st.integers(0, 2**16),
    stages=st.lists(st.tuples(st.integers(1, 2), st.sampled_from([1, 2])), min_size=1, max_size=2),
    size=st.tuples(st.integers(3, 5), st.integers(3, 5)),
    contrast=st.sampled_from([1.0, 0.05]),
)
def test_no_attack_fools_a_stable_network_within_its_certificate(
    network: tuple[str, dict[str, Any]],
    norm: Norm,
    seed: int,
    stages: list[tuple[int, int]],
    size: tuple[int, int],
    contrast: float,
) -> None:
    name, options = network
    shape = {"blocks": tuple(n for n, _ in stages), "strides": tuple(stride for _, stride in stages)}
    model = stable(name, seed, **(shape | options | {"image_size": size})).requires_grad_(False)
    x = 0.5 + contrast * (pixels(6, size=size, seed=seed) - 0.5)
    broken, radii = search(model, x, right(model, x), norm)
    assert not broken
    assert bool((radii >= 0).all())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", list(COVERED))
def test_no_attack_fools_any_covered_network_within_its_certificate(name: str, norm: Norm) -> None:
    model, x = COVERED[name]().requires_grad_(False), pixels(6)
    broken, radii = search(model, x, right(model, x), norm)
    assert not broken
    assert name == "wide-resnet" or bool((radii > 0).any())


@pytest.mark.parametrize("norm", NORMS)
def test_a_trained_network_stands_within_its_certificates_and_falls_not_far_beyond(norm: Norm) -> None:
    """The attacks work: they fool every image soon after its certificate ends, and none before."""
    model, test = trained(), some(12)
    found, _ = certify(model, test.images, test.labels, norm)
    sure = (found.radii > 0).nonzero().flatten()
    x, labels, radii = test.images[sure], test.labels[sure], found.radii[sure]
    assert len(sure) >= 10
    broken, _ = search(model, x, labels, norm)
    assert not broken
    far = radii * (4 if norm == "l2" else 8)  # that of linf is by way of l2, up to sqrt(64) times too careful
    beyond = climb(model, x, labels, far, norm, restarts=2)
    fell = torch.stack([right(model, each) != labels for each in beyond]).any(0)
    assert float(fell.double().mean()) > 0.7


@pytest.mark.parametrize("norm", NORMS)
def test_the_suite_s_attacks_at_the_radius_of_an_image_leave_it_standing(norm: Norm) -> None:
    model, test = trained(), some(3)
    found, _ = certify(model, test.images, test.labels, norm)
    members = (
        PGD(steps=40, restarts=2, random_start=True, loss="margin"),
        APGD(steps=20),
        Square(queries=60),
        SPSA(steps=5, samples=8),
    )
    for i in range(3):
        radius, image, label = float(found.radii[i]), test.images[i : i + 1], test.labels[i : i + 1]
        assert radius > 0
        for attack in members:
            moved = attack.run(model, image, label, Threat(norm, radius)).adversarial
            assert not fooled_within(model, moved, image, label, found.radii[i : i + 1], norm)


def test_a_certificate_that_is_too_large_would_have_been_noticed() -> None:
    """The control of all of the above: at three times the radius the same search finds images that fool."""
    model, x = COVERED["linear"]().requires_grad_(False), pixels(6)
    labels = right(model, x)
    for norm in NORMS:
        radii = certify(model, x, labels, norm)[0].radii
        wide = 3 * radii if norm == "l2" else 6 * radii
        moved = climb(model, x, labels, 0.99 * wide, norm, steps=25, restarts=3)
        assert [share for each in moved for share in fooled_within(model, each, x, labels, wide, norm)]


def test_colour_images_have_certificates_too() -> None:
    options: dict[str, Any] = {"in_channels": 3, "channels": 6}
    model = stable(**(SMALL | options)).requires_grad_(False)
    x = pixels(5, 3)
    broken, radii = search(model, x, right(model, x), "l2")
    assert not broken
    assert bool((radii > 0).any())


SHORTER: dict[str, Any] = {"steps": 15, "queries": 150, "samples": 8, "searches": 3, "restarts": 1}


@pytest.mark.parametrize(
    ("name", "norm"), [(name, norm) for name, (kind, _) in ATTACKS.items() for norm in NORMS if norm in kind.norms]
)
def test_no_attack_of_the_suite_fools_a_network_within_a_certificate(name: str, norm: Norm) -> None:
    model, test = trained(), some(8)
    certificates, _ = certify(model, test.images, test.labels, norm)
    held = certificates.radii > 0
    images, labels = test.images[held], test.labels[held]
    eps = float(certificates.radii[held].min()) * (1 - 1e-4)
    kind = ATTACKS[name][0]
    attack = kind(**{key: value for key, value in SHORTER.items() if key in kind.model_fields})
    result = attack.run(model, images, labels, Threat(norm, eps))
    assert result.accuracy.count == len(labels) > 0
    # Minimum-norm attacks tell of images beyond the threat as well; none is nearer than it is certified.
    nearest = getattr(result, "minimum", None)
    if nearest is not None:
        known = torch.isfinite(nearest)
        assert (nearest[known].double() >= certificates.radii[held][known] * (1 - 1e-6)).all()
