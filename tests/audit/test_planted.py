"""The closed forms of the planted models against linear programs, bisection and scans; each wrapper's own claim."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from sonet.attacks import AttackError, Linf, cross_entropy, margin
from sonet.attacks.pgd import FGSM
from sonet.audit.linear import first_crossing
from sonet.audit.planted import (
    Coupled,
    Detached,
    LeftInTraining,
    Linear,
    NaNNear,
    Noisy,
    Quantised,
    Scaled,
    Scene,
    Shifted,
    Softmax,
    mirrored,
)

SMALL = (1, 2, 3)
NORMS = ("linf", "l2")


def drawn(n: int, seed: int = 0, shape: tuple[int, int, int] = SMALL) -> Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def with_faces(n: int, seed: int = 0) -> Tensor:
    """Images with pixels at 0, at 1 and between: the box is active for some."""
    images = drawn(n, seed) * 1.6 - 0.3
    return images.clamp(0, 1)


def small(classes: int, seed: int = 0) -> tuple[Linear, Tensor, Tensor]:
    model, images = Linear.random(classes, seed, SMALL), with_faces(12, seed + 1)
    return model, images, model(images).argmax(1)


def parts(model: Linear, image: Tensor, label: int, other: int) -> tuple[Tensor, float]:
    """v and the gap, written out."""
    x = image.double().flatten()
    v = model.weight[other].double() - model.weight[label].double()
    return v, -float(v @ x + model.bias[other].double() - model.bias[label].double())


def linf_by_program(model: Linear, image: Tensor, label: int, others: list[int]) -> float:
    """min e over (delta, e): v_j delta >= gap_j for each of `others`, |delta_i| <= e, x + delta in the box."""
    x = image.double().flatten()
    d = len(x)
    rows, limits = [], []
    for other in others:
        v, gap = parts(model, image, label, other)
        rows.append([*(-v).tolist(), 0.0])
        limits.append(-gap)
    for i, sign in itertools.product(range(d), (1.0, -1.0)):
        rows.append([sign * (i == k) for k in range(d)] + [-1.0])
        limits.append(0.0)
    bounds = [(-float(p), 1 - float(p)) for p in x] + [(0, None)]
    solved = linprog([0.0] * d + [1.0], A_ub=rows, b_ub=limits, bounds=bounds)
    return float(solved.fun) if solved.success else float("inf")


def l2_by_bisection(model: Linear, image: Tensor, label: int, other: int) -> float:
    """On the multiplier of clip(x + lambda v)."""
    x = image.double().flatten()
    v, gap = parts(model, image, label, other)

    def moved(t: float) -> Tensor:
        return (x + t * v).clamp(0, 1) - x

    low, high = 0.0, 1e6
    if float(v @ moved(high)) < gap:
        return float("inf")
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if float(v @ moved(middle)) >= gap else (middle, high)
    return float(moved(high).norm())


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_linf_distance_is_that_of_a_linear_program(classes: int) -> None:
    model, images, labels = small(classes, classes)
    got = model.distances(images, labels, "linf")
    for i, label in enumerate(labels.tolist()):
        for other in set(range(classes)) - {label}:
            assert float(got[i, other]) == pytest.approx(linf_by_program(model, images[i], label, [other]), rel=1e-7)
        assert got[i, label] == torch.inf
    torch.testing.assert_close(model.distance(images, labels, "linf"), got.amin(1))


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_l2_distance_is_that_of_bisection(classes: int) -> None:
    model, images, labels = small(classes, classes)
    got = model.distances(images, labels, "l2")
    for i, label in enumerate(labels.tolist()):
        for other in set(range(classes)) - {label}:
            assert float(got[i, other]) == pytest.approx(l2_by_bisection(model, images[i], label, other), rel=1e-7)


def test_no_point_of_the_box_that_fools_is_nearer_in_l2() -> None:
    """Against chance: 10,000 points of the box for each image, and 10,000 near the nearest one found."""
    model, images, labels = small(3, 4)
    exact, nearest = model.distance(images, labels, "l2"), model.nearest(images, labels, "l2")
    for i in range(len(images)):
        anywhere = drawn(10_000, i).double()
        near = (nearest[i] + 0.1 * (drawn(10_000, i + 50).double() - 0.5)).clamp(0, 1)
        points = torch.cat((anywhere, near)).flatten(1)
        logits = points @ model.weight.double().T + model.bias.double()
        fooling = points[logits.argmax(1) != labels[i]]
        assert len(fooling)
        distances = (fooling - images[i].double().flatten()).norm(dim=1)
        assert float(distances.min()) >= float(exact[i]) - 1e-9
        assert float(distances.min()) < 1.5 * float(exact[i]) + 0.05


def test_without_the_box_the_distance_is_the_gap_over_the_dual_norm() -> None:
    model, images, labels = small(3)
    for norm, order in (("linf", 1), ("l2", 2)):
        got = model.distances(images, labels, norm, box=False)
        for i, label in enumerate(labels.tolist()):
            for other in set(range(3)) - {label}:
                v, gap = parts(model, images[i], label, other)
                assert float(got[i, other]) == pytest.approx(gap / float(v.norm(p=order)), rel=1e-9)
        inside = 0.5 + 0.001 * (images - 0.5)
        classes = model(inside).argmax(1)
        torch.testing.assert_close(
            model.distance(inside, classes, norm), model.distance(inside, classes, norm, box=False)
        )
        assert (model.distance(images, labels, norm) >= model.distance(images, labels, norm, box=False) - 1e-12).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_nearest_image_lies_on_the_boundary_in_the_box_at_the_distance(classes: int, norm: Any) -> None:
    model, images, labels = small(classes, 7)
    there, exact = model.nearest(images, labels, norm), model.distance(images, labels, norm)
    assert exact.isfinite().all()
    assert there.min() >= 0
    assert there.max() <= 1
    change = (there - images.double()).flatten(1)
    length = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
    torch.testing.assert_close(length, exact, rtol=1e-9, atol=1e-12)
    logits = there.flatten(1) @ model.weight.double().T + model.bias.double()
    assert margin(logits, labels).abs().max() < 1e-9


def test_an_image_that_is_wrong_has_distance_zero_and_one_that_no_pixel_can_turn_has_none() -> None:
    model = Linear(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), torch.tensor([0.5, 0.0]))
    image = torch.tensor([[[[0.5, 0.25]]]])
    for norm in NORMS:
        assert model.distance(image, torch.tensor([1]), norm) == 0
        assert model.distance(image, torch.tensor([0]), norm) == torch.inf
        assert torch.equal(model.nearest(image, torch.tensor([0]), norm), image.double())
        assert model.past_all(image, torch.tensor([0]), norm) == torch.inf
    assert model.distance(image, torch.tensor([0]), "linf", box=False) == pytest.approx(2.0 / 4)


def test_by_hand() -> None:
    """Weights 2 and 1, rooms 0.1 and 1, a gap of 0.5: 2 t + t until 0.1, then t alone: t = 0.3; in l2 4 t + t: 0.3."""
    model = Linear(torch.tensor([[0.0, 0.0], [2.0, 1.0]]).double(), torch.tensor([0.0, -2.3]).double())
    image = torch.tensor([[[[0.9, 0.0]]]], dtype=torch.float64)
    label = torch.tensor([0])
    assert float(model.distance(image, label, "linf")) == pytest.approx(0.3)
    assert float(model.distance(image, label, "l2")) == pytest.approx((0.01 + 0.09) ** 0.5)


def test_first_crossing_against_a_scan() -> None:
    """Rates of both signs: the sum rises and falls, and the first time counts."""
    generator = torch.Generator().manual_seed(0)
    rate, end = torch.randn(50, 6, generator=generator).double(), torch.rand(50, 6, generator=generator).double()
    goal = torch.rand(50, generator=generator).double() * 0.6 - 0.1
    got = first_crossing(rate, end, goal)
    t = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    value = (rate[:, :, None] * torch.minimum(t, end[:, :, None])).sum(1)
    reached = value >= goal[:, None]
    scanned = torch.where(reached.any(1), t[reached.int().argmax(1)], torch.inf)
    assert torch.equal(got.isinf(), scanned.isinf())
    assert 5 < int(got.isinf().sum()) < 45
    finite = got.isfinite()
    assert (scanned[finite] - got[finite]).abs().max() <= 1e-4


@pytest.mark.parametrize("classes", [2, 10])
def test_straight_is_the_first_point_of_the_ray_that_fools(classes: int) -> None:
    model, images, labels = small(classes, 9)
    direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(2)).double()
    got = model.straight(images, labels, direction)
    t = torch.linspace(0, 5, 20_001, dtype=torch.float64)
    for i in range(len(images)):
        points = (images[i].double().flatten() + t[:, None] * direction[i].flatten()).clamp(0, 1)
        fools = (points @ model.weight.double().T + model.bias.double()).argmax(1) != labels[i]
        expected = float(t[fools.int().argmax()]) if bool(fools.any()) else float("inf")
        assert float(got[i]) == pytest.approx(expected, abs=3e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_past_all_is_a_radius_with_a_point_that_has_every_class_ahead(norm: Any) -> None:
    scene = Scene.draw(10, 0, n=60)
    got = scene.model.past_all(scene.images, scene.labels, norm)
    each = scene.model.distances(scene.images, scene.labels, norm)
    farthest = each.masked_fill(each.isinf(), 0).amax(1)
    assert got.isfinite().all()
    assert (got >= farthest - 1e-12).all()
    two = Scene.draw(2, 0, corners=True, n=60)
    torch.testing.assert_close(
        two.model.past_all(two.images, two.labels, norm), two.model.distance(two.images, two.labels, norm)
    )


def test_past_all_is_not_below_the_least_such_radius() -> None:
    model, images, labels = small(3, 2)
    got = model.past_all(images, labels, "linf")
    finite = got.isfinite().nonzero().flatten().tolist()
    assert len(finite) >= 4
    for i in finite:
        label = int(labels[i])
        least = linf_by_program(model, images[i], label, sorted({0, 1, 2} - {label}))
        assert least - 1e-9 <= float(got[i]) < 20 * least + 1e-9


def test_the_linear_model_treats_samples_independently_to_the_last_bit() -> None:
    model, images = Linear.random(10), drawn(13, 1, (1, 8, 8))
    whole = model(images)
    for size in (1, 2, 3, 4, 5):
        assert torch.equal(torch.cat([model(part) for part in images.split(size)]), whole)
    assert torch.equal(model(images[3:9]), whole[3:9])
    torch.testing.assert_close(whole, images.flatten(1) @ model.weight.T + model.bias, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("corners", [False, True])
def test_scenes_hold_images_that_are_right_and_alike(corners: bool) -> None:
    scene = Scene.draw(10, 3, corners=corners, n=2000)
    if corners:
        assert set(scene.images.unique().tolist()) == {0.0, 1.0}
    else:
        assert scene.images.min() >= 0.3
        assert scene.images.max() <= 0.7
    assert torch.equal(scene.model(scene.images).argmax(1), scene.labels)
    radius = scene.model.distance(scene.images, scene.labels, "linf")
    among = scene.labels == 1
    images, labels, radii = scene.alike(radius, 8, among)
    assert labels.tolist() == [1] * 8
    torch.testing.assert_close(radii, scene.model.distance(images, labels, "linf"))
    assert radii.max() / radii.min() < 1.2
    assert scene.alike(radius, 8)[2].max() / scene.alike(radius, 8)[2].min() < 1.02


@pytest.fixture(name="scene")
def _scene() -> Scene:
    return Scene.draw(3, 0, n=20)


def gradient(model: Any, images: Tensor, labels: Tensor, loss: Any = cross_entropy) -> Tensor:
    leaf = images.clone().requires_grad_(True)
    value = loss(model(leaf), labels).sum()
    return torch.autograd.grad(value, leaf)[0] if value.requires_grad else torch.zeros_like(leaf)


def test_shifted_scaled_and_softmax_predict_the_same(scene: Scene) -> None:
    logits, images = scene.model(scene.images), scene.images
    assert torch.equal(Shifted(scene.model, 50.0)(images), logits + 50)
    assert torch.equal(Scaled(scene.model, 1e-3)(images), logits * 1e-3)
    torch.testing.assert_close(Softmax(scene.model)(images), logits.exp() / logits.exp().sum(1, keepdim=True))
    for model in (Shifted(scene.model, -50.0), Scaled(scene.model, 1e3), Softmax(scene.model)):
        assert torch.equal(model(images).argmax(1), scene.labels)
        assert not model.training


def test_the_cross_entropy_of_a_sure_model_has_no_gradient_but_its_margin_has(scene: Scene) -> None:
    sure = Scaled(scene.model, 1e3)
    assert (gradient(scene.model, scene.images, scene.labels) != 0).all()
    assert (gradient(sure, scene.images, scene.labels) == 0).all()
    assert (gradient(sure, scene.images, scene.labels, margin) != 0).all()
    assert (gradient(Softmax(sure), scene.images, scene.labels, margin) == 0).all()


def test_quantised_and_detached_have_no_gradient(scene: Scene) -> None:
    for model in (Quantised(scene.model), Detached(scene.model)):
        assert (gradient(model, scene.images, scene.labels, margin) == 0).all()
    assert torch.equal(Detached(scene.model)(scene.images), scene.model(scene.images))
    coarse = Quantised(scene.model, levels=3)(scene.images)
    by_hand = torch.where(scene.images < 0.25, 0.0, torch.where(scene.images < 0.75, 0.5, 1.0))
    assert torch.equal(coarse, scene.model(by_hand))


def test_noisy_gives_other_logits_at_every_call_and_the_same_ones_from_the_same_seed(scene: Scene) -> None:
    one, other = Noisy(scene.model, 2.0, seed=1), Noisy(scene.model, 2.0, seed=1)
    first, second = one(scene.images), one(scene.images)
    assert not torch.equal(first, second)
    assert torch.equal(other(scene.images), first)
    many = torch.stack([one(scene.images) for _ in range(200)]) - scene.model(scene.images)
    assert float(many.std()) == pytest.approx(2.0, rel=0.03)


def test_coupled_together_keeps_its_own_predictions_and_in_thirds_not() -> None:
    model = Linear.random(2)
    images = mirrored(model, 12, seed=5)
    own = model(images).argmax(1)
    assert own[:6].tolist() == [0, 1] * 3
    torch.testing.assert_close(images[6:], 1 - images[:6])
    coupled = Coupled(model)
    assert torch.equal(coupled(images).argmax(1), own)
    assert coupled(images[:4]).argmax(1).tolist() == [0] * 4
    assert coupled(images[8:]).argmax(1).tolist() == [1] * 4
    apart = model(images[:4]) + torch.tensor([200 * (float(images[:4].mean()) - 0.5), 0.0])
    torch.testing.assert_close(coupled(images[:4]), apart)


def test_nan_near_one_image_only(scene: Scene) -> None:
    model = NaNNear(scene.model, scene.images[4], reach=0.05)
    logits = model(scene.images)
    assert logits[4].isnan().all()
    rest = torch.arange(len(logits)) != 4
    assert torch.equal(logits[rest], scene.model(scene.images)[rest])
    assert model(scene.images[4:5] + 0.04).isnan().all()
    assert not model(scene.images[4:5] + 0.06).isnan().any()


def test_left_in_training_is_refused_and_leaves_the_wrapped_model_alone() -> None:
    inner = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).eval()
    model, images = LeftInTraining(inner), drawn(4, 0, (1, 8, 8))
    assert model.normalise.training
    assert model.dropout.training
    assert not any(part.training for part in inner.modules())
    assert not torch.equal(model(images), model(images))
    with pytest.raises(AttackError, match="train mode"):
        FGSM().run(model, images, torch.zeros(4, dtype=torch.int64), Linf(0.1))
