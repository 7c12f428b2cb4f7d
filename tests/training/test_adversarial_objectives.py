"""Adversarial objectives: the losses by their formulas, the attack inside, and training that repeats and resumes."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from small_runs import config, digits, numbers, same, small, weights
from torch import Tensor, nn

from sonet.attacks import L2, PGD, Backpropagation, Linf, Threat
from sonet.attacks.losses import Divergence, kl_divergence
from sonet.attacks.noise import ImageNoise
from sonet.training import OBJECTIVES, TrainConfig, fit, load_checkpoint
from sonet.training.crafting import craft
from sonet.training.objectives import START, Madry, Trades

ADVERSARIAL = pytest.mark.parametrize("objective", ["madry", "trades"])


def linear(classes: int = 3, seed: int = 0) -> nn.Module:
    """Logits linear in 12 pixels, in float64."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, classes)).double()


def grey(n: int = 5, seed: int = 1) -> Tensor:
    """Images whose every ball of radius 0.2 lies inside the box."""
    return 0.3 + 0.4 * torch.rand(n, 3, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(n: int = 5) -> Tensor:
    return torch.arange(n) % 3


def diverging(steps: int = 10, step_size: float | None = None) -> PGD:
    """The attack inside TRADES."""
    return PGD(steps=steps, step_size=step_size, loss="kl", start_noise=START, keep="last")


def fits(objective: str, **changes: Any) -> TrainConfig:
    return config(**({"objective": objective, "threat": "linf:0.1", "attack_steps": 2, "lr": 0.05} | changes))


def warm(name: str = "resnet10") -> nn.Module:
    """A network whose BatchNorms have seen something."""
    model = small(name)
    fit(model, digits().train.take(40), config(epochs=1))
    return model


# The losses


def test_the_divergence_by_hand() -> None:
    reference, logits = torch.tensor([[math.log(2), 0.0]]), torch.tensor([[0.0, 0.0]])
    there = 2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)  # KL((2/3, 1/3) || (1/2, 1/2))
    back = 0.5 * math.log(3 / 4) + 0.5 * math.log(3 / 2)
    assert kl_divergence(logits, reference).item() == pytest.approx(there, rel=1e-6)
    assert kl_divergence(reference, logits).item() == pytest.approx(back, rel=1e-6)


def test_the_divergence_and_its_gradients_are_finite_where_probabilities_underflow() -> None:
    sure = torch.tensor([[300.0, 0.0, -300.0]], requires_grad=True)
    other = torch.tensor([[0.0, 300.0, -300.0]], requires_grad=True)
    value = kl_divergence(other, sure).sum()
    assert value.item() == pytest.approx(300.0)
    assert all(bool(torch.isfinite(slope).all()) for slope in torch.autograd.grad(value, (sure, other)))


def test_trades_is_its_formula_and_learns_through_both_answers() -> None:
    model, images, truth = linear(), grey(), labels()
    hard = images + 0.05 * torch.randn(images.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    loss, logits = Trades(Linf(0.1), diverging(), beta=2.5).loss(model, images, hard, truth)
    p, q = torch.softmax(model(images), 1), torch.softmax(model(hard), 1)
    formula = -p[torch.arange(5), truth].log().mean() + 2.5 * (p * (p / q).log()).sum(1).mean()
    assert loss.item() == pytest.approx(formula.item(), rel=1e-12)
    assert torch.equal(logits, model(images))
    ours, theirs = (torch.autograd.grad(value, list(model.parameters())) for value in (loss, formula))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_madry_is_the_cross_entropy_at_the_hard_images_alone() -> None:
    model, truth = linear(), labels()
    loss, logits = Madry(Linf(0.1), PGD()).loss(model, grey(seed=1), grey(seed=2), truth)
    q = torch.softmax(model(grey(seed=2)), 1)
    assert loss.item() == pytest.approx(-q[torch.arange(5), truth].log().mean().item(), rel=1e-12)
    assert torch.equal(logits, model(grey(seed=2)))


# The attack inside


@pytest.mark.parametrize("threat", ["linf:0.1", "l2:0.5"])
@pytest.mark.parametrize(
    ("objective", "settings"),
    [("madry", {"random_start": True}), ("trades", {"loss": "kl", "start_noise": 0.001})],
    ids=["madry", "trades"],
)
def test_what_is_crafted_is_what_the_suites_pgd_gives(objective: str, settings: dict[str, Any], threat: str) -> None:
    model, some = warm(), digits().train.take(20)
    given = Threat.parse(threat)
    inner = OBJECTIVES[objective].of(fits(objective, threat=threat, attack_steps=3))
    hard = inner.craft(model.train(), some.images, some.labels, 7)
    attack = PGD(steps=3, step_size=given.eps / 4, keep="last", seed=7, **settings)
    result = attack.run(model.eval(), some.images, some.labels, given)
    assert torch.equal(hard, result.adversarial)


def test_settings_of_the_attack_come_from_the_config() -> None:
    trades = Trades.of(TrainConfig(objective="trades", threat="l2:1/2"))
    assert (trades.threat, trades.beta) == (L2(0.5), 6.0)
    assert (trades.attack.steps, trades.attack.step_size) == (10, 0.125)
    changed = Trades.of(
        TrainConfig(objective="trades", threat="linf:8/255", attack_steps=7, attack_step_size=0.01, beta=1)
    )
    assert (changed.threat, changed.beta) == (Linf("8/255"), 1.0)
    assert (changed.attack.steps, changed.attack.step_size) == (7, 0.01)


def test_the_divergence_is_climbed_to_a_corner_of_the_ball() -> None:
    """Two classes, linear logits: the KL is largest where every pixel moved by eps along the weights, one way or back.

    At the images themselves its gradient is zero, so that without the noise of the start nothing would move.
    """
    model, images = linear(classes=2), grey()
    weight = (model[1].weight[0] - model[1].weight[1]).detach().view(3, 2, 2)  # type: ignore[index]
    hard = craft(model, diverging(step_size=0.05), images, labels() % 2, Linf(0.2), seed=0)
    moved = (hard - images) / (0.2 * weight.sign())
    assert torch.allclose(moved.abs(), torch.ones_like(moved))
    assert bool((moved.flatten(1).std(1) < 1e-6).all())
    goal = Divergence(labels(), reference=model(images).detach())
    slope = Backpropagation(model)(images, goal, ImageNoise(images, 0))
    assert float(slope.gradient.abs().max()) < 1e-12


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.5)])
def test_the_crafted_images_diverge_more_than_the_start_and_stay_in_the_threat(threat: Threat) -> None:
    model, some = warm().eval(), digits().train.take(20)
    hard = craft(model, diverging(5), some.images, some.labels, threat, seed=3)
    threat.check(hard, some.images)
    start = threat.project(some.images + START * ImageNoise(some.images, 3 * 1009).normal(), some.images)
    with torch.no_grad():
        before, after = (kl_divergence(model(images), model(some.images)) for images in (start, hard))
    assert bool((after > before).all())
    assert float(after.mean()) > 100 * float(before.mean())


