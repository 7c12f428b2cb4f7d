"""A batch in parts is the whole batch, where samples do not depend on their batch-mates; elsewhere it is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from small_runs import EULER, config, digits, same, small, weights
from torch import Tensor, nn

from sonet.solvers import Adaptive
from sonet.training import TrainConfig, TrainingError, fit

OBJECTIVES: dict[str, dict[str, Any]] = {
    "natural": {},
    "madry": {"threat": "linf:0.1", "attack_steps": 2},
    "trades": {"threat": "l2:0.5", "attack_steps": 2},
    "fast": {"threat": "linf:0.1", "alignment": 0.5, "watched": 10},
    "margin": {"threat": "l2:0.1", "optimizer": "sgd"},
}


class Double(nn.Module):
    """The network in float64 behind float32 images, so that rounding does not hide what differs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = model.double()
        self.sizes: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.sizes.append(len(images))
        out: Tensor = self.inner(images.double())
        return out

    def gaps(self) -> Tensor:
        out: Tensor = self.inner.gaps()  # type: ignore[operator,union-attr]
        return out


def trained(accumulate: int, model: nn.Module, **changes: Any) -> Any:
    doubled = Double(model)
    setting = config(**({"accumulate": accumulate, "lr": 0.05, "epochs": 2} | changes))
    return doubled, fit(doubled, digits().train.take(50), setting)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("parts", [3, 4])
def test_parts_are_the_whole(objective: str, parts: int) -> None:
    """Two epochs of batches of 20, 20 and 10 images, which neither 3 nor 4 divides."""
    changes = {"objective": objective, "clip": 0.5, "weight_decay": 1e-3, "average": 0.9} | OBJECTIVES[objective]
    name = "stable-sonet" if objective == "margin" else "sonet"
    (whole, history), (split, other) = (trained(k, small(name), **changes) for k in (1, parts))
    assert max(split.sizes) <= -(-20 // parts) < max(whole.sizes)
    for key, value in weights(split).items():
        torch.testing.assert_close(value, whole.state_dict()[key], rtol=1e-6, atol=1e-8, msg=key)
    for one, two in zip(history, other, strict=True):
        assert two.loss == pytest.approx(one.loss, rel=1e-6)
        assert two.train_accuracy == one.train_accuracy
        assert (two.evaluations, two.clipped) == (one.evaluations, one.clipped)


def test_kinetic_energy_of_parts_is_that_of_the_whole() -> None:
    (whole, history), (split, other) = (trained(k, small(solver=EULER), kinetic=0.3) for k in (1, 3))
    for key, value in weights(split).items():
        torch.testing.assert_close(value, whole.state_dict()[key], rtol=1e-6, atol=1e-8)
    assert [epoch.kinetic for epoch in other] == pytest.approx([epoch.kinetic for epoch in history], rel=1e-6)


def test_parts_have_two_images_at_least() -> None:
    model, _ = trained(10, small(), epochs=1)
    assert sorted(model.sizes) == [2] * 25
    model, _ = trained(4, small(), epochs=1, batch_size=8)
    assert sorted(model.sizes) == [2] * 25  # six batches of four parts, and one of 2 images


def test_batch_statistics_are_a_parts_own() -> None:
    """The control: where samples do depend on their batch-mates, parts are another training."""
    (whole, _), (split, _) = (trained(k, small("resnet10")) for k in (1, 4))
    key = next(name for name, _ in whole.named_parameters())
    assert not torch.allclose(whole.state_dict()[key], split.state_dict()[key], rtol=1e-4)


@pytest.mark.parametrize("scope", ["batch", 2])
def test_shared_steps_are_refused(scope: Any) -> None:
    model = small(solver=Adaptive(scope=scope))
    before = weights(model)
    with pytest.raises(TrainingError, match=r"its 2 parts would each share.*scope='sample', or accumulate=1"):
        fit(model, digits().train.take(20), config(accumulate=2))
    assert same(weights(model), before)


def test_too_many_parts_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"parts of less than two images .* give batch_size >= 22"):
        config(accumulate=11)
    with pytest.raises(ValidationError, match="greater than 0"):
        TrainConfig(accumulate=0)
