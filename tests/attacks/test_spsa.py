"""SPSA: an estimate that is the gradient on average, and an attack that needs none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from toy_classifiers import Counting, Wavy, images, linear, predicted

from sonet.attacks import L2, LOSSES, PGD, SPSA, Alone, Linf, Threat, margin
from sonet.attacks.gradients import Backpropagation, Slope, SPSAGradient
from sonet.attacks.losses import Goal
from sonet.attacks.noise import Directions, ImageNoise


def estimate(
    classifier: Any,
    x: Tensor,
    labels: Tensor,
    samples: int,
    *,
    chunk: int = 512,
    seed: int = 0,
    like: Directions = "independent",
) -> Slope:
    source = SPSAGradient(Backpropagation(classifier), samples, 0.01, chunk, like)
    return source(x, Goal(labels), ImageNoise(x, seed))


def true_gradient(classifier: Any, x: Tensor, labels: Tensor) -> Tensor:
    return Backpropagation(classifier)(x, Goal(labels), ImageNoise(x, 0)).gradient


def test_the_estimate_converges_to_the_gradient_of_a_linear_loss() -> None:
    x = images(3)
    model = linear(like=x)
    labels = predicted(model, x)
    got = estimate(model, x, labels, 2000).gradient.flatten(1)
    true = true_gradient(model, x, labels).flatten(1)
    assert (torch.cosine_similarity(got, true) > 0.99).all()
    assert ((got - true).norm(dim=1) < 0.15 * true.norm(dim=1)).all()


def test_the_estimate_is_unbiased_and_has_the_variance_of_its_theory() -> None:
    """On a linear loss one pair gives (g v) v: on average g, and E |error|^2 = (d - 1) / m |g|^2."""
    x = images(400)
    model = linear()
    labels = torch.zeros(400, dtype=torch.int64)
    pairs, dimensions = 10, 18
    got = estimate(model, x, labels, pairs).gradient.flatten(1)
    true = true_gradient(model, x, labels).flatten(1)
    size = true[0].square().sum()
    assert ((got - true).mean(0).square().sum() / size).sqrt() < 0.1
    spread = (got - true).square().sum(1).mean() / size
    assert spread.item() == pytest.approx((dimensions - 1) / pairs, rel=0.1)


def test_the_estimate_is_its_formula() -> None:
    model, x = Wavy(), images(4)
    labels = torch.arange(4) % 3
    slope = estimate(model, x, labels, 3, seed=5)
    directions = ImageNoise(x, 5).signs(3)
    assert directions.shape == (4, 3, 2, 3, 3)
    assert directions.abs().eq(1).all()
    for i in range(4):
        total = torch.zeros_like(x[i])
        for v in directions[i]:
            up, down = (margin(model((x[i] + sign * 0.01 * v)[None]), labels[i : i + 1]) for sign in (1, -1))
            total += (up - down) / 0.02 * v / 3
        torch.testing.assert_close(slope.gradient[i], total, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(slope.loss, margin(model(x), labels), rtol=0, atol=1e-12)
    assert torch.equal(slope.logits, model(x))


@pytest.mark.parametrize("like", ["independent", "orthogonal"])
@pytest.mark.parametrize(("chunk", "most"), [(1, 1), (3, 3), (4, 4), (11, 8), (24, 24), (1000, 24)])
def test_the_chunk_is_the_most_the_model_sees_at_once_and_changes_nothing_else(
    chunk: int, most: int, like: Directions
) -> None:
    counting, x = Counting(Wavy()), images(4)
    labels = torch.arange(4) % 3
    got = estimate(counting, x, labels, 3, chunk=chunk, like=like).gradient
    torch.testing.assert_close(got, estimate(Wavy(), x, labels, 3, like=like).gradient, rtol=1e-9, atol=1e-12)
    assert counting.batches[0] == 4
    assert max(counting.batches[1:]) == most
    assert sum(counting.batches[1:]) == 24


def test_a_probe_has_its_own_batch_mates_about_it() -> None:
    """Where samples share something of their batch: whole batches of probes, each image once in each."""
    x = images(4)
    seen: list[Tensor] = []

    def coupled(batch: Tensor) -> Tensor:
        seen.append(batch)
        return Wavy()(batch) * (1 + batch.mean())

    estimate(coupled, x, torch.arange(4) % 3, 3, chunk=11)
    for batch in seen[1:]:
        copies = batch.view(-1, 4, 2, 3, 3)
        assert ((copies - x).abs() - 0.01).abs().max() < 1e-12
        if len(copies) == 2:  # of a pair: the two sides of the same directions
            torch.testing.assert_close(copies.mean(0), x, rtol=0, atol=1e-12)


def test_as_many_orthogonal_directions_as_pixels_give_the_gradient_of_a_linear_loss() -> None:
    """And of fewer m = 2^q each pixel's estimate holds those whose places are the same in the last q bits."""
    x = images(400)
    model = linear(like=x[:4])
    labels = predicted(model, x)
    true = true_gradient(model, x, labels)
    whole = estimate(model, x, labels, 32, like="orthogonal").gradient  # the order above 18 pixels
    torch.testing.assert_close(whole, true, rtol=0, atol=1e-12)
    few = estimate(linear(), x, labels * 0, 8, like="orthogonal").gradient
    reference = true_gradient(linear(), x, labels * 0)
    size = reference[0].square().sum()
    assert ((few - reference).mean(0).square().sum() / size).sqrt() < 0.1  # unbiased over the images' own signs
    places = torch.arange(18)
    others = ((places[:, None] - places) % 8 == 0).sum(1) - 1
    spread = (few - reference).flatten(1).square().sum(1).mean()
    assert spread.item() == pytest.approx((reference[0].flatten().square() * others).sum().item(), rel=0.1)


