"""All options at once, in mixed precision too: they train, they repeat, and a restart changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import config, digits, numbers, same, small, weights
from torch import nn

from sonet.training import fit, load_checkpoint, load_model

ALL: dict[str, Any] = {
    "objective": "fast",
    "threat": "linf:0.1",
    "alignment": 0.3,
    "watched": 20,
    "average": 0.9,
    "accumulate": 2,
    "kinetic": 0.1,
    "nfe_budget": 100,
    "clip": 0.05,
    "augment": "crop-flip",
    "epochs": 3,
    "lr": 0.05,
}


def trained(run: Path | None = None, stop_in: int | None = None, **changes: Any) -> tuple[nn.Module, Any]:
    class Stop(Exception):
        pass

    def tell(report: Any) -> None:
        if report.epoch + 1 == stop_in:
            raise Stop

    model = small()
    try:
        setting = config(**(ALL | changes))
        return model, fit(model, digits().train.take(50), setting, test=digits().test.take(20), run=run, progress=tell)
    except Stop:
        return model, None


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_restart_changes_nothing(tmp_path: Path, precision: str, optimizer: str) -> None:
    more = {"precision": precision, "optimizer": optimizer}
    straight, whole = trained(tmp_path / "straight", **more)
    trained(tmp_path / "cut", stop_in=3, **more)
    resumed, history = trained(tmp_path / "cut", **more)
    assert same(weights(resumed), weights(straight))
    assert numbers(history) == numbers(whole)
    one, other = (load_checkpoint(tmp_path / name) for name in ("straight", "cut"))
    assert same(one.state, other.state)
    assert same(one.momentum, other.momentum)
    images = digits().test.take(8).images
    with torch.no_grad():
        assert torch.equal(straight(images), load_model(tmp_path / "cut")(images))


def test_half_precision_was_used_and_is_near() -> None:
    full, half = trained()[1], trained(precision="bf16")[1]
    assert numbers(full) != numbers(half)
    for one, other in zip(full, half, strict=True):
        assert other.loss == pytest.approx(one.loss, rel=0.05)
        assert other.kinetic == pytest.approx(one.kinetic, rel=0.05)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_clipping_bounds_the_step_of_all_parts_together(precision: str) -> None:
    """One plain step moves the weights by lr * gradient, so by no more than lr * clip, however many parts there are."""
    moved = []
    for clip in (0.01, 1e6):
        model = small()
        before = weights(model)
        once = {"epochs": 1, "batch_size": 50, "lr": 1.0, "momentum": 0.0, "schedule": "constant", "average": None}
        setting = config(**(ALL | once | {"clip": clip, "precision": precision}))
        report = fit(model, digits().train.take(50), setting)[0]
        after = weights(model)
        moved.append(torch.sqrt(sum(((after[key] - before[key]) ** 2).sum() for key in before)).item())
        assert report.clipped == (1 if clip == 0.01 else 0)
        assert report.skipped == 0
    assert moved[0] == pytest.approx(0.01, rel=1e-3)
    assert moved[1] > 0.02


@pytest.mark.parametrize("option", ["alignment", "average", "accumulate", "kinetic", "clip"])
def test_each_option_has_its_effect(option: str) -> None:
    """On a network with BatchNorm, where parts of a batch are seen too, or with ODE blocks for the kinetic energy."""
    off: dict[str, Any] = {"accumulate": 1}
    found = []
    for changes in ({}, {option: off.get(option)}):
        model = small() if option == "kinetic" else small("resnet10")
        setting = ALL | changes | {"epochs": 2}
        if option != "kinetic":
            setting |= {"kinetic": None, "nfe_budget": None}
        fit(model, digits().train.take(50), config(**setting))
        found.append(weights(model))
    assert not same(*found)


def test_training_takes_nothing_from_the_global_generator() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    trained(epochs=1)
    assert torch.equal(torch.random.get_rng_state(), before)
