"""FAB where the least distance is known, against its loop written out one image at a time, and its books."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from test_hyperplane import distance_by_bisection
from torch import Tensor
from toy_classifiers import Counting, Linear, Wavy, images, linear, predicted

from sonet.attacks import L2, AttackError, AttackResult, Linf, Threat
from sonet.attacks.fab import FAB, start_near
from sonet.attacks.gradients import Backpropagation, SPSAGradient
from sonet.attacks.losses import likely_targets, margin
from sonet.attacks.noise import ImageNoise

Norm = Literal["linf", "l2"]
NORMS: list[Norm] = ["linf", "l2"]


pytestmark = pytest.mark.usefixtures("on_the_boundary")


def closed_form(model: Linear, x: Tensor, labels: Tensor, norm: Norm) -> Tensor:
    """The distance to the nearest other class within the box, (N,)."""
    z, least = model(x), []
    for i, label in enumerate(labels.tolist()):
        others = [k for k in range(z.shape[1]) if k != label]
        ways = [
            distance_by_bisection(
                x[i].flatten().numpy(),
                (model.weight[k] - model.weight[label]).numpy(),
                (z[i, k] - z[i, label]).item(),
                norm,
            )
            for k in others
        ]
        least.append(min(ways))
    return torch.tensor(least, dtype=torch.float64)


def cases(box: str, n: int = 12) -> Tensor:
    """Images far from the box, some at it, or all pixels 0 or 1."""
    if box == "far":
        return images(n, low=0.4, high=0.6)
    return images(n).round() if box == "corner" else (1.6 * images(n) - 0.3).clamp(0, 1)


def single(model: Linear, dtype: torch.dtype) -> Linear:
    return Linear(model.weight.to(dtype), model.bias.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("box", ["far", "some", "corner"])
@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("norm", NORMS)
def test_the_distance_of_a_linear_model_is_its_closed_form(
    norm: Norm, classes: int, box: str, dtype: torch.dtype
) -> None:
    x = cases(box)
    model = linear(classes, like=x)
    labels = predicted(model, x)
    want = closed_form(model, x, labels, norm)
    assert want.min() > 0
    assert want.max() < np.inf
    result = FAB(steps=10).run(single(model, dtype), x.to(dtype), labels, Threat(norm, 0.05))
    assert result.minimum is not None
    assert result.minimum.dtype == dtype
    ratio = result.minimum.double() / want
    assert ratio.min() > 1 - 1e-4
    assert ratio.max() < 1.01
    assert not result.zero_gradients.any()


@pytest.mark.parametrize("stop", [True, False])
@pytest.mark.parametrize("box", ["far", "corner"])
@pytest.mark.parametrize("norm", NORMS)
def test_a_linear_model_falls_exactly_beyond_its_distance(norm: Norm, box: str, stop: bool) -> None:
    x = cases(box, 6)
    model = linear(3, like=x)
    labels = predicted(model, x)
    for i, radius in enumerate(closed_form(model, x, labels, norm).tolist()):
        for factor, falls in ((0.98, False), (1.02, True)):
            attack = FAB(steps=10, stop_when_fooled=stop)
            result = attack.run(model, x[i : i + 1], labels[i : i + 1], Threat(norm, factor * radius))
            assert result.fooled.item() is falls


def hand_projection(x: Tensor, w: Tensor, value: float, norm: Norm) -> Tensor:
    """The move to the plane in the box, by halving the multiplier; to the corner where the plane misses the box."""
    up = w if value < 0 else -w
    direction = up.sign() if norm == "linf" else up / up.abs().max()
    low, high = 0.0, 1e6
    for _ in range(120):
        middle = (low + high) / 2
        short = (up * ((x + middle * direction).clamp(0, 1) - x)).sum() < abs(value)
        low, high = (middle, high) if short else (low, middle)
    return (x + high * direction).clamp(0, 1) - x


def hand_fab(
    model: Any, x: Tensor, labels: Tensor, threat: Threat, *, steps: int, restarts: int, targets: int, **knobs: float
) -> list[float]:
    """The loop of the class's docstring, one image at a time; the distances found."""
    size = (lambda u: u.abs().max()) if threat.norm == "linf" else (lambda u: u.square().sum().sqrt())
    found = []
    for i in range(len(x)):
        clean, label = x[i], int(labels[i])
        best, best_at = np.inf, clean
        order = [k for k in model(clean[None])[0].argsort(descending=True).tolist() if k != label][:targets]
        for run in range(restarts * len(order)):
            target, point = order[run % len(order)], clean
            if run >= len(order):
                radius = torch.tensor([min(best, threat.eps) / 2], dtype=x.dtype)
                point = start_near(clean[None], radius, threat.norm, ImageNoise(clean[None], run))[0]
            for _ in range(steps):
                leaf = point.clone().requires_grad_(True)
                z = model(leaf[None])[0]
                f = z[target] - z[label]
                (w,) = torch.autograd.grad(f, leaf)
                here = point
                if z.argmax() != label:
                    if size(point - clean) < best:
                        best, best_at = size(point - clean).item(), point
                    point = (1 - knobs["beta"]) * clean + knobs["beta"] * point
                d = hand_projection(point, w, (f + (w * (point - here)).sum()).item(), threat.norm)
                d0 = hand_projection(clean, w, (f + (w * (clean - here)).sum()).item(), threat.norm)
                alpha = min((size(d) / (size(d) + size(d0))).item(), knobs["alpha_max"])
                point = (1 - alpha) * (point + knobs["eta"] * d) + alpha * (clean + knobs["eta"] * d0)
                point = point.clamp(0, 1)
            if model(point[None])[0].argmax() != label and size(point - clean) < best:
                best, best_at = size(point - clean).item(), point
        low, high = 0.0, 1.0
        for _ in range(10):
            middle = (low + high) / 2
            fell = model((clean + middle * (best_at - clean))[None])[0].argmax() != label
            low, high = (low, middle) if fell else (middle, high)
        found.append(best * high)
    return found


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 6, "restarts": 1, "targets": 9, "alpha_max": 0.1, "eta": 1.05, "beta": 0.9},
        {"steps": 4, "restarts": 2, "targets": 2, "alpha_max": 0.3, "eta": 1.2, "beta": 0.7},
    ],
    ids=["paper", "other"],
)
@pytest.mark.parametrize("norm", NORMS)
def test_it_is_its_algorithm_written_out(norm: Norm, settings: dict[str, Any]) -> None:
    model, x = Wavy(classes=4, speed=3.0), cases("some", 5)
    labels = predicted(model, x)
    threat = Threat(norm, 0.1)
    result = FAB(**settings).run(model, x, labels, threat)
    want = torch.tensor(hand_fab(model, x, labels, threat, **settings), dtype=torch.float64)
    torch.testing.assert_close(result.minimum, want, rtol=1e-6, atol=0)


