"""What the searches for the nearest image share: the last step beyond the boundary, and what it is for."""

from __future__ import annotations

import pytest
import torch
from toy_classifiers import images, linear, predicted

from sonet.attacks import ATTACKS, CWL2, FAB, L2, Boundary, DeepFool, Linf, MinimumNorm, predict

SEARCHES = [FAB(steps=10, targets=1), DeepFool(steps=5), CWL2(steps=50, binary_search_steps=4), Boundary(steps=1500)]


@pytest.mark.parametrize("attack", SEARCHES, ids=lambda attack: type(attack).__name__)
def test_an_image_found_stands_clear_of_the_boundary(attack: MinimumNorm) -> None:
    x = images(12, low=0.3, high=0.7).float()
    exact = linear(like=x.double())
    model = lambda x: exact(x.double()).float()  # noqa: E731
    labels = predicted(model, x)
    result = attack.run(model, x, labels, L2(2.0))
    assert result.minimum is not None
    found = result.minimum > 0
    assert bool(found.all())
    assert bool(result.fooled.all())
    ratio = result.distance / result.minimum
    assert (ratio > 1 + 0.9e-3).all()
    assert (ratio < 1 + 1.1e-3).all()
    for batch in (1, 5, 12):
        assert bool((predict(model, result.adversarial, batch) != labels).all())


def test_where_the_threat_has_no_room_the_image_found_stays() -> None:
    x = images(8, low=0.3, high=0.7)
    model = linear(like=x)
    labels = predicted(model, x)
    least = FAB(steps=10, targets=1).run(model, x, labels, Linf(1.0)).minimum
    assert least is not None
    for i in range(8):
        threat = Linf(float(least[i]) * (1 + 1e-9))
        result = FAB(steps=10, targets=1).run(model, x[i : i + 1], labels[i : i + 1], threat)
        assert bool(result.fooled)
        assert float(result.distance) <= threat.eps * (1 + 1e-12)


def test_beyond_the_boundary_there_may_be_another_one() -> None:
    """A thin shell that fools: the image found inside it is kept, the step beyond is not."""
    x = torch.full((1, 1, 1, 2), 0.5, dtype=torch.float64)

    def shell(images: torch.Tensor) -> torch.Tensor:
        moved = (images - 0.5).flatten(1).norm(dim=1)
        inside = (moved > 0.2) & (moved < 0.2 + 1e-4)
        return torch.stack([torch.zeros_like(moved), torch.where(inside, 1.0, -1.0)], 1)

    class Finds(DeepFool):
        def search(self, source, images, labels, threat, progress):  # type: ignore[no-untyped-def]
            found = super().search(source, images, labels, threat, progress)
            there = images.clone()
            there[0, 0, 0, 0] += 0.2 + 5e-5
            return type(found)(there, threat.distance(there, images), found.loss, found.zero_gradients, found.queries)

    result = Finds(steps=1).run(shell, x, torch.tensor([0]), L2(0.5))
    assert bool(result.fooled)
    assert float(result.distance) == pytest.approx(0.2 + 5e-5)


def test_every_search_is_one_of_these() -> None:
    kinds = {kind for kind, _ in ATTACKS.values() if issubclass(kind, MinimumNorm)}
    assert {type(attack) for attack in SEARCHES} <= kinds


def test_what_draws_nothing_says_so_and_gives_the_same_with_any_seed() -> None:
    """Further rounds of a budget are for attacks that draw."""
    x = images(6)
    model = linear(3, like=x)
    labels = predicted(model, x)
    for kind, draws in ((FAB, False), (DeepFool, False), (CWL2, False), (Boundary, True)):
        assert kind().draws is draws
        if not draws:
            one, other = (kind(seed=seed).run(model, x, labels, L2(0.5)).adversarial for seed in (0, 1))
            assert torch.equal(one, other)
    assert FAB(restarts=2).draws