def test_orthogonal_estimates_go_on_from_call_to_call() -> None:
    """Four estimates of 8 are one of 32, in a batch and for an image alone."""
    x = images(3)
    model = linear(like=x)
    labels = predicted(model, x)
    goal, true = Goal(labels), true_gradient(model, x, labels)
    source = SPSAGradient(Backpropagation(model), 8, 0.01, 512, "orthogonal")
    for asked in (source, Alone(source)):
        noise = ImageNoise(x, 0)
        parts = torch.stack([asked(x, goal, noise).gradient for _ in range(4)])
        assert (parts - true).flatten(1).norm(dim=1).min() > 0.1 * true.norm()
        torch.testing.assert_close(parts.mean(0), true, rtol=0, atol=1e-12)


def test_queries_are_the_images_the_model_saw() -> None:
    x, labels = images(7), torch.arange(7) % 3
    counting = Counting(Wavy())
    attack = SPSA(steps=3, samples=5, batch_size=4, stop_when_fooled=False)
    result = attack.run(Wavy(), x, labels, Linf(0.1), gradients_from=counting)
    assert counting.backward_images == 0
    assert result.queries == counting.queries == 7 * (3 * 11 + 1)  # the last look at the last iterate too
    counting = Counting(Wavy())
    stopped = SPSA(steps=3, samples=5, batch_size=4).run(Wavy(), x, labels, Linf(0.1), gradients_from=counting)
    assert stopped.queries == counting.queries < result.queries


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.4)], ids=str)
def test_it_needs_no_gradient(threat: Any) -> None:
    """A model whose gradient is cut stands against PGD and falls to queries, as it does to PGD without the cut."""
    x = images(20, low=0.3, high=0.7)
    model = linear(like=x)
    labels = predicted(model, x)

    def masked(x: Tensor) -> Tensor:
        return model(x.detach())

    pgd = PGD().run(masked, x, labels, threat)
    assert pgd.zero_gradient_share == 1.0
    assert pgd.accuracy.count == 20
    spsa = SPSA(samples=16).run(masked, x, labels, threat)
    open_pgd = PGD().run(model, x, labels, threat)
    assert spsa.zero_gradient_share == 0.0
    assert open_pgd.accuracy.count <= spsa.accuracy.count <= open_pgd.accuracy.count + 2
    assert open_pgd.accuracy.count <= 5


def test_a_loss_flat_to_probes_is_reported_as_a_zero_gradient() -> None:
    x, labels = images(3), torch.zeros(3, dtype=torch.int64)

    def flat(x: Tensor) -> Tensor:
        return torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(len(x), 2)

    result = SPSA(steps=2, samples=4).run(flat, x, labels, Linf(0.1))
    assert result.zero_gradient_share == 1.0
    assert torch.equal(result.adversarial, x)


@pytest.mark.parametrize("decay", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.75])
@pytest.mark.parametrize("threat", [Linf(0.08), L2(0.3)], ids=str)
def test_it_steps_along_the_estimates_with_momentum(threat: Threat, momentum: float, decay: bool) -> None:
    """Written out: probes and steps of a quarter of the radius, estimates of an image's own stream of directions."""
    model, x = Wavy(), images(4)
    labels = predicted(model, x)
    attack = SPSA(steps=3, samples=4, momentum=momentum, decay=decay, loss="ce", seed=2, stop_when_fooled=False)
    result = attack.run(model, x, labels, threat, checkpoints=(1, 2, 3))
    delta = threat.eps / 4 if threat.norm == "linf" else threat.eps / 4 / 18**0.5  # 18 pixels
    source, noise = SPSAGradient(Backpropagation(model), 4, delta, 512), ImageNoise(x, 2)
    current, velocity = x, torch.zeros_like(x)
    for step in (1, 2, 3):
        velocity = momentum * velocity + source(current, Goal(labels, LOSSES["ce"]), noise).gradient
        length = velocity.flatten(1).norm(dim=1)[:, None, None, None]
        along = velocity.sign() if threat.norm == "linf" else velocity / length
        share = (1, 2 / 3, 1 / 3)[step - 1] if decay else 1
        current = threat.project(current + share * threat.eps / 4 * along, x)
        torch.testing.assert_close(result.checkpoints[step], current, rtol=0, atol=1e-12)


def test_settings_of_probe_and_step_are_read() -> None:
    model, x = Wavy(), images(4)
    labels = predicted(model, x)

    def run(**settings: Any) -> Tensor:
        return SPSA(steps=2, samples=4, **settings).run(model, x, labels, L2(0.3), checkpoints=(2,)).checkpoints[2]

    plain = run()
    torch.testing.assert_close(
        plain, run(delta=0.3 / 4 / 18**0.5, step_size=0.3 / 4, momentum=0.75, seed=0), rtol=0, atol=1e-12
    )
    for change in (
        {"delta": 0.2},
        {"step_size": 0.1},
        {"momentum": 0.0},
        {"seed": 1},
        {"loss": "ce"},
        {"decay": True},
        {"directions": "orthogonal"},
    ):
        assert (run(**change) - plain).abs().max() > 1e-4


def test_a_radius_of_zero_leaves_the_images() -> None:
    model, x = Wavy(), images(4)
    result = SPSA(steps=2, samples=2).run(model, x, predicted(model, x), Linf(0))
    assert torch.equal(result.adversarial, x)
    assert result.accuracy.count == 4
