"""The margin objective: its formula by hand, what it needs, its optimizer, and runs that go on where they stopped."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from safetensors.torch import load_file
from small_runs import ONE_STAGE, config, digits, numbers, same, small, weights
from torch import Tensor, nn

from sonet.certificate import certify
from sonet.models import build
from sonet.solvers import Fixed
from sonet.training import OBJECTIVES, TrainConfig, TrainingError, fit, load_checkpoint, load_model
from sonet.training.objectives import KnowsGaps, Margin
from sonet.training.optimizer import make_optimizer

GAPS = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 1.5], [2.0, 1.5, 0.0]])


class Known(nn.Module):
    """Logits that are its weights, and constants that are given."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits, self.scale = nn.Parameter(logits.clone()), nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        return self.logits

    def gaps(self) -> Tensor:
        return self.scale * GAPS


def fits(**changes: Any) -> TrainConfig:
    return config(**({"objective": "margin", "threat": "l2:0.3"} | changes))


def stable(name: str = "stable-sonet", **options: Any) -> nn.Module:
    solver = Fixed(method="euler", num_steps=1)
    return small(name, **({"solver": solver} | options))


# The loss


def test_the_loss_is_its_formula_by_hand() -> None:
    """Two images: T log(sum over j of exp((z_j + r gap_yj - z_y) / T)), averaged."""
    logits = torch.tensor([[2.0, 1.0, 0.5], [0.0, 0.3, 0.1]])
    loss, given = Margin(radius=0.5, temperature=0.2).loss(Known(logits), GAPS, GAPS, torch.tensor([0, 2]))
    first = 0.2 * math.log(1 + math.exp((1.0 + 0.5 - 2.0) / 0.2) + math.exp((0.5 + 1.0 - 2.0) / 0.2))
    second = 0.2 * math.log(math.exp((0.0 + 1.0 - 0.1) / 0.2) + math.exp((0.3 + 0.75 - 0.1) / 0.2) + 1)
    assert loss.item() == pytest.approx((first + second) / 2, rel=1e-6)
    assert torch.equal(given, logits)  # accuracy is that at the images themselves


@pytest.mark.parametrize("temperature", [0.1, 1.0, 3.0])
def test_without_a_radius_it_is_cross_entropy_at_a_temperature(temperature: float) -> None:
    model, truth = stable().train(), digits().train.take(8)
    loss, logits = Margin(1e-12, temperature).loss(model, truth.images, truth.images, truth.labels)
    expected = temperature * F.cross_entropy(logits / temperature, truth.labels)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_small_temperature_counts_only_what_is_not_certified_yet() -> None:
    """Towards T = 0 it is the largest of z_j + r gap_yj - z_y, and 0 where the label's own logit stays ahead."""
    sure, short = torch.tensor([[5.0, 0.0, 0.0]]), torch.tensor([[0.7, 0.0, 0.0]])
    label = torch.tensor([0])
    objective = Margin(radius=0.5, temperature=0.001)
    assert objective.loss(Known(sure), GAPS, GAPS, label)[0].item() == pytest.approx(0, abs=1e-6)
    assert objective.loss(Known(short), GAPS, GAPS, label)[0].item() == pytest.approx(0.5 * 2 - 0.7, abs=1e-5)


def test_the_constants_learn_too() -> None:
    """Their gradient is r times the probability of each worst logit times its constant, at any temperature."""
    logits = torch.tensor([[2.0, 1.0, 0.5]])
    model = Known(logits)
    loss, _ = Margin(radius=0.5, temperature=0.2).loss(model, GAPS, GAPS, torch.tensor([0]))
    to_logits, to_scale = torch.autograd.grad(loss, (model.logits, model.scale))
    p = torch.softmax((logits + 0.5 * GAPS[:1]) / 0.2, 1)
    torch.testing.assert_close(to_logits, p - torch.tensor([[1.0, 0.0, 0.0]]))
    assert to_scale.item() == pytest.approx(float((0.5 * p * GAPS[:1]).sum()), rel=1e-5)


