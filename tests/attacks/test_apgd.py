"""APGD: its schedule, its closed-form answers on linear models, and the run written out by hand for one image."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from toy_classifiers import Wavy, images, linear, predicted

from sonet.attacks import PGD, AttackError, Backpropagation, Threat
from sonet.attacks.apgd import APGD, APGDCE, APGDDLR, APGDT, _checkpoints
from sonet.attacks.losses import LOSSES
from sonet.attacks.noise import ImageNoise
from sonet.attacks.threat import Norm

NORMS: list[Norm] = ["linf", "l2"]


def test_checkpoints_are_the_papers() -> None:
    """w_j = ceil(p_j n): 0.22, then steps that shrink by 0.03 down to 0.06."""
    assert list(_checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert list(_checkpoints(50)) == [11, 21, 29, 35, 40, 44, 47, 50]


def by_hand(model: Any, image: Any, label: int, threat: Threat, steps: int, loss: str, rho: float = 0.75) -> Any:
    """The best image of one run on one image, from the paper's Algorithm 1, as plain as it can be."""
    x0, y = image[None], torch.tensor([label])
    noise = ImageNoise(x0, 0)

    def f(x: Any) -> float:
        return float(LOSSES[loss](model(x), y))

    def direction(x: Any) -> Any:
        leaf = x.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(LOSSES[loss](model(leaf), y).sum(), leaf)
        return threat.steepest(gradient)

    before = x = threat.random_start(x0, noise)
    size, best, best_loss = 2 * threat.eps, x, f(x)
    rises, last, halved, reference = 0, 0, True, best_loss
    for k in range(steps):
        z = threat.project(x + size * direction(x), x0)
        new = z if k == 0 else threat.project(x + 0.75 * (z - x) + 0.25 * (x - before), x0)
        rises += f(new) > f(x)
        before, x = x, new
        if f(x) > best_loss:
            best, best_loss = x, f(x)
        if k + 1 in list(_checkpoints(steps)):
            slow, stuck = rises < rho * (k + 1 - last), (not halved) and best_loss <= reference
            halved = slow or stuck
            if halved:
                size, x = size / 2, best
            last, rises, reference = k + 1, 0, best_loss
    return best[0]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("loss", ["margin", "dlr", "log-odds"])
def test_it_is_the_paper_written_out(norm: Norm, loss: Any) -> None:
    model, x, threat = Wavy(speed=9.0), images(5), Threat(norm, 0.2)
    labels = predicted(model, x)
    got = APGD(steps=30, loss=loss, stop_when_fooled=False).run(model, x, labels, threat)
    for i in range(5):
        expected = by_hand(model, x[i], int(labels[i]), threat, 30, loss)
        if bool(predicted(model, expected[None]) == labels[i]):  # else the first image that fools goes before
            torch.testing.assert_close(got.adversarial[i], expected, rtol=0, atol=1e-9)
        assert (LOSSES[loss](model(got.adversarial[i : i + 1]), labels[i : i + 1]) >= 0) == got.fooled[
            i
        ] or loss != "margin"


@pytest.mark.parametrize(
    ("attack", "classes"),
    [
        *[(kind(steps=60), 2) for kind in (APGDCE, APGDDLR, APGDT)],
        (APGDT(steps=60, loss="margin", targets=2), 3),
        (APGDT(steps=60, loss="margin", targets=9), 10),
    ],
)
def test_on_a_linear_model_it_falls_exactly_beyond_its_distance(attack: APGD, classes: int) -> None:
    """Where the loss is one linear function: of several classes, cross-entropy and ratios have other maxima."""
    x = images(20, low=0.3, high=0.7)
    model = linear(classes, like=x)
    labels = predicted(model, x)
    logits = model(x)
    for norm in NORMS:
        gap = logits.gather(1, labels[:, None]) - logits
        apart = model.weight[labels][:, None] - model.weight[None]
        length = apart.abs().sum(2) if norm == "linf" else apart.norm(dim=2)
        distance = torch.where(gap > 0, gap / length, torch.inf).amin(1)
        keep = distance < 0.29  # so that the box plays no part
        assert int(keep.sum()) > 5
        for factor, falls in ((1.02, True), (0.98, False)):
            for i in keep.nonzero().flatten().tolist():
                threat = Threat(norm, factor * float(distance[i]))
                result = attack.run(model, x[i : i + 1], labels[i : i + 1], threat)
                assert bool(result.fooled) is falls, (norm, factor, i)