@pytest.mark.parametrize("change", [{"alpha_max": 0.0}, {"eta": 1.3}, {"beta": 0.5}, {"targets": 1}, {"steps": 2}])
def test_every_setting_is_read(change: dict[str, Any]) -> None:
    model, x = Wavy(classes=4), cases("some", 8)
    labels = predicted(model, x)
    plain, other = (FAB(**{"steps": 5, **each}).run(model, x, labels, Linf(0.1)).minimum for each in ({}, change))
    assert (plain - other).abs().max() > 1e-6  # type: ignore[operator]


def run(model: Any, x: Tensor, labels: Tensor, threat: Threat, **settings: Any) -> AttackResult:
    return FAB(**{"steps": 8, "restarts": 2, **settings}).run(model, x, labels, threat)


@pytest.mark.parametrize("stop", [True, False])
@pytest.mark.parametrize("threat", [Linf(0.015), L2(0.06)], ids=str)
def test_a_sample_s_result_does_not_depend_on_its_batch(threat: Threat, stop: bool) -> None:
    model, x = Wavy(), images(12)
    labels = predicted(model, x)
    whole = run(model, x, labels, threat, stop_when_fooled=stop)
    assert 0 < whole.accuracy.count < 12
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    mixed = run(model, x[order], labels[order], threat, stop_when_fooled=stop)
    split = run(model, x, labels, threat, stop_when_fooled=stop, batch_size=5)
    for other, back in ((mixed, order), (split, torch.arange(12))):
        torch.testing.assert_close(other.adversarial, whole.adversarial[back], rtol=0, atol=1e-7)
        torch.testing.assert_close(other.minimum, whole.minimum[back], rtol=1e-6, atol=0)  # type: ignore[index]
        assert torch.equal(other.queries_each, whole.queries_each[back])
        torch.testing.assert_close(other.loss, whole.loss[:, back], rtol=0, atol=1e-4, equal_nan=True)


def test_estimated_gradients_draw_the_image_s_own_noise_too() -> None:
    """Samples that leave the batch take nothing from the others' draws."""
    model, x = Wavy(), images(8)
    labels = predicted(model, x)
    source, attack = SPSAGradient(Backpropagation(model), 200, 1e-3, 512), FAB(steps=8, stop_when_fooled=True)
    whole = attack.run(model, x, labels, Linf(0.02), gradients_from=source)
    alone = attack.model_copy(update={"batch_size": 1}).run(model, x, labels, Linf(0.02), gradients_from=source)
    assert len(whole.queries_each.unique()) > 2
    torch.testing.assert_close(alone.minimum, whole.minimum, rtol=1e-6, atol=0)


