"""DeepFool where the least distance is known, against its loop written out one image at a time, and its books."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pytest
import torch
from test_fab import cases, closed_form, hand_projection, single
from torch import Tensor
from toy_classifiers import Counting, Wavy, images, linear, predicted

from sonet.attacks import L2, AttackError, AttackResult, Linf, Threat
from sonet.attacks.deepfool import DeepFool, nearest_move
from sonet.attacks.gradients import Backpropagation, SPSAGradient
from sonet.attacks.losses import likely_targets, margin

Norm = Literal["linf", "l2"]
NORMS: list[Norm] = ["linf", "l2"]


pytestmark = pytest.mark.usefixtures("on_the_boundary")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("box", ["far", "some", "corner"])
@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("norm", NORMS)
def test_the_distance_of_a_linear_model_is_its_closed_form_after_one_step(
    norm: Norm, classes: int, box: str, dtype: torch.dtype
) -> None:
    x = cases(box)
    model = linear(classes, like=x)
    labels = predicted(model, x)
    want = closed_form(model, x, labels, norm)
    result = DeepFool(steps=1, laps=1).run(single(model, dtype), x.to(dtype), labels, Threat(norm, 0.05))
    assert result.minimum is not None
    assert result.minimum.dtype == dtype
    ratio = result.minimum.double() / want
    assert ratio.min() > 1 - 1e-4
    assert ratio.max() < 1.01
    # The clean image, a step with a slope for each candidate, the last look, the bisection.
    assert result.queries_each.tolist() == [1 + 2 * (classes - 1) + 1 + 10] * len(x)


@pytest.mark.parametrize("stop", [True, False])
@pytest.mark.parametrize("box", ["far", "corner"])
@pytest.mark.parametrize("norm", NORMS)
def test_a_linear_model_falls_exactly_beyond_its_distance(norm: Norm, box: str, stop: bool) -> None:
    x = cases(box, 6)
    model = linear(3, like=x)
    labels = predicted(model, x)
    for i, radius in enumerate(closed_form(model, x, labels, norm).tolist()):
        for factor, falls in ((0.98, False), (1.02, True)):
            attack = DeepFool(stop_when_fooled=stop)
            result = attack.run(model, x[i : i + 1], labels[i : i + 1], Threat(norm, factor * radius))
            assert result.fooled.item() is falls


def hand_deepfool(
    model: Any, x: Tensor, labels: Tensor, norm: Norm, *, steps: int, overshoot: float, candidates: int
) -> list[float]:
    """The loop of the class's docstring, one image at a time; the distances found."""
    size = (lambda u: u.abs().max()) if norm == "linf" else (lambda u: u.square().sum().sqrt())
    found = []
    for clean, label in zip(x, labels.tolist(), strict=True):
        order = [k for k in model(clean[None])[0].argsort(descending=True).tolist() if k != label][:candidates]
        total, point = torch.zeros_like(clean), clean
        for _ in range(steps):
            leaf = point.clone().requires_grad_(True)
            z = model(leaf[None])[0]
            if z.argmax() != label:
                break
            moves = []
            for k in order:
                (w,) = torch.autograd.grad(z[k] - z[label], leaf, retain_graph=True)
                move = hand_projection(point, w, (z[k] - z[label]).item(), norm)
                share = (w * move).sum() / (z[label] - z[k])
                moves.append((size(move) / share, move))
            total = total + min(moves, key=lambda pair: pair[0].item())[1]
            point = (clean + (1 + overshoot) * total).clamp(0, 1)
        if model(point[None])[0].argmax() == label:
            found.append(np.inf)
            continue
        low, high = 0.0, 1.0
        for _ in range(10):
            middle = (low + high) / 2
            fell = model((clean + middle * (point - clean))[None])[0].argmax() != label
            low, high = (low, middle) if fell else (middle, high)
        found.append(size(point - clean).item() * high)
    return found


