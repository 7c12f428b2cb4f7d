"""PGD where the answer is known: exact radii of linear models, a loop written out by hand, and what it keeps."""

from __future__ import annotations

import itertools
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from toy_classifiers import Counting, Linear, Wavy, hand_pgd, images, linear, predicted

from sonet.attacks import L2, LOSSES, PGD, AttackResult, Linf, Threat, margin
from sonet.attacks.ascent import ascend
from sonet.attacks.gradients import Backpropagation
from sonet.attacks.losses import Goal
from sonet.attacks.noise import ImageNoise

Norm = Literal["linf", "l2"]
NORMS: list[Norm] = ["linf", "l2"]


def pull(model: Linear, labels: Tensor) -> Tensor:
    """The gradient of the other class's logit minus the label's, for each image; two classes."""
    return (model.weight[1 - labels] - model.weight[labels]).view(-1, 2, 3, 3)


def gap(model: Linear, x: Tensor, labels: Tensor) -> Tensor:
    """How far the label is ahead."""
    return -margin(model(x), labels)


@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize("norm", NORMS)
def test_a_linear_model_falls_exactly_at_its_radius(norm: Norm, loss: Any) -> None:
    """gap / |w|_1 in linf, gap / |w|_2 in l2, where the box is far away."""
    x = images(8, low=0.4, high=0.6)
    model = linear(like=x)
    labels = predicted(model, x)
    w = pull(model, labels).flatten(1)
    radius = gap(model, x, labels) / (w.abs().sum(1) if norm == "linf" else w.square().sum(1).sqrt())
    assert len(labels.unique()) == 2
    assert radius.max() < 0.35
    for i in range(len(x)):
        for factor, falls in ((0.99, False), (1.01, True)):
            threat = Threat(norm, factor * radius[i].item())
            result = PGD(loss=loss).run(model, x[i : i + 1], labels[i : i + 1], threat)
            assert result.fooled.item() is falls
            assert result.distance.item() == pytest.approx(threat.eps, rel=1e-9)


def clipped_steepest(x: Tensor, w: Tensor, strength: float, norm: Norm) -> Tensor:
    """The image in the box that a linear loss likes best; `strength` is eps (linf) or the multiplier (l2)."""
    return (x + strength * (w.sign() if norm == "linf" else w)).clamp(0, 1)


def radius_in_the_box(model: Linear, x: Tensor, label: Tensor, norm: Norm) -> tuple[float, Tensor]:
    """The least radius at which the model falls with all pixels kept in [0, 1], by bisection; and where it falls."""
    w = pull(model, label)
    low, high = 0.0, 10.0
    assert gap(model, clipped_steepest(x, w, high, norm), label) < 0
    for _ in range(60):
        middle = (low + high) / 2
        if gap(model, clipped_steepest(x, w, middle, norm), label) > 0:
            low = middle
        else:
            high = middle
    fallen = clipped_steepest(x, w, high, norm)
    return Threat(norm, 1.0).distance(fallen, x).item(), fallen


@pytest.mark.parametrize("norm", NORMS)
def test_a_linear_model_falls_exactly_at_its_radius_where_the_box_cuts(norm: Norm) -> None:
    """Pixels at the border cannot move on; the others must make up for it. In l2 with small steps."""
    x = 0.05 + 0.9 * images(6).round()
    x[:, 0, 0] = x[:, 0, 0].round()
    model = linear(like=x)
    labels = predicted(model, x)
    cut = 0
    for i in range(len(x)):
        image, label = x[i : i + 1], labels[i : i + 1]
        radius, fallen = radius_in_the_box(model, image, label, norm)
        cut += int(((fallen == 0) | (fallen == 1)).sum() > 3)
        for factor, falls in ((0.99, False), (1.01, True)):
            eps = factor * radius
            settings: dict[str, Any] = {} if norm == "linf" else {"steps": 500, "step_size": eps / 150}
            attack = PGD(loss="margin", stop_when_fooled=True, **settings)
            assert attack.run(model, image, label, Threat(norm, eps)).fooled.item() is falls
    assert cut >= 3


