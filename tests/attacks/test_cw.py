"""Carlini and Wagner where the least distance is known, against its rounds written out, and its books."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from toy_classifiers import Counting, Linear, Wavy, images, linear, predicted

from sonet.attacks import CWL2, L2, AttackError, AttackResult, CWLinf, Linf, Threat, margin
from sonet.attacks.minimum import BISECTIONS

Norm = Literal["linf", "l2"]
ATTACK: dict[Norm, type[CWL2] | type[CWLinf]] = {"l2": CWL2, "linf": CWLinf}
both = pytest.mark.parametrize("norm", ["l2", "linf"])


QUICK: dict[Norm, dict[str, Any]] = {"l2": {"binary_search_steps": 4}, "linf": {"tau_steps": 4}}
"""Fewer rounds: on linear models enough for a percent."""


pytestmark = pytest.mark.usefixtures("on_the_boundary")


def drawn(n: int = 6) -> Tensor:
    """Images far from the faces of the box, near some of them, and with every pixel on one, n of each."""
    return torch.cat((images(n, low=0.4, high=0.6), images(n, 1), images(n, 2).round()))


def each_distance(model: Linear, x: Tensor, labels: Tensor, norm: Norm) -> Tensor:
    """How far each wrong class is in the box, (N, classes - 1), infinite where out of reach; float64.

    The nearest point of a half-space in a box is clip(x + t u), u = w (l2) or sign(w) (linf), for the least t that
    reaches it; found by halving.
    """
    table = []
    for image, label in zip(x.double().flatten(1), labels.tolist(), strict=True):
        row = []
        for other in set(range(len(model.bias))) - {label}:
            w = (model.weight[other] - model.weight[label]).double()
            need = float((model.bias[label] - model.bias[other]).double() - w @ image)
            along = w if norm == "l2" else w.sign()
            low, high = 0.0, 1e4
            if w @ ((image + high * along).clamp(0, 1) - image) < need:
                row.append(float("inf"))
                continue
            for _ in range(100):
                middle = (low + high) / 2
                short = w @ ((image + middle * along).clamp(0, 1) - image) < need
                low, high = (middle, high) if short else (low, middle)
            row.append(float(((image + high * along).clamp(0, 1) - image).norm(p=2 if norm == "l2" else torch.inf)))
        table.append(row)
    return torch.tensor(table, dtype=torch.float64)


def rowwise(model: Linear) -> Any:
    """The same logits, in sums that do not depend on the number of images."""

    def classify(x: Tensor) -> Tensor:
        return (x.flatten(1)[:, None] * model.weight).sum(2) + model.bias

    return classify


def run(norm: Norm, model: Any, x: Tensor, labels: Tensor, eps: float = 1e3, **settings: Any) -> AttackResult:
    return ATTACK[norm](**settings).run(model, x, labels, Threat(norm, eps))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@both
def test_with_two_classes_it_finds_the_least_distance_to_a_percent(norm: Norm, dtype: torch.dtype) -> None:
    x = drawn()
    model = linear(like=x)
    labels = predicted(model, x)
    least = each_distance(model, x, labels, norm)[:, 0]
    single = Linear(model.weight.to(dtype), model.bias.to(dtype))
    result = run(norm, single, x.to(dtype), labels)
    assert result.minimum is not None
    assert result.minimum.dtype == dtype
    torch.testing.assert_close(result.minimum.double(), least, rtol=0.01, atol=0)
    assert (result.minimum.double() > least * (1 - 1e-4)).all()
    assert bool(result.fooled.all())
    torch.testing.assert_close(result.distance, result.minimum, rtol=1e-6, atol=0)


@pytest.mark.parametrize("classes", [3, 10])
@both
def test_with_more_classes_it_ends_at_the_boundary_of_one(norm: Norm, classes: int) -> None:
    """The margin follows the class that leads: mostly the nearest, always one at whose least distance it ends."""
    x = drawn()
    model = linear(classes, like=x)
    labels = predicted(model, x)
    distances = each_distance(model, x, labels, norm)
    found = run(norm, model, x, labels, **({"tau_steps": 8} if norm == "linf" else QUICK[norm])).minimum
    assert found is not None
    assert (found > distances.amin(1) * (1 - 1e-9)).all()
    assert ((found[:, None] / distances - 1).abs().amin(1) < 0.01).all()
    assert (found < 1.01 * distances.amin(1)).sum() >= 13


@pytest.mark.parametrize(("share", "stop"), [(0.98, False), (1.02, True)])
@both
def test_an_image_falls_where_the_radius_is_beyond_its_distance(norm: Norm, share: float, stop: bool) -> None:
    x = drawn()
    model = linear(like=x)
    labels = predicted(model, x)
    least = each_distance(model, x, labels, norm)[:, 0]
    eps = share * least.median().item()
    result = run(norm, model, x, labels, eps, stop_when_fooled=stop, **QUICK[norm])
    clear = (least / eps - 1).abs() > 0.015
    assert bool(clear[least.argsort()[8]])  # the one of the radius
    assert torch.equal(result.fooled[clear], (least < eps)[clear])


@both
def test_stopped_images_cost_no_more_and_queries_are_what_the_model_saw(norm: Norm) -> None:
    x, model = images(8), Wavy()
    labels = predicted(model, x)
    whole = run(norm, Wavy(), x, labels, steps=40)
    assert whole.minimum is not None
    eps = whole.minimum.median().item() * 1.05
    for stop in (False, True):
        counting = Counting(Wavy())
        attack = ATTACK[norm](steps=40, stop_when_fooled=stop)
        result = attack.run(Wavy(), x, labels, Threat(norm, eps), gradients_from=counting)
        assert result.queries == counting.queries
        if stop:
            inside = result.distance <= eps
            assert (result.queries_each < whole.queries_each)[inside & result.fooled].all()
            assert (result.queries_each == whole.queries_each)[whole.minimum > eps].all()
            assert bool((result.fooled == (whole.minimum <= eps)).all())
        else:
            assert torch.equal(result.queries_each, whole.queries_each)
            assert torch.equal(result.minimum, whole.minimum)  # type: ignore[arg-type]
    longest = 2 * (1 + ATTACK[norm](steps=40).work) + 12
    assert int(whole.queries_each.max()) <= longest


@both
def test_a_stopped_image_ends_with_the_step_that_fell_inside(norm: Norm) -> None:
    """No further step and no walk back: two queries a look, of which the last alone fooled within the radius."""
    x, model = images(8), Wavy()
    result = run(norm, model, x, predicted(model, x), 0.5, steps=40, abort_early=False, stop_when_fooled=True)
    looks = torch.isfinite(result.loss).sum(0)
    assert torch.equal(result.queries_each, 2 * (1 + looks))
    last = torch.stack([column[torch.isfinite(column)][-1] for column in result.loss.T])
    torch.testing.assert_close(last, margin(model(result.adversarial), predicted(model, x)).float())
    assert (last > 0).all()
    assert bool((looks % 40 != 0).all())


@both
def test_an_image_does_not_see_its_batch_mates(norm: Norm) -> None:
    x = images(7)
    model = rowwise(linear(3, like=x))
    labels = predicted(model, x)
    order = torch.tensor([3, 0, 6, 2, 5, 1, 4])
    whole = run(norm, model, x, labels, 0.2, stop_when_fooled=True, steps=30)
    for batch_size in (1, 3, 7):
        other = run(norm, model, x[order], labels[order], 0.2, stop_when_fooled=True, steps=30, batch_size=batch_size)
        assert torch.equal(other.adversarial, whole.adversarial[order])
        assert torch.equal(other.queries_each, whole.queries_each[order])
        assert torch.equal(other.minimum, whole.minimum[order])  # type: ignore[arg-type,index]


@both
def test_shift_and_scale_of_the_logits_change_nothing(norm: Norm) -> None:
    x = images(6).float()
    model = linear(3, like=x.double())
    single = Linear(model.weight.float(), model.bias.float())
    labels = predicted(single, x)
    plain = run(norm, single, x, labels, **QUICK[norm]).minimum
    assert plain is not None
    for scale, shift in ((1, 50), (1, -50), (1000, 0), (1e-3, 0)):

        def changed(x: Tensor, scale: float = scale, shift: float = shift) -> Tensor:
            return single(x) * scale + shift

        torch.testing.assert_close(run(norm, changed, x, labels, **QUICK[norm]).minimum, plain, rtol=0.01, atol=0)


@both
def test_pixels_at_0_and_1_move(norm: Norm) -> None:
    """Every pixel that the box lets go where the boundary is does, in l2 about in proportion to its weight."""
    x = images(8).round()
    model = linear(like=x)
    labels = predicted(model, x)
    result = run(norm, model, x, labels, **QUICK[norm])
    weight = (model.weight[1] - model.weight[0]).view(2, 3, 3) * (1 - 2 * labels).view(-1, 1, 1, 1)
    free = torch.where(x == 0, weight > 0.3, weight < -0.3)
    change = (result.adversarial - x).abs()
    assert free.flatten(1).sum(1).min() >= 3
    assert (change > 0.05 * change.amax((1, 2, 3), keepdim=True))[free].all()
    assert result.adversarial.min() >= 0
    assert result.adversarial.max() <= 1


@both
def test_a_margin_of_kappa_is_reached_and_no_more(norm: Norm) -> None:
    x = images(6, low=0.4, high=0.6)
    model = linear(like=x)
    labels = predicted(model, x)
    result = run(norm, model, x, labels, confidence=0.5, **QUICK[norm])
    reached = margin(model(result.adversarial), labels)
    assert (reached >= 0.5).all()
    w = (model.weight[1] - model.weight[0]).norm(p=2 if norm == "l2" else 1)
    away = (0.5 - margin(model(x), labels)) / w
    torch.testing.assert_close(result.minimum, away, rtol=0.01, atol=0)


@both
def test_an_image_wrong_by_itself_is_at_distance_0(norm: Norm) -> None:
    x = images(4)
    model = linear(like=x)
    result = run(norm, model, x, 1 - predicted(model, x))
    assert torch.equal(result.adversarial, x)
    assert result.minimum.tolist() == [0] * 4  # type: ignore[union-attr]
    assert result.queries_each.tolist() == [2] * 4


@both
def test_a_gradient_of_zero_is_reported_and_finds_nothing(norm: Norm) -> None:
    x = images(3)
    model = linear(like=x)
    labels = predicted(model, x)
    result = run(norm, lambda x: model(x.detach()), x, labels, 0.1)
    assert result.zero_gradient_share == 1
    assert torch.isinf(result.minimum).all()  # type: ignore[arg-type]
    assert torch.equal(result.adversarial, x)


@both
def test_one_image_without_an_answer_leaves_the_others_alone(norm: Norm) -> None:
    x = images(5)
    model = rowwise(linear(3, like=x))
    labels = predicted(model, x)
    whole = run(norm, model, x, labels, 0.3, steps=30)
    broken = x[2, 0, 0, 0]

    def partly(x: Tensor) -> Tensor:
        return torch.where((x[:, 0, 0, 0] == broken)[:, None], torch.nan, model(x))

    result = run(norm, partly, x, labels, 0.3, steps=30)
    rest = torch.tensor([0, 1, 3, 4])
    assert torch.equal(result.adversarial[rest], whole.adversarial[rest])
    assert torch.equal(result.adversarial[2], x[2])
    assert result.minimum[2] == 0  # type: ignore[index]
    assert result.zero_gradients.tolist() == [False, False, True, False, False]


@both
def test_answers_lost_on_the_way_count_as_fooled_and_break_nothing(norm: Norm) -> None:
    """Beyond the boundary the logits are NaN, and so is the gradient."""
    x = images(8)
    model = linear(like=x)
    labels = predicted(model, x)

    def lost(x: Tensor) -> Tensor:
        logits = model(x)
        return torch.where((logits.argmax(1) != labels[0])[:, None], torch.nan, logits)

    same = labels == labels[0]
    least = each_distance(model, x, labels, norm)[:, 0]
    result = run(norm, lost, x[same], labels[same], **QUICK[norm])
    torch.testing.assert_close(result.minimum, least[same], rtol=0.01, atol=0)
    assert torch.isfinite(result.adversarial).all()
    assert result.zero_gradient_share == 1


def by_hand(
    norm: Norm, model: Any, x: Tensor, label: Tensor, steps: int, rounds: int, rate: float, const: float, less: float
) -> tuple[list[float], float]:
    """One image, (1, C, H, W): the margin in each step, and the distance found."""

    def slope(at: Tensor) -> tuple[Tensor, Tensor]:
        leaf = at.clone().requires_grad_(True)
        value = margin(model(leaf), label)
        value.sum().backward()
        return value.detach(), leaf.grad  # type: ignore[return-value]

    value, g = slope(x)
    far = -value / (g.norm() if norm == "l2" else g.abs().sum())
    reach = float(far * (g.abs().max() / g.norm() if norm == "l2" else 1))
    c = float(const * 2 * far / g.norm() if norm == "l2" else const / g.abs().max())
    low, high, tau, best, nearest, current = 0.0, None, 1.0, float("inf"), x, x
    values = []
    for _ in range(rounds):
        current = x if norm == "l2" else current if best == float("inf") else nearest
        mean, square, hit, fell = torch.zeros_like(x), torch.zeros_like(x), False, False
        for k in range(steps):
            value, g = slope(current)
            values.append(value.item())
            change, fell = current - x, value.item() > 0
            distance = float(change.norm() if norm == "l2" else change.abs().max())
            hit = hit or fell
            if fell and distance < best:
                best, nearest = distance, current
            if norm == "linf" and fell and distance <= tau:
                values += [float("nan")] * (steps - 1 - k)
                break
            total = 2 * change if norm == "l2" else change.sign() * (change.abs() > tau)
            total = total if fell else total - c * g
            mean, square = 0.9 * mean + 0.1 * total, 0.999 * square + 0.001 * total**2
            unit = mean / (1 - 0.9 ** (k + 1)) / (square / (1 - 0.999 ** (k + 1))).sqrt().clamp_min(1e-12)
            current = (current - rate * reach * 0.01 ** (k / steps) * unit).clamp(0, 1)
        if norm == "l2":
            low, high = (low, c) if hit else (c, high)
            c = 10 * c if high is None else (low + high) / 2
        else:
            if best > tau:
                c, less = c / 2 if fell else 2 * c, less / 2
            tau = tau if best == float("inf") else (1 - less) * best
        reach = min(3 * reach, 1.0) if best == float("inf") else float((nearest - x).abs().max())
    if best < float("inf"):  # back toward the clean image
        low, high = 0.0, 1.0
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            fools = float(margin(model(x + middle * (nearest - x)), label)) > 0
            low, high = (low, middle) if fools else (middle, high)
        best *= high
    return values, best


@pytest.mark.parametrize("const", [0.05, 0.5, 5.0])
@both
def test_it_is_its_rounds_written_out(norm: Norm, const: float) -> None:
    x, model = images(5), Wavy(speed=3.0)
    labels = predicted(model, x)
    settings: dict[str, Any] = {"binary_search_steps": 4} if norm == "l2" else {"tau_steps": 4, "decrease": 0.7}
    result = run(
        norm, model, x, labels, steps=12, learning_rate=0.2, initial_const=const, abort_early=False, **settings
    )
    assert result.minimum is not None
    fell = []
    for i in range(5):
        values, best = by_hand(norm, model, x[i : i + 1], labels[i : i + 1], 12, 4, 0.2, const, 0.3)
        torch.testing.assert_close(result.loss[:, i], torch.tensor(values), rtol=1e-4, atol=1e-5, equal_nan=True)
        assert result.minimum[i].item() == pytest.approx(best, rel=1e-6)
        fell.append(best < float("inf"))
    assert any(fell)


@both
def test_a_round_without_progress_ends_and_costs_little_accuracy(norm: Norm) -> None:
    x = images(8)
    model = linear(like=x)
    labels = predicted(model, x)
    early, late = (run(norm, model, x, labels, abort_early=early, **QUICK[norm]) for early in (True, False))
    assert early.queries < 0.8 * late.queries
    torch.testing.assert_close(early.minimum, late.minimum, rtol=0.005, atol=0)


@both
def test_progress_counts_the_work(norm: Norm) -> None:
    x, model = images(3), linear(classes=2)
    calls: list[float] = []
    attack = ATTACK[norm](steps=10, abort_early=False)
    labels = predicted(model, x)
    attack.run(lambda x: model(x.detach()), x, labels, Threat(norm, 0.1), progress=calls.append)
    assert sum(calls) == attack.work * 3


def test_each_form_has_its_norm() -> None:
    x, labels = images(2), torch.zeros(2, dtype=torch.int64)
    for attack, threat in ((CWL2(), Linf(0.1)), (CWLinf(), L2(0.1))):
        with pytest.raises(AttackError, match="works in"):
            attack.run(linear(), x, labels, threat)