@pytest.mark.parametrize(
    "settings",
    [{"steps": 50, "overshoot": 0.02, "candidates": 10}, {"steps": 3, "overshoot": 0.1, "candidates": 2}],
    ids=["paper", "other"],
)
@pytest.mark.parametrize("norm", NORMS)
def test_it_is_its_algorithm_written_out(norm: Norm, settings: dict[str, Any]) -> None:
    model, x = Wavy(classes=5, speed=4.0), cases("some", 8)
    labels = predicted(model, x)
    result = DeepFool(laps=1, **settings).run(model, x, labels, Threat(norm, 0.1))
    want = torch.tensor(hand_deepfool(model, x, labels, norm, **settings), dtype=torch.float64)
    torch.testing.assert_close(result.minimum, want, rtol=1e-6, atol=0)
    assert (result.queries_each > 1 + 2 * 2 + 11).any()  # some take more steps than one


@pytest.mark.parametrize("norm", NORMS)
def test_further_laps_come_nearer_and_never_go_farther(norm: Norm) -> None:
    model, x = Wavy(classes=5, speed=4.0), cases("some", 24)
    labels = predicted(model, x)
    found = [DeepFool(laps=laps).run(model, x, labels, Threat(norm, 0.1)).minimum for laps in (1, 2, 4)]
    for fewer, more in pairwise(found):
        assert fewer is not None
        assert more is not None
        assert (more <= fewer * (1 + 1e-9)).all()
        assert (more < 0.99 * fewer).any()


def test_the_second_lap_starts_on_the_plane_of_the_boundary_found() -> None:
    """Where the boundary is one plane behind a bend, a first lap goes astray along the bend, a second does not."""
    x = torch.tensor([0.1, 0.1]).double().view(1, 1, 1, 2)

    def model(x: Tensor) -> Tensor:
        a, b = x.flatten(1).T
        bent = torch.where(a + b < 0.45, 0.3 * a + b, a + b - 0.45 + 0.3 * 0.1 + 0.35)  # f leans on b, then on both
        return torch.stack((torch.zeros_like(a), bent - 0.5), 1)

    once, twice = (DeepFool(laps=laps).run(model, x, torch.tensor([0]), L2(1.0)).minimum for laps in (1, 2))
    exact = (0.57 - 0.2) / 2**0.5  # a + b = 0.57
    assert once is not None
    assert twice is not None
    assert once.item() > 1.03 * exact
    assert twice.item() == pytest.approx(exact, rel=2e-3)


def test_of_several_planes_the_nearest_is_chosen_and_one_out_of_reach_counts_as_farther() -> None:
    point = torch.tensor([[0.5, 0.25]]).double()
    east, north = torch.tensor([1.0, 0.0]).double(), torch.tensor([0.0, 1.0]).double()
    normals = torch.stack((east, north))[:, None]

    def move(*values: float) -> list[float]:
        return nearest_move(point, normals, torch.tensor(values, dtype=torch.float64)[:, None], "l2")[0].tolist()

    assert move(-0.3, -0.2) == [0.0, 0.2]
    assert move(-0.2, -0.3) == [0.2, 0.0]
    assert move(-0.6, -0.55) == [0.0, 0.55]  # the first misses the box, whose edge is 0.5 away
    assert move(-0.6, -0.65) == [0.5, 0.0]
    stuck = nearest_move(torch.ones(1, 2).double(), normals, torch.tensor([[-0.1], [-0.1]]).double(), "l2")
    assert torch.equal(stuck, torch.zeros(1, 2).double())
    none = nearest_move(point, torch.zeros(2, 1, 2).double(), torch.tensor([[-0.1], [-0.2]]).double(), "linf")
    assert torch.equal(none, torch.zeros(1, 2).double())


@pytest.mark.parametrize("norm", NORMS)
def test_another_candidate_is_taken_where_the_nearest_cannot_be_reached(norm: Norm) -> None:
    """The likeliest wrong class needs a pixel that has no room left; the other one can be had."""
    x = torch.tensor([1.0, 0.5]).double().view(1, 1, 1, 2)

    def model(x: Tensor) -> Tensor:
        a, b = x.flatten(1).T
        return torch.stack((torch.zeros_like(a), a - 1.1, b - 0.9), 1)

    result = DeepFool().run(model, x, torch.tensor([0]), Threat(norm, 0.5))
    assert result.minimum is not None
    assert result.minimum.item() == pytest.approx(0.4, rel=1e-3)
    only = DeepFool(candidates=1).run(model, x, torch.tensor([0]), Threat(norm, 0.5))
    assert only.minimum is not None
    assert only.minimum.item() == torch.inf
    assert torch.equal(only.adversarial, x)
    assert only.queries == 1 + 2  # it stops when there is no way to go