@pytest.mark.parametrize("pixel", [0.0, 1.0])
@pytest.mark.parametrize("norm", NORMS)
def test_black_and_white_images_move_where_the_box_lets_them(norm: Norm, pixel: float) -> None:
    x = torch.full((2, 2, 3, 3), pixel, dtype=torch.float64)
    model = linear()
    labels = torch.tensor([0, 1])
    result = PGD(loss="margin", keep="last", steps=40).run(model, x, labels, Threat(norm, 0.1))
    inward = pull(model, labels) * (0.5 - pixel) > 0
    assert 3 < inward[0].sum() < 15
    moved = result.adversarial != x
    assert torch.equal(moved, inward)
    if norm == "linf":
        assert result.adversarial[inward].sub(pixel).abs().tolist() == pytest.approx([0.1] * int(inward.sum()))
    else:
        assert (result.distance > 0.09).all()


@pytest.mark.parametrize("decay", [False, True])
@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize("norm", NORMS)
def test_it_is_the_loop_written_out_by_hand(norm: Norm, loss: Any, decay: bool) -> None:
    model, x, threat = Wavy(), images(6), Threat(norm, 0.3)
    labels = torch.arange(6) % 3
    by_hand = hand_pgd(model, x, labels, threat, [0.08, 0.064, 0.048, 0.032, 0.016] if decay else [0.08] * 5, loss)
    attack = PGD(steps=5, step_size=0.08, loss=loss, keep="last", decay=decay)
    result = attack.run(model, x, labels, threat, checkpoints=(1, 2, 3, 4, 5))
    torch.testing.assert_close(result.adversarial, by_hand[5], rtol=0, atol=1e-12)
    for step in range(1, 6):
        torch.testing.assert_close(result.checkpoints[step], by_hand[step], rtol=0, atol=1e-12)
    losses = torch.stack([LOSSES[loss](model(x), labels) for x in by_hand[:5]])
    torch.testing.assert_close(result.loss, losses.float(), rtol=1e-6, atol=1e-6)
    assert torch.equal(result.clean, predicted(model, x))
    assert torch.equal(result.predictions, predicted(model, by_hand[5]))


@pytest.mark.parametrize("norm", NORMS)
def test_the_step_is_an_eighth_of_the_radius_by_default(norm: Norm) -> None:
    model, x, threat = Wavy(), images(3), Threat(norm, 0.3)
    labels = torch.arange(3)
    plain = PGD(steps=3, keep="last").run(model, x, labels, threat)
    assert torch.equal(
        plain.adversarial, PGD(steps=3, step_size=0.3 / 8, keep="last").run(model, x, labels, threat).adversarial
    )


@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize("threats", [(Linf(0.015), Linf(0.15)), (L2(0.05), L2(0.5))])
def test_the_best_is_never_worse_than_an_iterate(threats: tuple[Threat, Threat], random_start: bool) -> None:
    """An iterate that fools if there was one, and of those, or else of all, the one of largest loss."""
    model, x = Wavy(speed=9.0), images(60)
    labels = predicted(model, x)
    labels[0] = (labels[0] + 1) % 3  # fooled by itself
    steps = tuple(range(1, 13))
    never = lost = 0
    for threat in threats:
        attack = PGD(steps=12, step_size=threat.eps, random_start=random_start, seed=4)
        result = attack.run(model, x, labels, threat, checkpoints=steps)
        last = attack.model_copy(update={"keep": "last"}).run(model, x, labels, threat)
        noise = ImageNoise(x, 4 * 1009)
        start = threat.random_start(x, noise) if random_start else x
        iterates = torch.stack([start, *(result.checkpoints[step] for step in steps)])
        assert torch.equal(last.adversarial, iterates[-1])
        losses = torch.stack([LOSSES["ce"](model(each), labels) for each in iterates])
        fooled = torch.stack([predicted(model, each) != labels for each in iterates])
        ever = fooled.any(0)
        best = torch.where(fooled | ~ever, losses, -torch.inf).argmax(0)
        torch.testing.assert_close(result.adversarial, iterates[best, torch.arange(60)], rtol=0, atol=1e-12)
        assert torch.equal(result.fooled, ever)
        never += int((~ever).sum())
        lost += int((ever & ~last.fooled).sum())
    assert never > 3  # both parts of the promise were needed
    assert lost > 3