def test_scale_and_shift_of_the_logits_change_nothing() -> None:
    x = images(30)
    model = Wavy(speed=9.0).double()
    labels = predicted(model, x)
    plain = APGDCE(steps=20).run(model, x, labels, Threat("linf", 0.01))
    assert 0 < plain.accuracy.value < 1
    for attack in (APGDDLR(steps=20), APGDT(steps=20)):
        mine = attack.run(model, x, labels, Threat("linf", 0.01))
        for change in (lambda z: z + 50, lambda z: z - 50, lambda z: z * 1000, lambda z: z * 1e-3):
            other = attack.run(lambda x, c=change: c(model(x)), x, labels, Threat("linf", 0.01))
            assert torch.equal(other.fooled, mine.fooled)


def test_a_saturated_cross_entropy_does_not_blind_it() -> None:
    """Logits times 1000 in float32: PGD's gradient is exactly zero, APGD's is not."""
    x = images(30).float()
    model = Wavy(speed=9.0).float()
    labels = predicted(model, x)
    sharp = lambda x: 1000 * model(x)  # noqa: E731
    blind = PGD(steps=5).run(sharp, x, labels, Threat("linf", 0.1))
    assert blind.zero_gradient_share > 0.5
    seeing = APGDCE(steps=5).run(sharp, x, labels, Threat("linf", 0.1))
    assert seeing.zero_gradient_share == 0
    assert seeing.accuracy.count < blind.accuracy.count


def test_images_that_fell_cost_no_more() -> None:
    x = images(40)
    model = Wavy(speed=9.0)
    labels = predicted(model, x)
    labels[:10] = (labels[:10] + 1) % 3  # fooled by themselves
    result = APGDT(steps=20).run(model, x, labels, Threat("linf", 0.3))
    assert (result.queries_each[:10] == 1).all()
    assert torch.equal(result.adversarial[:10], x[:10])
    whole = APGDT(steps=20, stop_when_fooled=False).run(model, x, labels, Threat("linf", 0.3))
    assert (whole.queries_each == 1 + 2 * (1 + 2 * 20)).all()
    assert torch.equal(result.fooled, whole.fooled)


def test_encores_go_toward_the_target_that_came_nearest() -> None:
    x = images(12)
    model = Wavy(classes=5, speed=9.0)
    labels = predicted(model, x)
    seen: list[torch.Tensor] = []

    class Watching(Backpropagation):
        def __call__(self, images: Any, goal: Any, noise: Any) -> Any:
            seen.append(goal.targets)
            return super().__call__(images, goal, noise)

    attack = APGDT(steps=8, targets=3, encores=2, stop_when_fooled=False)
    result = attack.run(model, x, labels, Threat("linf", 0.05), gradients_from=Watching(model))
    assert attack.work == 8 * 5
    assert len(result.loss) == 5 * 9
    runs = result.loss.view(5, 9, 12)
    nearest = runs[:3].amax(1).argmax(0)
    tried = torch.stack([seen[8 * run] for run in range(5)])
    assert torch.equal(tried[3], tried[:3].gather(0, nearest[None])[0])
    assert torch.equal(tried[4], tried[3])
    assert not torch.equal(runs[3], runs[4])  # other starts
    assert len(set(nearest.tolist())) > 1


def test_targets_need_a_loss_with_a_targeted_form() -> None:
    with pytest.raises(AttackError, match="loss: Input should be 'ce', 'dlr' or 'margin'"):
        APGDT(loss="log-odds")
    with pytest.raises(AttackError, match="targets: Extra inputs"):
        APGD(targets=3)
