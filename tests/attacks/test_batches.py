"""What a batch may and may not change: order, splits, noise, groups of shared steps, judging."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy_classifiers import Linear, Wavy, images, linear, predicted, weights

from sonet.attacks import L2, PGD, SPSA, Attack, Linf, Threat
from sonet.models import build, variant
from sonet.solvers import Adaptive, paper
from sonet.solvers.control import StepGradient

ATTACKS: dict[str, Attack] = {
    "pgd": PGD(steps=4),
    "pgd last": PGD(steps=4, keep="last", loss="margin"),
    "pgd random": PGD(steps=4, random_start=True),
    "pgd restarts": PGD(steps=3, random_start=True, restarts=3),
    "pgd stops": PGD(steps=4, stop_when_fooled=True),
    "spsa": SPSA(steps=3, samples=4),
    "spsa goes on": SPSA(steps=3, samples=4, stop_when_fooled=False, chunk=13),
}
SHORT: dict[str, Attack] = {
    "pgd": PGD(steps=2),
    "pgd restarts": PGD(steps=2, random_start=True, restarts=2),
    "spsa": SPSA(steps=2, samples=2),
}


def small_sonet(solver: Adaptive) -> nn.Module:
    # With fewer channels than colours a colour reaches nothing, and rounding alone gives its gradient a sign.
    model = build("sonet", seed=3, channels=3, blocks=(1,), strides=(1,), classes=3, solver=solver)
    return model.double().eval()


def with_batch_size(attack: Attack, size: int) -> Attack:
    return type(attack)(**(vars(attack) | {"batch_size": size}))


@pytest.mark.parametrize(
    ("kind", "name"), [*(("wavy", name) for name in ATTACKS), *(("sonet", name) for name in SHORT)]
)
@pytest.mark.parametrize("threat", [Linf(0.15), L2(0.5)], ids=str)
def test_an_image_is_attacked_alike_in_any_batch(kind: str, threat: Threat, name: str) -> None:
    """Permuted, split, alone: the same adversarial images, random starts and probes included."""
    model: Any = Wavy(speed=9.0) if kind == "wavy" else small_sonet(Adaptive(rtol=0.1, atol=0.1))
    x = images(6) if kind == "wavy" else images(6, shape=(3, 5, 6))
    attack = ATTACKS[name] if kind == "wavy" else SHORT[name]
    labels = predicted(model, x)
    whole = attack.run(model, x, labels, threat)
    assert (whole.distance[~whole.fooled] > 0).all()
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    permuted = attack.run(model, x[order], labels[order], threat)
    torch.testing.assert_close(permuted.adversarial, whole.adversarial[order], rtol=0, atol=1e-8)
    torch.testing.assert_close(permuted.loss, whole.loss[:, order], rtol=1e-5, atol=1e-6, equal_nan=True)
    assert torch.equal(permuted.zero_gradients, whole.zero_gradients[order])
    assert permuted.queries == whole.queries
    for size in (1, 4) if kind == "wavy" else (4,):
        split = with_batch_size(attack, size).run(model, x, labels, threat)
        torch.testing.assert_close(split.adversarial, whole.adversarial, rtol=0, atol=1e-8)
        assert split.queries == whole.queries
        assert torch.equal(split.predictions, whole.predictions)
    alone = attack.run(model, x[3:4], labels[3:4], threat)
    torch.testing.assert_close(alone.adversarial, whole.adversarial[3:4], rtol=0, atol=1e-8)
    assert whole.flips == 0


def test_different_seeds_probe_differently() -> None:
    model, x = Wavy(speed=9.0), images(4)
    labels = predicted(model, x)
    first, again, other = (
        SPSA(steps=2, samples=4, seed=seed).run(model, x, labels, L2(0.3)).adversarial for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)


STEP_GRADIENTS: tuple[StepGradient, ...] = ("frozen", "first", "differentiated")


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.5)], ids=str)
@pytest.mark.parametrize("step_gradient", STEP_GRADIENTS)
def test_batches_of_k_are_groups_of_k_in_one_batch(step_gradient: StepGradient, threat: Threat) -> None:
    """On a network whose batch shares its steps: attacking in batches of k is attacking all with `scope=k`."""
    model = small_sonet(paper(step_gradient=step_gradient))
    brightness = torch.tensor([1.0, 0.4, 0.8, 0.5, 0.9, 0.6, 0.7, 0.3], dtype=torch.float64)
    x = images(8, shape=(3, 5, 6)) * brightness[:, None, None, None]
    labels = predicted(model, x)
    found: dict[int, Tensor] = {}
    for k in (1, 2, 4):
        n = 2 * k
        separate = PGD(steps=3, keep="last", batch_size=k)
        together = PGD(steps=3, keep="last", batch_size=n)
        grouped = variant(model, scope=k)
        one = separate.run(model, x[:n], labels[:n], threat, checkpoints=(1, 2, 3))
        other = together.run(model, x[:n], labels[:n], threat, gradients_from=grouped, checkpoints=(1, 2, 3))
        for step in (1, 2, 3):
            torch.testing.assert_close(other.checkpoints[step], one.checkpoints[step], rtol=0, atol=1e-7)
        torch.testing.assert_close(other.loss, one.loss, rtol=0, atol=1e-6)
        found[k] = one.adversarial[:2]
    if threat.norm == "l2":  # or the comparison would say nothing: who shares a step does matter here
        assert (found[1] - found[4]).abs().max() > 1e-3


def counts_the_batch(x: Tensor) -> Tensor:
    """Says class 0 in batches of three and more, class 1 in smaller ones."""
    logits = torch.zeros(len(x), 2, dtype=x.dtype)
    logits[:, 0 if len(x) >= 3 else 1] = 1.0
    return logits + 0 * x.sum()


@pytest.mark.parametrize(("n", "batch_size"), [(6, 6), (5, 100), (9, 3), (12, 6)])
def test_flips_count_where_another_batch_size_disagrees(n: int, batch_size: int) -> None:
    """Also where all images fit into one batch: then the other batches are smaller than that."""
    labels = torch.zeros(n, dtype=torch.int64)
    result = PGD(steps=1, batch_size=batch_size).run(counts_the_batch, images(n), labels, Linf(0.1))
    assert result.accuracy.count == n
    assert result.accuracy_elsewhere.count == 0
    assert result.flips == n


def test_the_judge_s_batch_is_the_deployed_one() -> None:
    labels = torch.zeros(6, dtype=torch.int64)
    small = PGD(steps=1).run(counts_the_batch, images(6), labels, Linf(0.1), judge_batch=2)
    assert (small.accuracy.count, small.natural.count) == (0, 0)
    one = PGD(steps=1).run(counts_the_batch, images(6), labels, Linf(0.1), judge_batch=1)
    assert (one.accuracy.count, one.accuracy_elsewhere.count, one.flips) == (0, 6, 6)


def test_gradients_from_a_variant_and_judged_on_the_deployed() -> None:
    x = images(12, low=0.3, high=0.7)
    deployed, other = linear(like=x), linear(seed=7, like=x)
    labels = predicted(deployed, x)
    result = PGD(loss="margin").run(deployed, x, labels, Linf(0.1), gradients_from=other)
    on_the_other = PGD(loss="margin").run(other, x, labels, Linf(0.1))
    assert torch.equal(result.adversarial, on_the_other.adversarial)
    assert torch.equal(result.loss, on_the_other.loss)
    assert torch.equal(result.predictions, predicted(deployed, result.adversarial))
    assert torch.equal(result.clean, labels)
    assert torch.equal(on_the_other.predictions, predicted(other, result.adversarial))
    assert not torch.equal(result.predictions, on_the_other.predictions)
    assert not torch.equal(result.adversarial, PGD(loss="margin").run(deployed, x, labels, Linf(0.1)).adversarial)


def test_a_variant_with_a_gradient_beats_a_deployed_without() -> None:
    x = images(10, low=0.4, high=0.6)
    model = linear(like=x)
    labels = predicted(model, x)

    def masked(x: Tensor) -> Tensor:
        return model(x.detach())

    assert PGD().run(masked, x, labels, Linf(0.1)).accuracy.count == 10
    crafted = PGD().run(masked, x, labels, Linf(0.1), gradients_from=model)
    assert crafted.accuracy.count == PGD().run(model, x, labels, Linf(0.1)).accuracy.count < 5
    assert crafted.zero_gradient_share == 0.0


class SaysNothingOfWhite(nn.Module):
    """Logits of NaN, or of which one is infinite, for nearly white images; a linear model for others."""

    def __init__(self, answer: float) -> None:
        super().__init__()
        self.answer = answer
        self.linear = Linear(weights(3), torch.zeros(3, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        logits = self.linear(x)
        white = (x.flatten(1).mean(1) > 0.8)[:, None]
        if self.answer == float("inf"):
            white = white & torch.tensor([True, False, False])
        return logits.masked_fill(white, self.answer)


@pytest.mark.parametrize("answer", [float("nan"), float("inf")])
@pytest.mark.parametrize("attack", [PGD(steps=3), PGD(steps=3, loss="margin", keep="last"), SPSA(steps=3, samples=8)])
@pytest.mark.parametrize("restarts", [1, 3])
def test_no_answer_counts_as_fooled_and_leaves_the_others_alone(attack: Attack, answer: float, restarts: int) -> None:
    if restarts > 1:
        if isinstance(attack, SPSA):
            return
        attack = PGD(**(vars(attack) | {"random_start": True, "restarts": restarts}))
    model = SaysNothingOfWhite(answer).eval()
    x = images(5, high=0.6)
    x[2] = 0.95
    others = torch.tensor([0, 1, 3, 4])
    labels = torch.zeros(5, dtype=torch.int64)
    labels[others] = predicted(model, x[others])
    result = attack.run(model, x, labels, Linf(0.05))
    without = attack.run(model, x[others], labels[others], Linf(0.05))
    assert result.clean[2] == result.predictions[2] == result.elsewhere[2] == -1
    assert result.fooled[2]
    assert result.natural.count == 4
    assert torch.equal(result.adversarial[others], without.adversarial)
    assert torch.equal(result.predictions[others], without.predictions)
    assert torch.isfinite(result.adversarial).all()
    assert not result.zero_gradients[others].any()
    assert result.zero_gradients[2] or answer == float("inf")
    assert (result.distance[others] > 0).any()