def test_the_best_counts_fooling_before_loss() -> None:
    """Cross-entropy may be larger at an iterate that does not fool: two other classes share the rest."""

    def model(x: Tensor) -> Tensor:
        """At 0.5 not fooled; at 0.6 fooled by a hair, loss 0.70; at 0.7 not fooled, loss 1.09."""
        p = x[:, 0, 0, 0]
        first = torch.where(p < 0.55, 3.0, torch.where(p < 0.65, 2.0, 2.0001))
        second = torch.where(p < 0.55, 0.0, torch.where(p < 0.65, 2.01, 2.0))
        third = torch.where(p < 0.65, -5.0, 2.0)
        return torch.stack([first, second, third], 1) + 1e-9 * p[:, None] * torch.tensor([-1.0, 0.0, 0.0])

    x = torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64)
    result = PGD(steps=2, step_size=0.1).run(model, x, torch.tensor([0]), Linf(0.2), checkpoints=(1, 2))
    losses = [LOSSES["ce"](model(result.checkpoints[step]), torch.tensor([0])).item() for step in (1, 2)]
    assert losses == pytest.approx([0.699, 1.0986], abs=1e-3)
    assert result.fooled.item()
    assert result.adversarial.item() == pytest.approx(0.6)


def test_a_run_s_checkpoints_are_shorter_runs() -> None:
    model, x, threat = Wavy(), images(5), L2(0.5)
    labels = torch.arange(5) % 3
    attack = PGD(steps=9, step_size=0.1, keep="last", random_start=True, seed=3)
    long = attack.run(model, x, labels, threat, checkpoints=(1, 4, 9))
    assert list(long.checkpoints) == [1, 4, 9]
    for step, iterate in long.checkpoints.items():
        short = PGD(steps=step, step_size=0.1, keep="last", random_start=True, seed=3).run(model, x, labels, threat)
        assert torch.equal(iterate, short.adversarial)
    assert torch.equal(long.checkpoints[9], long.adversarial)


def test_samples_that_stop_when_fooled_stay_where_they_fell() -> None:
    model, x, threat = Wavy(), images(12), L2(0.1)
    labels = predicted(model, x)
    labels[0] = (labels[0] + 1) % 3  # fooled from the start
    steps = tuple(range(1, 9))
    whole = PGD(steps=8, keep="last").run(model, x, labels, threat, checkpoints=steps)
    iterates = torch.stack([x, *(whole.checkpoints[step] for step in steps)])
    fooled = torch.stack([predicted(model, each) != labels for each in iterates])
    counting = Counting(model)
    stopped = PGD(steps=8, stop_when_fooled=True).run(model, x, labels, threat, gradients_from=counting)
    assert torch.equal(stopped.adversarial[0], x[0])
    for i in range(12):
        first = int(fooled[:, i].int().argmax()) if fooled[:, i].any() else None
        if first is not None:
            torch.testing.assert_close(stopped.adversarial[i], iterates[first, i], rtol=0, atol=1e-12)
        looked = 8 if first is None else min(first + 1, 8)
        assert torch.isfinite(stopped.loss[:, i]).tolist() == [True] * looked + [False] * (8 - looked)
    assert torch.equal(stopped.fooled, fooled.any(0))
    assert 0 < int(fooled.any(0).sum()) < 12
    assert stopped.queries == counting.queries < PGD(steps=8).run(model, x, labels, threat).queries


@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_belong_to_the_image_and_the_seed(norm: Norm) -> None:
    model, x, threat = Wavy(), images(6), Threat(norm, 0.3)
    labels = torch.arange(6) % 3

    def run(seed: int, random_start: bool = True, steps: int = 2) -> Tensor:
        attack = PGD(steps=steps, random_start=random_start, seed=seed, keep="last")
        return attack.run(model, x, labels, threat).adversarial

    assert torch.equal(run(0), run(0))
    assert ((run(0) - run(1)).abs().amax((1, 2, 3)) > 1e-3).all()
    assert torch.equal(run(0, random_start=False), run(1, random_start=False))
    assert ((run(0) - run(0, random_start=False)).abs().amax((1, 2, 3)) > 1e-3).all()
    state = torch.get_rng_state()
    run(5)
    assert torch.equal(torch.get_rng_state(), state)