def test_a_goal_of_some_samples_keeps_their_references() -> None:
    reference, logits = torch.randn(4, 3), torch.randn(4, 3)
    whole, part = Divergence(torch.arange(4), reference=reference), torch.tensor([3, 1])
    assert torch.equal(whole.take(part)(logits[part]), whole(logits)[part])
    assert whole.take(part).labels.tolist() == [3, 1]


@ADVERSARIAL
def test_draws_belong_to_seed_and_image(objective: str) -> None:
    inner = OBJECTIVES[objective].of(fits(objective, attack_steps=1))
    model, images, truth = linear(), grey(), labels()
    hard = inner.craft(model, images, truth, 5)
    order = torch.tensor([4, 0, 2])
    assert torch.allclose(inner.craft(model, images[order], truth[order], 5), hard[order])
    assert not torch.allclose(inner.craft(model, images, truth, 6), hard)


# The network is left as it was


class Witness(nn.Module):
    """Says how the network stands at each call, and fails on demand."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner, self.fail = model, False
        self.seen: list[tuple[set[bool], bool]] = []

    def forward(self, images: Tensor) -> Tensor:
        states = {module.training for module in self.modules()}
        learning = any(parameter.requires_grad for parameter in self.parameters())
        self.seen.append((states, learning))
        if self.fail:
            raise RuntimeError("no answer")
        out: Tensor = self.inner(images)
        return out


@ADVERSARIAL
@pytest.mark.parametrize("fail", [False, True])
def test_crafting_sees_eval_mode_and_leaves_the_network_as_it_was(objective: str, fail: bool) -> None:
    model, some = Witness(warm().train()), digits().train.take(10)
    norm = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    first = next(model.parameters())
    norm.eval()
    first.requires_grad_(False)
    model.zero_grad(set_to_none=True)
    model.fail = fail
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    inner = OBJECTIVES[objective].of(fits(objective))
    if fail:
        with pytest.raises(RuntimeError, match="no answer"):
            inner.craft(model, some.images, some.labels, 0)
    else:
        hard = inner.craft(model, some.images, some.labels, 0)
        assert not hard.requires_grad
    assert model.seen
    assert all(state == ({False}, False) for state in model.seen)
    assert same(before, model.state_dict())  # BatchNorm's statistics are in it
    assert [module.training for module in model.modules()] == modes
    assert not norm.training
    assert [parameter.requires_grad for parameter in model.parameters()].count(False) == 1
    assert all(parameter.grad is None for parameter in model.parameters())


def test_training_itself_does_move_the_statistics() -> None:
    """The control of the test above: the same images passed in train mode."""
    model, some = warm().train(), digits().train.take(10)
    before = weights(model)
    Madry(Linf(0.1), PGD()).loss(model, some.images, some.images, some.labels)
    assert not same(before, weights(model))


# fit


def trained(objective: str, run: Path | None = None, stop: bool = False, **changes: Any) -> tuple[nn.Module, Any]:
    class Stop(Exception):
        pass

    def tell(report: Any) -> None:
        if stop and report.epoch == 1:
            raise Stop

    model, setting = small("resnet10"), fits(objective, augment="crop-flip", **changes)
    try:
        return model, fit(model, digits().train.take(60), setting, run=run, progress=tell)
    except Stop:
        return model, None


@ADVERSARIAL
def test_interrupted_and_resumed_is_the_same_as_straight_through(objective: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    trained(objective, tmp_path, stop=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-0001", "log.csv"]
    torch.manual_seed(2)
    resumed, history = trained(objective, tmp_path)
    straight, whole = trained(objective)
    assert same(weights(resumed), weights(straight))
    assert numbers(history) == numbers(whole)
    assert load_checkpoint(tmp_path).description.training == fits(objective, augment="crop-flip")
    other, _ = trained(objective, seed=1)
    assert not same(weights(other), weights(straight))


def test_objectives_are_different_trainings() -> None:
    found = [weights(trained(objective)[0]) for objective in ("madry", "trades")]
    found.append(weights(trained("trades", beta=1.0)[0]))
    assert not any(same(found[a], found[b]) for a, b in ((0, 1), (0, 2), (1, 2)))


def test_every_epoch_draws_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []

    class Listening(Madry):
        def craft(self, model: nn.Module, images: Tensor, labels: Tensor, seed: int) -> Tensor:
            seeds.append(seed)
            return super().craft(model, images, labels, seed)

    monkeypatch.setitem(OBJECTIVES, "madry", Listening)
    trained("madry", attack_steps=1)
    trained("madry", attack_steps=1, seed=1)
    assert [len(set(seeds[start : start + 3])) for start in (0, 3, 6, 9)] == [1] * 4  # three batches an epoch
    assert len(set(seeds)) == 4


@pytest.mark.parametrize(("objective", "passes"), [("natural", 1), ("madry", 1), ("trades", 2)])
def test_evaluations_are_those_of_the_passes_learned_from(objective: str, passes: int) -> None:
    setting = config(epochs=1) if objective == "natural" else fits(objective, epochs=1)
    report = fit(small(), digits().train.take(20), setting)[0]
    assert report.evaluations == 6 * passes  # three blocks, two Euler steps each


def test_madry_leaves_more_under_attack_than_natural_training() -> None:
    train, test = digits().train.take(500), digits().test.take(200)
    left, clean = {}, {}
    for name in ("natural", "madry"):
        attacked = {} if name == "natural" else {"threat": "linf:0.1", "attack_steps": 5}
        model = small("resnet10", channels=8)
        fit(model, train, config(objective=name, epochs=8, lr=0.1, batch_size=50, **attacked))
        result = PGD(steps=20, random_start=True).run(model, test.images, test.labels, Linf(0.1))
        left[name], clean[name] = result.accuracy.value, result.natural.value
    assert clean["madry"] > 0.85
    assert left["madry"] > left["natural"] + 0.2


# The config


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (
            {"threat": "linf:0.1"},
            "threat is of objective 'madry', 'trades', 'fast' or 'margin', got 'linf:0.1' with 'natural'",
        ),
        (
            {"attack_steps": 5},
            "attack_steps is of objective 'madry' or 'trades', got 5 with 'natural', which attacks nothing",
        ),
        ({"attack_step_size": 0.1}, "attack_step_size is of objective 'madry', 'trades' or 'fast', got 0.1"),
        ({"beta": 6}, "beta is of objective 'trades', got 6.0 with 'natural'"),
        ({"objective": "madry"}, "objective 'madry' trains against a radius and needs a threat, got none"),
        ({"objective": "trades", "beta": 1}, "objective 'trades' trains against a radius and needs a threat"),
        (
            {"objective": "madry", "threat": "linf:0.1", "beta": 6},
            "beta is of objective 'trades', got 6.0 with 'madry', which has no term to weigh; leave it out",
        ),
        ({"objective": "madry", "threat": "linf:0"}, "eps is 0, expected > 0"),
        ({"objective": "madry", "threat": "linf:-0.1"}, "eps: got -0.1, expected a finite number >= 0"),
        ({"objective": "madry", "threat": "0.1"}, "expected NORM:EPS"),
        ({"objective": "madry", "threat": "l1:0.1"}, "expected linf or l2"),
        ({"objective": "madry", "threat": 0.1}, "valid string"),
        ({"objective": "trades", "threat": "linf:0.1", "beta": 0}, "greater than 0"),
        ({"objective": "trades", "threat": "linf:0.1", "beta": math.inf}, "finite"),
        ({"objective": "trades", "threat": "linf:0.1", "attack_steps": 0}, "greater than 0"),
        ({"objective": "trades", "threat": "linf:0.1", "attack_step_size": 0.0}, "greater than 0"),
    ],
)
def test_settings_that_would_be_ignored_or_are_missing_are_refused(wrong: dict[str, Any], word: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TrainConfig.model_validate(wrong)
    assert word in str(caught.value)


def test_every_objective_of_the_config_is_there_and_travels_through_json() -> None:
    assert set(OBJECTIVES) == {"natural", "madry", "trades", "fast", "margin"}
    setting = TrainConfig(objective="trades", threat="linf:8/255", beta=1)
    assert TrainConfig.model_validate_json(setting.model_dump_json()) == setting