@pytest.mark.parametrize("change", [{"overshoot": 0.5}, {"candidates": 1}, {"steps": 1}, {"laps": 1}])
def test_every_setting_is_read(change: dict[str, Any]) -> None:
    model, x = Wavy(classes=5), cases("some", 10)
    labels = predicted(model, x)
    plain, other = (DeepFool(**each).run(model, x, labels, Linf(0.1)).minimum for each in ({}, change))
    assert not torch.allclose(plain, other, rtol=1e-3)  # type: ignore[arg-type]


@pytest.mark.parametrize("stop", [True, False])
@pytest.mark.parametrize("threat", [Linf(0.018), L2(0.06)], ids=str)
def test_a_sample_s_result_does_not_depend_on_its_batch(threat: Threat, stop: bool) -> None:
    model, x = Wavy(), images(12)
    labels = predicted(model, x)

    def run(x: Tensor, labels: Tensor, **settings: Any) -> AttackResult:
        return DeepFool(stop_when_fooled=stop, **settings).run(model, x, labels, threat)

    whole = run(x, labels)
    assert 0 < whole.accuracy.count < 12
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    for other, back in ((run(x[order], labels[order]), order), (run(x, labels, batch_size=5), torch.arange(12))):
        torch.testing.assert_close(other.adversarial, whole.adversarial[back], rtol=0, atol=1e-9)
        torch.testing.assert_close(other.minimum, whole.minimum[back], rtol=1e-9, atol=0)  # type: ignore[index]
        assert torch.equal(other.queries_each, whole.queries_each[back])
        rows = len(whole.loss)
        torch.testing.assert_close(other.loss[:rows], whole.loss[:, back], rtol=0, atol=1e-5, equal_nan=True)


def test_estimated_gradients_draw_the_image_s_own_noise_too() -> None:
    """Samples that leave the batch take nothing from the others' draws."""
    model, x = Wavy(), images(8)
    labels = predicted(model, x)
    source = SPSAGradient(Backpropagation(model), 20, 1e-3, 512)
    whole = DeepFool().run(model, x, labels, Linf(0.1), gradients_from=source)
    alone = DeepFool(batch_size=1).run(model, x, labels, Linf(0.1), gradients_from=source)
    assert len(whole.queries_each.unique()) > 1
    torch.testing.assert_close(alone.minimum, whole.minimum, rtol=1e-6, atol=0)


@pytest.mark.parametrize("laps", [1, 3])
def test_queries_are_the_images_the_model_saw_and_price_bounds_them(laps: int) -> None:
    x = images(9)
    labels = predicted(Wavy(classes=4), x)
    labels[2] = (labels[2] + 1) % 4  # fools by itself
    for stop in (False, True):
        counting, steps = Counting(Wavy(classes=4)), []
        attack = DeepFool(steps=5, laps=laps, candidates=3, batch_size=4, stop_when_fooled=stop)
        result = attack.run(Wavy(classes=4), x, labels, Linf(0.02), gradients_from=counting, progress=steps.append)
        assert result.queries == counting.queries
        both, alone = attack.price
        assert both == attack.work == 15 * laps + laps - 1
        assert result.queries_each.max() <= 2 * both + alone
        assert sum(steps) <= attack.work * 9
        assert result.queries_each[2] == 1
        assert result.minimum is not None
        assert result.minimum[2] == 0
        if stop and laps == 1:  # no bisection for those within: an odd number, the clean image and slopes
            assert (result.queries_each[result.fooled] % 2 == 1).all()
            assert (result.queries_each[result.fooled] <= 1 + 2 * (2 * 3 + 1)).all()


def test_the_loss_of_a_step_is_the_margin() -> None:
    model, x = Wavy(classes=4), images(5)
    labels = predicted(model, x)
    result = DeepFool(steps=2, laps=1).run(model, x, labels, Linf(0.1))
    assert result.loss.shape == (2, 5)
    torch.testing.assert_close(result.loss[0], margin(model(x), labels).float())