def test_restarts_keep_for_each_sample_the_best_of_all() -> None:
    model, x, threat = Wavy(speed=9.0), images(40), Linf(0.05)
    labels = predicted(model, x)
    attack = PGD(steps=4, random_start=True, restarts=5, seed=2)
    result = attack.run(model, x, labels, threat, checkpoints=(2, 4))
    single: list[Tensor] = []
    for restart in range(5):
        noise = ImageNoise(x, 2 * 1009 + restart)
        start = threat.random_start(x, noise)
        crafted = ascend(
            Backpropagation(model),
            x,
            Goal(labels, LOSSES["ce"]),
            threat,
            start=start,
            noise=noise,
            steps=4,
            step_size=threat.eps / 8,
            keep="best",
            stop_when_fooled=False,
        )
        single.append(crafted.images)
    fooled = torch.stack([predicted(model, each) != labels for each in single])
    losses = torch.stack([LOSSES["ce"](model(each), labels) for each in single])
    assert torch.equal(result.fooled, fooled.any(0))
    mine = LOSSES["ce"](model(result.adversarial), labels)
    assert torch.equal(mine[~result.fooled], losses.amax(0)[~result.fooled])
    for i in range(40):
        assert any(torch.equal(result.adversarial[i], each[i]) for each in single)
    once = PGD(steps=4, random_start=True, seed=2).run(model, x, labels, threat)
    assert torch.equal(once.adversarial, single[0])
    assert 40 > int(result.fooled.sum()) > int(once.fooled.sum())
    assert result.loss.shape == (4, 40)


def test_of_restarts_one_that_fools_goes_before_one_of_larger_loss() -> None:
    def model(x: Tensor) -> Tensor:
        """Without gradient: in dark images fooled by a hair, loss 0.70; in light ones not fooled, loss 1.10."""
        dark = x[:, 0, 0, 0, None] < 0.5
        return torch.where(dark, torch.tensor([2.0, 2.01, -5.0]), torch.tensor([2.0001, 2.0, 2.0])).double()

    x = torch.linspace(0.45, 0.55, 8, dtype=torch.float64).view(8, 1, 1, 1)
    labels = torch.zeros(8, dtype=torch.int64)
    once = PGD(steps=1, random_start=True, keep="last").run(model, x, labels, Linf(0.3))
    assert 0 < once.accuracy.count < 8  # the start decides
    often = PGD(steps=1, random_start=True, keep="last", restarts=20).run(model, x, labels, Linf(0.3))
    assert often.accuracy.count == 0


@pytest.mark.parametrize("norm", NORMS)
def test_a_larger_radius_leaves_no_more_accuracy(norm: Norm) -> None:
    """On a linear model also image by image; from all that it gets right by itself down to none."""
    x = images(30, low=0.3, high=0.7)
    model = linear(like=x)
    labels = predicted(model, x)
    labels[:3] = 1 - labels[:3]
    radii = [0.0, 0.01, 0.03, 0.1, 0.3] if norm == "linf" else [0.0, 0.05, 0.15, 0.5, 1.5]
    results = [PGD().run(model, x, labels, Threat(norm, eps)) for eps in radii]
    for smaller, larger in itertools.pairwise(results):
        assert (larger.fooled | ~smaller.fooled).all()
        assert larger.accuracy.count <= smaller.accuracy.count
    counts = [result.accuracy.count for result in results]
    assert (counts[0], counts[-1]) == (27, 0)
    assert len(set(counts)) >= 4
    assert all(result.natural.count == 27 for result in results)
    assert torch.equal(results[0].adversarial, x)


