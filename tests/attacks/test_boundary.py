"""The Boundary attack where the least distance is known, against its walk written out; it reads classes only."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from test_cw import drawn, each_distance, rowwise
from torch import Tensor
from toy_classifiers import Counting, Linear, Wavy, images, linear, predicted

from sonet.attacks import L2, AttackError, AttackResult, Boundary, Linf
from sonet.attacks.minimum import BISECTIONS
from sonet.attacks.noise import ImageNoise


def run(model: Any, x: Tensor, labels: Tensor, eps: float = 1e3, **settings: Any) -> AttackResult:
    return Boundary(**settings).run(model, x, labels, L2(eps))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_with_two_classes_it_finds_the_least_distance(dtype: torch.dtype) -> None:
    """With the default budget and 18 pixels to 0.5 % in the middle of the box, to 2 % at its faces and corners."""
    x = drawn()
    model = linear(like=x)
    labels = predicted(model, x)
    least = each_distance(model, x, labels, "l2")[:, 0]
    single = Linear(model.weight.to(dtype), model.bias.to(dtype))
    result = run(single, x.to(dtype), labels)
    assert result.minimum is not None
    assert result.minimum.dtype == dtype
    found = result.minimum.double()
    torch.testing.assert_close(found[:6], least[:6], rtol=0.005, atol=0)
    torch.testing.assert_close(found, least, rtol=0.02, atol=0)
    assert (found > least * (1 - 1e-4)).all()
    assert bool(result.fooled.all())
    torch.testing.assert_close(result.distance, result.minimum, rtol=1.1e-3, atol=0)  # a step beyond the boundary
    assert result.queries_each.max() < 4500  # it ends by itself, before its budget


def test_settling_later_comes_nearer() -> None:
    x = drawn()
    model = linear(like=x)
    labels = predicted(model, x)
    least = each_distance(model, x, labels, "l2")[:, 0]
    early, late = (run(model, x, labels, settled=settled) for settled in (1e-3, 1e-6))
    assert early.queries < 0.6 * late.queries
    torch.testing.assert_close(late.minimum[:12], least[:12], rtol=2e-4, atol=0)  # type: ignore[index]
    torch.testing.assert_close(late.minimum, least, rtol=0.01, atol=0)


@pytest.mark.parametrize("classes", [3, 10])
def test_with_more_classes_it_ends_at_the_boundary_of_one(classes: int) -> None:
    """Which one is up to the noise it starts from. An edge between two classes can hold it too, so not all need."""
    x = images(12)
    model = linear(classes, like=x)
    labels = predicted(model, x)
    distances = each_distance(model, x, labels, "l2")
    found = run(model, x, labels).minimum
    assert found is not None
    assert (found > distances.amin(1) * (1 - 1e-9)).all()
    assert ((found[:, None] / distances - 1).abs().amin(1) < 0.01).sum() >= 11


@pytest.mark.parametrize(("share", "stop"), [(0.98, False), (1.02, True)])
def test_an_image_falls_where_the_radius_is_beyond_its_distance(share: float, stop: bool) -> None:
    x = drawn()
    model = linear(like=x)
    labels = predicted(model, x)
    least = each_distance(model, x, labels, "l2")[:, 0]
    eps = share * least.median().item()
    result = run(model, x, labels, eps, stop_when_fooled=stop)
    clear = (least / eps - 1).abs() > 0.015
    assert bool(clear[least.argsort()[8]])  # the one of the radius
    assert torch.equal(result.fooled[clear], (least < eps)[clear])


def test_it_reads_nothing_but_the_class_and_takes_no_gradient() -> None:
    """Logits of the same order give the same walk, bit by bit, and a model without a gradient falls as well."""
    x, model = images(6), Wavy(speed=3.0)
    labels = predicted(model, x)
    plain = run(model, x, labels, steps=200)

    def classes_alone(x: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(model(x.detach()).argmax(1), 3).to(x.dtype)

    for other in (classes_alone, lambda x: 1e3 * model(x) + 50, lambda x: 1e-3 * model(x) - 50):
        result = run(other, x, labels, steps=200)
        assert torch.equal(result.adversarial, plain.adversarial)
        assert torch.equal(result.queries_each, plain.queries_each)
    counting = Counting(model)
    result = Boundary(steps=200).run(model, x, labels, L2(1.0), gradients_from=counting)
    assert counting.backward_images == 0
    assert result.queries == counting.forward_images
    assert result.zero_gradient_share == 0
    assert not Boundary.needs_gradient


def by_hand(model: Any, x: Tensor, label: int, steps: int, faces: float, rate: float, seed: int) -> tuple[Tensor, int]:
    """One image, (1, C, H, W): where its walk ends, and the queries."""

    def fools(at: Tensor) -> bool:
        return int(model(at).argmax(1)) != label

    noise, queries, current = ImageNoise(x, 2 * seed), 1, x
    while not fools(current):
        current, queries = noise.uniform(), queries + 1
    far, low, high = current, 0.0, 1.0
    for _ in range(BISECTIONS):
        middle, queries = (low + high) / 2, queries + 1
        low, high = (low, middle) if fools(x + middle * (far - x)) else (middle, high)
    current = x + high * (far - x)
    noise, a, b = ImageNoise(x, 2 * seed + 1), 0.1, 0.1
    for step in range(steps):
        change = (current - x).flatten()
        held = ((current == 0) | (current == 1)).flatten() & bool(noise.scalar() < faces)
        v = noise.normal().flatten()
        change[held] = v[held] = 0
        v = v - change * (v @ change) / (change @ change)
        v = v / v.norm() * change.norm()
        turned = (change + a * v) / math.sqrt(1 + a * a)
        hold = torch.where(held, current.flatten(), 0.0)

        def at(part: Tensor, hold: Tensor = hold, held: Tensor = held) -> Tensor:
            return torch.where(held, hold, x.flatten() + part).clamp(0, 1).view_as(x)

        if step % 5 == 0:
            sideways = fools(at(turned))
            queries += 1
        whole = fools(at((1 - b) * turned))
        queries += 1
        if whole:
            current = at((1 - b) * turned)
        if step % 5 == 0:
            a = min(1.0, a * math.exp(5 * rate * (sideways - 0.5)))
        b = min(0.5, b * math.exp(rate * (whole - 0.25)))
    return current, queries


@pytest.mark.usefixtures("on_the_boundary")
@pytest.mark.parametrize(("faces", "rate", "seed"), [(0.8, 0.05, 0), (0.3, 0.2, 4)])
def test_it_is_its_walk_written_out(faces: float, rate: float, seed: int) -> None:
    x, model = drawn(2), Wavy(speed=2.0)
    labels = predicted(model, x)
    result = run(model, x, labels, steps=60, faces=faces, adaptation=rate, seed=seed)
    for i in range(6):
        end, queries = by_hand(model, x[i : i + 1], int(labels[i]), 60, faces, rate, seed)
        torch.testing.assert_close(result.adversarial[i : i + 1], end, rtol=0, atol=1e-6)
        assert int(result.queries_each[i]) == queries


def test_the_distance_never_grows_and_the_loss_is_minus_it() -> None:
    x, model = images(5), Wavy(speed=3.0)
    result = run(model, x, predicted(model, x), steps=100)
    assert result.loss.shape == (100, 5)
    assert (result.loss.diff(dim=0) >= 0).all()
    assert (-result.loss[-1] >= result.minimum * (1 - 1e-6)).all()  # type: ignore[operator]
    assert (result.minimum < -0.9 * result.loss[0]).all()  # type: ignore[operator]


@pytest.mark.usefixtures("on_the_boundary")
def test_stopped_images_cost_no_more() -> None:
    x, model = images(8), Wavy(speed=3.0)
    labels = predicted(model, x)
    whole = run(model, x, labels, steps=150)
    assert whole.minimum is not None
    eps = whole.minimum.median().item() * 1.05
    counting = Counting(model)
    attack = Boundary(steps=150, stop_when_fooled=True)
    result = attack.run(model, x, labels, L2(eps), gradients_from=counting)
    assert result.queries == counting.queries
    fell = whole.minimum <= eps
    assert torch.equal(result.fooled, fell)
    assert (result.queries_each < whole.queries_each)[fell].all()
    assert torch.equal(result.queries_each[~fell], whole.queries_each[~fell])


def test_an_image_does_not_see_its_batch_mates() -> None:
    x = drawn(3)
    model = rowwise(linear(3, like=x))
    labels = predicted(model, x)
    order = torch.tensor([3, 0, 6, 2, 8, 5, 1, 7, 4])
    whole = run(model, x, labels, 0.4, stop_when_fooled=True, steps=150)
    for batch_size in (1, 4, 9):
        other = run(model, x[order], labels[order], 0.4, stop_when_fooled=True, steps=150, batch_size=batch_size)
        assert torch.equal(other.adversarial, whole.adversarial[order])
        assert torch.equal(other.queries_each, whole.queries_each[order])
        assert torch.equal(other.minimum, whole.minimum[order])  # type: ignore[arg-type,index]


def test_pixels_at_0_and_1_move() -> None:
    """Those of large weight that the box lets go where the boundary is; in l2 they move in proportion to it."""
    x = images(8).round()
    model = linear(like=x)
    labels = predicted(model, x)
    result = run(model, x, labels)
    weight = (model.weight[1] - model.weight[0]).view(2, 3, 3) * (1 - 2 * labels).view(-1, 1, 1, 1)
    free = torch.where(x == 0, weight > 1, weight < -1)
    change = (result.adversarial - x).abs()
    assert free.flatten(1).sum(1).min() >= 2
    assert (change > 0.05 * change.amax((1, 2, 3), keepdim=True))[free].all()
    assert result.adversarial.min() >= 0
    assert result.adversarial.max() <= 1


def test_holding_the_faces_is_what_brings_it_into_the_corners() -> None:
    x = images(8).round()
    model = linear(like=x)
    labels = predicted(model, x)
    least = each_distance(model, x, labels, "l2")[:, 0]
    free, held = (run(model, x, labels, faces=faces, steps=1500).minimum / least - 1 for faces in (0.0, 0.8))
    assert held.mean() < 0.2 * free.mean()


def test_where_no_noise_fools_the_distance_is_infinite() -> None:
    x = images(3)

    def constant(x: Tensor) -> Tensor:
        return x.flatten(1)[:, :2] * 0 + torch.tensor([1.0, 0.0], dtype=x.dtype)

    calls: list[float] = []
    attack = Boundary(starts=7)
    result = attack.run(constant, x, torch.zeros(3, dtype=torch.int64), L2(0.5), progress=calls.append)
    assert torch.isinf(result.minimum).all()  # type: ignore[arg-type]
    assert torch.equal(result.adversarial, x)
    assert result.queries_each.tolist() == [8] * 3
    assert calls == [3] * 7


def test_an_image_wrong_by_itself_is_at_distance_0() -> None:
    x = images(4)
    model = linear(like=x)
    result = run(model, x, 1 - predicted(model, x))
    assert torch.equal(result.adversarial, x)
    assert result.minimum.tolist() == [0] * 4  # type: ignore[union-attr]
    assert result.queries_each.tolist() == [1] * 4


def test_one_image_without_an_answer_leaves_the_others_alone() -> None:
    x = images(5)
    model = rowwise(linear(3, like=x))
    labels = predicted(model, x)
    whole = run(model, x, labels, 0.3, steps=100)
    broken = x[2, 0, 0, 0]

    def partly(x: Tensor) -> Tensor:
        return torch.where((x[:, 0, 0, 0] == broken)[:, None], torch.nan, model(x))

    result = run(partly, x, labels, 0.3, steps=100)
    rest = torch.tensor([0, 1, 3, 4])
    assert torch.equal(result.adversarial[rest], whole.adversarial[rest])
    assert torch.equal(result.adversarial[2], x[2])
    assert result.minimum[2] == 0  # type: ignore[index]


def test_progress_and_price_count_the_work() -> None:
    x, model = images(3), Wavy(speed=3.0)
    attack = Boundary(steps=32)
    calls: list[float] = []
    result = attack.run(model, x, predicted(model, x), L2(0.1), progress=calls.append)
    assert attack.work == 132
    assert 32 * 3 < sum(calls) <= 132 * 3
    assert attack.price == (0, 2 + 100 + BISECTIONS + 32 + 7)
    assert int(result.queries_each.max()) <= 2 + len(calls) + BISECTIONS + 7


def test_it_works_in_l2_alone() -> None:
    with pytest.raises(AttackError, match="works in l2"):
        Boundary().run(linear(), images(2), torch.zeros(2, dtype=torch.int64), Linf(0.1))
