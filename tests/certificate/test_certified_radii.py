"""Certified radii: the formula by hand where the answer is known, and the edges of what is counted as certified."""

from __future__ import annotations

import math

import pytest
import torch
from certificate_networks import SIZE, convolutional, linear, pixels, stable
from torch import Tensor, nn

from sonet.attacks.threat import Norm
from sonet.certificate import Certificates, certify
from sonet.certificate import radii as module

SIDE = math.sqrt(SIZE[0] * SIZE[1])


def answers(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(1)


def by_hand(model: nn.Sequential, x: Tensor, labels: Tensor) -> Tensor:
    """Distance to the nearest of the planes between the label and another class, in float64."""
    weight, bias = (p.detach().double() for p in model[1].parameters())
    logits = x.double().flatten(1) @ weight.T + bias
    rows = [
        min(float((logits[i, y] - logits[i, j]) / (weight[y] - weight[j]).norm()) for j in range(len(weight)) if j != y)
        for i, y in enumerate(labels.tolist())
    ]
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_of_a_linear_network_the_radius_is_the_distance_to_the_nearest_plane(classes: int) -> None:
    model, x = linear(seed=1, classes=classes), pixels(40)
    labels = answers(model, x)
    found, bound = certify(model, x, labels, "l2")
    true = by_hand(model, x, labels)
    assert bool((found.radii <= true).all())
    torch.testing.assert_close(found.radii, true, rtol=0, atol=4 * bound.error / float(bound.gaps[0, 1]))
    assert bound.error < 1e-4
    assert found.radii.max() > 0.05


def test_by_hand_with_round_numbers() -> None:
    """Logits 2 a, 0, b of the pixels a, b: at (0.5, 0.25) the leads are 1 and 0.75, the gaps 2 and sqrt(5)."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 3, bias=False)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 1.0]]))
    x = torch.tensor([0.5, 0.25]).view(1, 1, 1, 2)
    for label, radius in ((0, 0.75 / math.sqrt(5)), (1, -1.0), (2, -1.0)):
        found, _ = certify(model, x, torch.tensor([label]), "l2")
        assert float(found.radii) == pytest.approx(radius, abs=1e-5)
        assert float(found.radii) <= radius


def test_along_the_worst_direction_it_holds_to_the_last_digits_and_no_further() -> None:
    model, x = linear(seed=2), pixels(30)
    labels = answers(model, x)
    found, _ = certify(model, x, labels, "l2")
    weight = model[1].weight.detach().double()  # type: ignore[union-attr]
    true = by_hand(model, x, labels)
    for i, y in enumerate(labels.tolist()):
        for j in (j for j in range(3) if j != y):
            way = (weight[j] - weight[y]).view(1, *SIZE) / (weight[j] - weight[y]).norm()
            near = (x[i].double() + found.radii[i] * way).float()
            assert int(answers(model, near[None])) == y
        nearest = min((j for j in range(3) if j != y), key=lambda j: abs(_plane(model, x[i], y, j) - float(true[i])))
        way = (weight[nearest] - weight[y]).view(1, *SIZE) / (weight[nearest] - weight[y]).norm()
        beyond = x[i].double() + (true[i] + 1e-4) * way
        assert int(answers(model, beyond.float()[None])) != y


def _plane(model: nn.Sequential, image: Tensor, y: int, j: int) -> float:
    weight, bias = (p.detach().double() for p in model[1].parameters())
    logits = weight @ image.double().flatten() + bias
    return float((logits[y] - logits[j]) / (weight[y] - weight[j]).norm())


@pytest.mark.parametrize("make", [linear, stable, convolutional])
def test_linf_is_l2_over_the_root_of_the_number_of_pixels_and_minus_one_stays(make: object) -> None:
    model, x = make(), pixels(30)  # type: ignore[operator]
    labels = torch.where(torch.arange(30) % 3 == 0, (answers(model, x) + 1) % 3, answers(model, x))
    l2, linf = (certify(model, x, labels, norm)[0] for norm in ("l2", "linf"))
    wrong = torch.arange(30) % 3 == 0
    assert l2.radii[wrong].tolist() == linf.radii[wrong].tolist() == [-1.0] * 10
    assert (l2.radii[~wrong] >= 0).all()
    torch.testing.assert_close(linf.radii[~wrong], l2.radii[~wrong] / SIDE, rtol=1e-6, atol=0)
    assert bool((linf.radii[~wrong] <= l2.radii[~wrong] / SIDE).all())
    assert (l2.norm, linf.norm) == ("l2", "linf")
    assert (l2.natural.count, l2.natural.n) == (20, 30)


def test_an_image_on_the_boundary_is_right_and_certified_nowhere() -> None:
    """Two logits closer than rounding: no radius, not even a tiny one."""
    model = linear()
    with torch.no_grad():
        model[1].weight[1] = model[1].weight[0]  # type: ignore[index]
        model[1].bias[:2] = 3  # type: ignore[index]
    found, _ = certify(model, pixels(4), torch.zeros(4, dtype=torch.int64), "l2")
    assert found.radii.tolist() == [0.0] * 4
    assert (found.at(0.0).count, found.at(1e-9).count) == (4, 0)


def test_certified_at_a_radius_means_beyond_it() -> None:
    found = Certificates("l2", torch.tensor([-1.0, 0.0, 0.25, 0.5]))
    assert [found.at(eps).count for eps in (0.0, 1e-6, 0.25, 0.3, 0.5)] == [3, 2, 1, 1, 0]
    assert found.natural.count == 3
    assert found.at(0.1).n == 4


def test_rounding_is_taken_off_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = linear(), pixels(20)
    labels = answers(model, x)
    before, bound = certify(model, x, labels, "l2")
    real = module.bound_network

    def coarser(*given: object, **more: object) -> object:
        found = real(*given, **more)  # type: ignore[arg-type]
        return type(found)(found.gaps, found.error + 0.01, found.layers)

    monkeypatch.setattr(module, "bound_network", coarser)
    after, _ = certify(model, x, labels, "l2")
    gone = before.radii - after.radii
    kept = after.radii > 0
    assert kept.any()
    gaps = bound.gaps[bound.gaps > 0]
    assert bool((gone[kept] >= 0.02 / float(gaps.max()) * (1 - 1e-6)).all())
    assert bool((gone[kept] <= 0.02 / float(gaps.min()) * (1 + 1e-6)).all())


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_images_in_any_number_get_the_radii_they_get_alone(norm: Norm) -> None:
    """More than one batch; up to the rounding that is counted for the longest of them all."""
    model, x = stable(), pixels(130)
    labels = answers(model, x)
    whole, _ = certify(model, x, labels, norm)
    some, _ = certify(model, x[95:105], labels[95:105], norm)
    torch.testing.assert_close(some.radii, whole.radii[95:105], rtol=0, atol=1e-3)
    assert whole.radii.dtype == torch.float64
    assert bool((whole.radii < 10).all())