def test_nothing_is_attacked_and_settings_come_from_the_config() -> None:
    objective = Margin.of(fits())
    assert (objective.radius, objective.temperature) == (0.3, 0.1)
    assert Margin.of(fits(threat="l2:1/4", temperature=2)) == Margin(0.25, 2.0)
    some = digits().train.take(4)
    assert objective.craft(stable(), some.images, some.labels, 0) is some.images


# What it needs


def test_only_networks_that_know_their_constants_can_be_trained_so(tmp_path: Path) -> None:
    for name in ("stable-sonet", "convex-potential"):
        assert isinstance(stable(name), KnowsGaps)
        assert Margin.misfit(stable(name)) == ""
    for name in ("resnet10", "sonet"):
        with pytest.raises(TrainingError, match=r"needs a network that knows its Lipschitz constants, got \w+\. Take"):
            fit(small(name), digits().train.take(20), fits(), run=tmp_path / name)
        assert not (tmp_path / name).exists()
    assert all(OBJECTIVES[name].misfit(small("resnet10")) == "" for name in ("natural", "madry", "trades"))


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"threat": None}, "needs a threat, got none; give one such as threat 'l2:0.25'"),
        ({"threat": "linf:0.1"}, "demands a radius in l2, got linf:0.1; give l2:EPS"),
        ({"threat": "l2:0"}, "eps is 0"),
        ({"beta": 6}, "beta is of objective 'trades', got 6.0 with 'margin', which attacks nothing"),
        ({"attack_steps": 5}, "attack_steps is of objective 'madry' or 'trades', got 5 with 'margin'"),
        ({"attack_step_size": 0.1}, "attack_step_size is of"),
        ({"temperature": 0}, "greater than 0"),
        ({"temperature": math.inf}, "finite"),
        ({"optimizer": "adam"}, "'sgd' or 'adamw'"),
        ({"objective": "natural", "threat": None, "temperature": 1}, "temperature is of objective 'margin', got 1"),
        ({"objective": "trades", "temperature": 0.5}, "temperature is of objective 'margin', got 0.5 with 'trades'"),
    ],
)
def test_settings_that_would_be_ignored_or_are_missing_are_refused(wrong: dict[str, Any], word: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TrainConfig.model_validate({"objective": "margin", "threat": "l2:0.3"} | wrong)
    assert word in str(caught.value)


# The optimizer


@pytest.mark.parametrize(
    ("given", "optimizer", "lr"),
    [
        ({}, "sgd", 0.1),
        ({"objective": "trades", "threat": "l2:1"}, "sgd", 0.1),
        ({"objective": "margin", "threat": "l2:1"}, "adamw", 0.01),
        ({"optimizer": "adamw"}, "adamw", 0.01),
        ({"optimizer": "adamw", "lr": 0.1}, "adamw", 0.1),
        ({"objective": "margin", "threat": "l2:1", "optimizer": "sgd"}, "sgd", 0.1),
        ({"objective": "margin", "threat": "l2:1", "lr": 0.5}, "adamw", 0.5),
        ({"objective": "margin", "threat": "l2:1", "optimizer": "sgd", "lr": 0.2}, "sgd", 0.2),
    ],
)
def test_defaults_fit_the_objective_and_what_is_given_wins(given: dict[str, Any], optimizer: str, lr: float) -> None:
    setting = TrainConfig.model_validate(given)
    assert (setting.optimizer, setting.lr) == (optimizer, lr)
    assert TrainConfig.model_validate_json(setting.model_dump_json()) == setting
    assert TrainConfig(**given) == setting
    made = make_optimizer(stable(), setting)
    assert isinstance(made, torch.optim.AdamW if optimizer == "adamw" else torch.optim.SGD)
    assert made.param_groups[0]["lr"] == lr


def test_settings_reach_the_optimizer() -> None:
    group = make_optimizer(stable(), fits(momentum=0.8, weight_decay=0.03)).param_groups[0]
    assert (group["betas"], group["weight_decay"]) == ((0.8, 0.999), 0.03)
    group = make_optimizer(stable(), fits(optimizer="sgd", momentum=0.7, weight_decay=0.02)).param_groups[0]
    assert (group["momentum"], group["weight_decay"]) == (0.7, 0.02)


# Runs


def trained(run: Path | None = None, stop: bool = False, **changes: Any) -> tuple[nn.Module, Any]:
    class Stop(Exception):
        pass

    def tell(report: Any) -> None:
        if stop and report.epoch == 2:
            raise Stop

    model, setting = stable(), fits(epochs=4, augment="crop-flip", weight_decay=0.01, **changes)
    try:
        return model, fit(model, digits().train.take(60), setting, run=run, progress=tell)
    except Stop:
        return model, None


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_interrupted_and_resumed_is_the_same_as_straight_through(optimizer: str, tmp_path: Path) -> None:
    trained(tmp_path / "cut", stop=True, optimizer=optimizer)
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == ["epoch-0002", "log.csv"]
    torch.manual_seed(7)
    resumed, history = trained(tmp_path / "cut", optimizer=optimizer)
    straight, whole = trained(tmp_path / "straight", optimizer=optimizer)
    assert same(weights(resumed), weights(straight))
    assert numbers(history) == numbers(whole)
    one, other = (load_checkpoint(tmp_path / name) for name in ("cut", "straight"))
    assert same(one.momentum, other.momentum)
    names = dict(straight.named_parameters())
    states = ("step", "exp_avg", "exp_avg_sq")
    expected = {f"{state}:{name}" for state in states for name in names} if optimizer == "adamw" else set(names)
    assert set(one.momentum) == expected
    assert one.description.training == fits(epochs=4, augment="crop-flip", weight_decay=0.01, optimizer=optimizer)
    assert same(weights(load_model(tmp_path / "cut")), weights(straight))


def test_the_number_of_steps_is_kept_with_the_rest(tmp_path: Path) -> None:
    """AdamW corrects its averages by it: forgotten, the next steps would be far too large."""
    trained(tmp_path, stop=True)
    state = load_file(tmp_path / "epoch-0002" / "optimizer.safetensors")
    steps = {float(value) for key, value in state.items() if key.startswith("step:")}
    assert steps == {6.0}  # two epochs of three batches


def test_a_checkpoint_from_before_there_were_optimizers_goes_on(tmp_path: Path) -> None:
    """Its config has neither `optimizer` nor `temperature`: it was SGD."""
    run, split = tmp_path / "run", digits().train.take(40)
    first = small("resnet10")

    def stop(report: Any) -> None:
        if report.epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(first, split, config(), run=run, progress=stop)
    file = run / "epoch-0001" / "checkpoint.json"
    content = json.loads(file.read_text())
    for name in ("optimizer", "temperature"):
        content["training"].pop(name)
    file.write_text(json.dumps(content))
    assert load_checkpoint(run).description.training == config()
    resumed, straight = small("resnet10"), small("resnet10")
    fit(resumed, split, config(), run=run)
    fit(straight, split, config())
    assert same(weights(resumed), weights(straight))


def test_training_for_a_larger_radius_certifies_more_there() -> None:
    train, test = digits().train.take(400), digits().test.take(150)
    far: dict[str, float] = {}
    for threat in ("l2:0.1", "l2:1"):
        model = build("stable-sonet", like=digits(), seed=0, **(ONE_STAGE | {"channels": 8}))
        before, _ = certify(model.eval(), test.images, test.labels, "l2")
        fit(model, train, fits(threat=threat, epochs=8, batch_size=50))
        found, _ = certify(model, test.images, test.labels, "l2")
        assert found.natural.value > 0.8 > before.natural.value
        assert found.at(0.2).value > 0.5 > before.at(0.2).value
        far[threat] = found.at(0.6).value
    assert far["l2:1"] > far["l2:0.1"] + 0.1