def test_queries_are_the_images_the_model_saw_and_price_and_work_bound_them() -> None:
    x, labels = images(7), predicted(Wavy(), images(7))
    labels[2] = (labels[2] + 1) % 3  # fools by itself
    counting = Counting(Wavy())
    attack, steps = FAB(steps=4, restarts=2, targets=2, batch_size=4), []
    result = attack.run(Wavy(), x, labels, Linf(0.1), gradients_from=counting, progress=steps.append)
    whole = 1 + 2 * 2 * (4 * 2 + 1) + 10  # the clean image; each run's slopes and last look; the bisection
    assert result.queries_each.tolist() == [whole if i != 2 else 1 for i in range(7)]
    assert result.queries == counting.queries
    assert attack.work == 16
    assert sum(steps) == 16 * 7
    both, alone = attack.price
    assert (2 * both + alone) == whole + 1  # and the step beyond the boundary
    assert result.loss.shape == (16, 7)
    assert torch.isnan(result.loss[:, 2]).all()
    assert not torch.isnan(result.loss[:, [0, 1, 3, 4, 5, 6]]).any()
    assert result.minimum is not None
    assert result.minimum[2] == 0
    assert torch.equal(result.adversarial[2], x[2])


def test_a_sample_that_fell_within_the_threat_costs_no_more_across_targets_and_restarts() -> None:
    x = cases("far")
    model = linear(4, like=x)
    labels = predicted(model, x)
    distance = closed_form(model, x, labels, "linf")
    threat = Linf(distance.median().item() * 1.02)
    counting = Counting(model)
    attack = FAB(steps=6, restarts=2, stop_when_fooled=True)
    result = attack.run(model, x, labels, threat, gradients_from=counting)
    inside = distance <= threat.eps
    assert torch.equal(result.fooled, inside)
    assert result.queries == counting.queries
    # At most two steps for the right target; others before it, at most two, run to their end.
    assert (result.queries_each[inside] <= 1 + 2 * 13 + 3 * 2).all()
    assert (result.queries_each[inside] < 12).any()
    assert (result.queries_each[~inside] == 1 + 6 * 13 + 10).all()
    assert (result.distance[inside] <= threat.eps).all()
    assert result.minimum is not None
    torch.testing.assert_close(result.minimum[~inside], distance[~inside], rtol=0.01, atol=0)


def test_the_loss_is_the_difference_to_the_targets_from_the_likeliest_on() -> None:
    model, x = Wavy(classes=4), images(5)
    labels = predicted(model, x)
    result = FAB(steps=3).run(model, x, labels, Linf(0.1))
    z = model(x)
    order = likely_targets(z, labels, 9)
    assert result.loss.shape == (9, 5)
    for rank in range(3):
        want = z.gather(1, order[:, rank : rank + 1]) - z.gather(1, labels[:, None])
        torch.testing.assert_close(result.loss[3 * rank], want[:, 0].float())
    torch.testing.assert_close(result.loss[0], margin(z, labels).float())


@pytest.mark.parametrize("norm", NORMS)
def test_later_restarts_start_in_half_the_ball_of_each_image_s_own_radius(norm: Norm) -> None:
    x = images(400, low=0.45, high=0.55)
    radius = torch.linspace(0.01, 0.2, 400, dtype=torch.float64)
    reached = Threat(norm, 1.0).distance(start_near(x, radius, norm, ImageNoise(x, 0)), x) / radius
    assert reached.max() <= 1 + 1e-9
    # The largest of 18 uniform numbers, and the length of a point uniform in 18 dimensions, have the mean 18/19.
    assert reached.mean().item() == pytest.approx(18 / 19, abs=0.01)
    starts: list[Tensor] = []

    def watched(images: Tensor) -> Tensor:
        starts.append(images.detach())
        return model(images)

    x = images(6, low=0.4, high=0.6)
    model = linear(2, like=x)
    labels = predicted(model, x)
    for eps in (1e-3, 1.0):
        starts.clear()
        FAB(steps=5, restarts=2).run(model, x, labels, Threat(norm, eps), gradients_from=watched)
        start = starts[1 + 5 + 1]  # the clean images, a run, its last look
        away = Threat(norm, 1.0).distance(start, x)
        ball = closed_form(model, x, labels, norm).clamp_max(eps) / 2 * 1.006  # a run settles to half a percent
        assert (away <= ball).all()
        assert (away > 0.5 * ball).all()