@pytest.mark.parametrize("keep", ["last", "best"])
@pytest.mark.parametrize("random_start", [False, True])
def test_queries_are_the_images_the_model_saw(keep: Any, random_start: bool) -> None:
    """A backward pass counts as one; "best" looks at the last iterate too, forward only; judging is not counted."""
    x, labels = images(7), torch.arange(7) % 3
    counting = Counting(Wavy())
    attack = PGD(steps=5, keep=keep, random_start=random_start, batch_size=3)
    result = attack.run(Wavy(), x, labels, Linf(0.1), gradients_from=counting)
    assert result.queries == counting.queries == 7 * (2 * 5 + (keep == "best"))
    assert counting.backward_images == 7 * 5
    assert result.queries_each.tolist() == [2 * 5 + (keep == "best")] * 7
    assert max(counting.batches) == 3


def test_queries_of_restarts_count_the_choice_among_them() -> None:
    x, labels = images(7), torch.arange(7) % 3
    counting = Counting(Wavy())
    attack = PGD(steps=5, random_start=True, restarts=3)
    result = attack.run(Wavy(), x, labels, Linf(0.1), gradients_from=counting)
    assert result.queries == counting.queries == 3 * 7 * (2 * 5 + 1 + 1)


def blind(x: Tensor) -> Tensor:
    return Wavy()(x.detach())


def without_graph(x: Tensor) -> Tensor:
    with torch.no_grad():
        return Wavy()(x)


def constant(x: Tensor) -> Tensor:
    """Logits that carry gradient, but not that of the images."""
    return torch.zeros(len(x), 3, dtype=torch.float64, requires_grad=True) * 1.0


def rounded(x: Tensor) -> Tensor:
    return Wavy()((8 * x).round() / 8)


@pytest.mark.parametrize("classifier", [blind, without_graph, constant, rounded])
@pytest.mark.parametrize("norm", NORMS)
def test_a_killed_gradient_is_reported_and_moves_nothing(norm: Norm, classifier: Any) -> None:
    x, labels = images(6), torch.arange(6) % 3
    result: AttackResult = PGD(steps=3).run(classifier, x, labels, Threat(norm, 0.2))
    assert result.zero_gradient_share == 1.0
    assert torch.equal(result.adversarial, x)
    started = PGD(steps=3, random_start=True, keep="last").run(classifier, x, labels, Threat(norm, 0.2))
    assert (started.distance > 0).all()
    assert started.zero_gradient_share == 1.0


def test_the_share_of_zero_gradients_counts_samples() -> None:
    """The dark half of the images is clipped away before the model sees it."""
    x, labels = images(8, low=0.6, high=0.9), torch.arange(8) % 3
    x[4:] -= 0.5

    def model(x: Tensor) -> Tensor:
        return Wavy()(x.clamp_min(0.5))

    result = PGD(steps=3).run(model, x, labels, Linf(0.05))
    assert result.zero_gradients.tolist() == [False] * 4 + [True] * 4
    assert result.zero_gradient_share == 0.5
    assert (result.distance[:4] > 0).all()
    assert result.distance[4:].tolist() == [0.0] * 4


def test_a_saturated_cross_entropy_does_not_shorten_l2_steps() -> None:
    """Gradients of 1e-26 in float32, whose squares underflow, still give a direction."""
    x = images(4, low=0.4, high=0.6).float()
    model = linear(classes=3, like=x.double())
    weight, bias = 0.2 * model.weight.float(), torch.tensor([60.0, 0.0, 0.0])
    labels = torch.zeros(4, dtype=torch.int64)
    result = PGD(steps=4, step_size=0.05, keep="last").run(Linear(weight, bias), x, labels, L2(1.0))
    assert result.zero_gradient_share == 0.0
    assert result.distance.tolist() == pytest.approx([0.2] * 4, rel=1e-4)


def test_results_keep_the_images_type_and_shape() -> None:
    x = images(3).float()
    wavy = Wavy().float()
    for attack in (PGD(steps=2), PGD(steps=2, random_start=True, restarts=2)):
        result = attack.run(wavy, x, torch.arange(3), L2(0.5))
        assert result.adversarial.dtype == torch.float32
        assert result.adversarial.shape == x.shape
        assert not result.adversarial.requires_grad
        assert result.loss.shape == (2, 3)
        assert result.seconds > 0