@pytest.mark.parametrize("change", ["+50", "-50", "*1000", "*0.001"])
@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.4)], ids=str)
def test_shifted_and_scaled_logits_have_the_same_distances_in_float32(threat: Threat, change: str) -> None:
    model, x = Wavy(classes=4, speed=3.0), images(10)
    labels = predicted(model, x)
    plain = DeepFool().run(model, x, labels, threat).minimum
    model, amount = model.float(), float(change[1:] if change[0] == "*" else change)

    def altered(x: Tensor) -> Tensor:
        return model(x) * amount if change[0] == "*" else model(x) + amount

    got = DeepFool().run(altered, x.float(), labels, threat).minimum
    assert plain is not None
    assert got is not None
    torch.testing.assert_close(got.double(), plain, rtol=0.01, atol=0)


def test_a_sample_without_an_answer_is_at_distance_0_and_others_are_as_before() -> None:
    model, x = Wavy(), images(6)
    labels = predicted(model, x)
    x[3, 0, 0, 0] = 0.123456

    def broken(x: Tensor) -> Tensor:
        return model(x) + torch.where(x[:, 0, 0, 0] == 0.123456, torch.nan, 0.0)[:, None]

    whole, result = (DeepFool().run(each, x, labels, Linf(0.02)) for each in (model, broken))
    rest = torch.tensor([0, 1, 2, 4, 5])
    assert result.fooled[3]
    assert result.minimum is not None
    assert result.minimum[3] == 0
    assert torch.isfinite(result.adversarial).all()
    torch.testing.assert_close(result.adversarial[rest], whole.adversarial[rest], rtol=0, atol=1e-9)
    torch.testing.assert_close(result.minimum[rest], whole.minimum[rest], rtol=1e-9, atol=0)  # type: ignore[index]


@pytest.mark.parametrize("kind", ["cut", "infinite", "one candidate"])
def test_a_gradient_that_says_nothing_is_reported(kind: str) -> None:
    x = images(4, low=0.4, high=0.6)
    model = linear(3, like=x)
    labels = predicted(model, x)
    likeliest = likely_targets(model(x), labels, 1)

    def mute(x: Tensor) -> Tensor:
        z = model(x)
        if kind == "infinite":  # the derivative of sqrt at 0
            return z.detach() + (x - x.detach()).square().sum((1, 2, 3)).sqrt()[:, None] * torch.arange(3.0).double()
        if kind == "one candidate":  # its logit and the label's move together
            both = torch.cat((likeliest, labels[:, None]), 1)[: len(x)]
            return z.detach() + (z - z.detach()).scatter(1, both, 0.0)
        return z.detach()

    result = DeepFool().run(mute, x, labels, Linf(0.01))
    assert result.zero_gradients.all()
    assert torch.isfinite(result.adversarial).all()
    assert result.minimum is not None
    if kind == "one candidate":
        # By way of the other, whose slope lacks the label's part: each step closes a part of the gap, so the search
        # comes to the boundary, and across it or to within rounding of it.
        gap = result.loss.nan_to_num(-torch.inf).amax(0)
        assert (torch.isfinite(result.minimum) | (gap > -1e-12)).all()
        assert torch.isfinite(result.minimum).any()
    else:
        assert torch.isinf(result.minimum).all()
        assert torch.equal(result.adversarial, x)
        assert result.queries_each.tolist() == [1 + 2 * 2] * 4


def test_a_radius_of_zero_leaves_the_images_and_a_batch_that_fools_by_itself_costs_a_look() -> None:
    x = images(4, low=0.4, high=0.6)
    model = linear(2, like=x)
    labels = predicted(model, x)
    result = DeepFool().run(model, x, labels, Linf(0))
    assert torch.equal(result.adversarial, x)
    assert result.accuracy.count == 4
    wrong = DeepFool().run(model, x, 1 - labels, Linf(0.1))
    assert wrong.queries == 4
    assert wrong.minimum is not None
    assert wrong.minimum.eq(0).all()


def test_settings_out_of_range_are_refused() -> None:
    for wrong in ({"overshoot": -0.1}, {"candidates": 0}, {"steps": 0}, {"size": 1}):
        with pytest.raises(AttackError, match="DeepFool"):
            DeepFool(**wrong)