def test_a_second_restart_finds_no_less() -> None:
    model, x = Wavy(speed=12.0), images(30)
    labels = predicted(model, x)
    one, three = (FAB(steps=10, restarts=r).run(model, x, labels, Linf(0.1)).minimum for r in (1, 3))
    assert one is not None
    assert three is not None
    assert (three <= one * 1.001).all()  # the bisection settles to a thousandth
    assert (three < one * 0.99).any()


@pytest.mark.parametrize("change", ["+50", "-50", "*1000", "*0.001"])
@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.4)], ids=str)
def test_shifted_and_scaled_logits_have_the_same_distances_in_float32(threat: Threat, change: str) -> None:
    model, x = Wavy(classes=4, speed=3.0), images(10)
    labels = predicted(model, x)
    plain = FAB(steps=20).run(model, x, labels, threat).minimum
    model, amount = model.float(), float(change[1:] if change[0] == "*" else change)

    def altered(x: Tensor) -> Tensor:
        return model(x) * amount if change[0] == "*" else model(x) + amount

    got = FAB(steps=20).run(altered, x.float(), labels, threat).minimum
    assert plain is not None
    assert got is not None
    torch.testing.assert_close(got.double(), plain, rtol=0.01, atol=0)


def test_a_sample_without_an_answer_is_at_distance_0_and_others_are_as_before() -> None:
    model, x = Wavy(), images(6)
    labels = predicted(model, x)
    x[3, 0, 0, 0] = 0.123456

    def broken(x: Tensor) -> Tensor:
        lost = (x[:, 0, 0, 0] == 0.123456).double()
        return (
            model(x) + (lost * torch.nan).nan_to_num(nan=0.0)[:, None] + torch.where(lost > 0, torch.nan, 0.0)[:, None]
        )

    whole, result = run(model, x, labels, Linf(0.02)), run(broken, x, labels, Linf(0.02))
    rest = torch.tensor([0, 1, 2, 4, 5])
    assert result.fooled[3]
    assert result.minimum is not None
    assert result.minimum[3] == 0
    assert torch.isfinite(result.adversarial).all()
    torch.testing.assert_close(result.adversarial[rest], whole.adversarial[rest], rtol=0, atol=1e-7)


def test_an_iterate_without_an_answer_counts_and_the_search_goes_back_from_there() -> None:
    """Logits are NaN beyond half the way to the boundary: that is where the model falls."""
    x = images(5, low=0.4, high=0.6)
    model = linear(2, like=x)
    labels = predicted(model, x)
    lead = -margin(model(x), labels)

    def torn(x: Tensor) -> Tensor:
        z = model(x)
        near = -margin(z, labels[: len(x)]) < lead[: len(x)] / 2
        return z + torch.where(near, torch.nan, 0.0)[:, None]

    result = FAB(steps=20, batch_size=5).run(torn, x, labels, Linf(0.5), judge_batch=5)
    assert result.minimum is not None
    assert torch.isfinite(result.adversarial).all()
    ratio = result.minimum / closed_form(model, x, labels, "linf")
    assert ratio.min() > 0.5
    assert ratio.max() < 0.51
    assert result.zero_gradients.all()


@pytest.mark.parametrize("kind", ["constant", "cut", "infinite"])
def test_a_gradient_that_says_nothing_is_reported_and_ends_the_run(kind: str) -> None:
    x = images(4)
    model = linear(3, like=x)
    labels = predicted(model, x)

    def mute(x: Tensor) -> Tensor:
        if kind == "infinite":  # the derivative of sqrt at 0
            return (
                model(x.detach())
                + (x - x.detach()).square().sum((1, 2, 3)).sqrt()[:, None] * torch.arange(3.0).double()
            )
        return model(x.detach()) + (0 * x.sum() if kind == "constant" else 0)

    result = run(mute, x, labels, Linf(0.001))
    assert result.zero_gradients.all()
    assert torch.equal(result.adversarial, x)
    assert result.minimum is not None
    assert torch.isinf(result.minimum).all()
    # Each target's first run ends with its first slope, and so do those from random starts.
    assert (result.queries_each <= 1 + 4 * 2).all()


def test_a_radius_of_zero_leaves_the_images_and_finds_the_distance() -> None:
    x = images(4, low=0.4, high=0.6)
    model = linear(2, like=x)
    labels = predicted(model, x)
    result = run(model, x, labels, Linf(0))
    assert torch.equal(result.adversarial, x)
    assert result.accuracy.count == 4
    torch.testing.assert_close(result.minimum, closed_form(model, x, labels, "linf"), rtol=0.01, atol=0)


def test_settings_out_of_range_are_refused() -> None:
    for wrong in ({"beta": 1.0}, {"eta": 0.9}, {"alpha_max": 1.5}, {"targets": 0}, {"steps": 0}, {"size": 1}):
        with pytest.raises(AttackError, match="FAB"):
            FAB(**wrong)
