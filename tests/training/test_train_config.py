"""The schedules against hand-computed values, and what a config refuses."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from pydantic import ValidationError

from sonet.training import TrainConfig, paper_training

CYCLE = TrainConfig(schedule="one-cycle", lr=0.2)


@pytest.mark.parametrize(
    ("epoch", "rate"), [(0, 0.01), (149, 0.01), (150, 0.001), (299, 0.001), (300, 1e-5), (349, 1e-5)]
)
def test_the_papers_milestones(epoch: int, rate: float) -> None:
    assert paper_training().learning_rate(epoch / 350) == pytest.approx(rate, rel=1e-12)


def test_the_papers_milestones_are_met_between_batches_too() -> None:
    last_of_149 = (149 + 499 / 500) / 350
    assert paper_training().learning_rate(last_of_149) == pytest.approx(0.01)


def test_paper_training_is_the_papers() -> None:
    setting = paper_training()
    assert (setting.lr, setting.momentum, setting.weight_decay, setting.batch_size, setting.epochs) == (
        0.01,
        0.9,
        0.0,
        100,
        350,
    )
    assert paper_training(epochs=3, seed=7) == setting.model_copy(update={"epochs": 3, "seed": 7})


@pytest.mark.parametrize(
    ("progress", "share"),
    [
        (0.0, 0.1),
        (0.15, 0.55),  # half-way up
        (0.3, 1.0),
        (0.65, 0.001 + 0.999 / 2),  # half-way down
        (1.0, 0.001),
    ],
)
def test_one_cycle_at_its_ends_peak_and_middles(progress: float, share: float) -> None:
    assert CYCLE.learning_rate(progress) == pytest.approx(0.2 * share, rel=1e-12)


def test_one_cycle_rises_then_falls_without_a_jump() -> None:
    rates = [CYCLE.learning_rate(i / 1000) for i in range(1001)]
    assert all(a < b for a, b in pairwise(rates[:301]))
    assert all(a > b for a, b in pairwise(rates[300:]))
    assert max(abs(a - b) for a, b in pairwise(rates)) < 0.2 * 0.004


def test_constant() -> None:
    assert {TrainConfig(schedule="constant", lr=0.3).learning_rate(i / 7) for i in range(8)} == {0.3}


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"epoch": 3}, "Extra inputs"),
        ({"epochs": 0}, "greater than 0"),
        ({"epochs": 1.5}, "valid integer"),
        ({"batch_size": -1}, "greater than 0"),
        ({"lr": 0.0}, "greater than 0"),
        ({"lr": -0.1}, "greater than 0"),
        ({"lr": math.inf}, "finite"),
        ({"lr": math.nan}, "finite"),
        ({"momentum": 1.0}, "less than 1"),
        ({"momentum": -0.1}, "greater than or equal"),
        ({"weight_decay": -1e-4}, "greater than or equal"),
        ({"weight_decay": math.inf}, "finite"),
        ({"clip": 0.0}, "greater than 0"),
        ({"clip": math.inf}, "finite"),
        ({"schedule": "cosine"}, "one-cycle"),
        ({"augment": "flip"}, "crop-flip"),
        ({"objective": "pgd"}, "'natural', 'madry', 'trades', 'fast' or 'margin'"),
        ({"seed": -1}, "greater than or equal"),
        ({"seed": 2**64}, "less than"),
        ({"precision": "fp8"}, "bf16"),
        ({"device": "cuda:7"}, "cpu"),
    ],
)
def test_bad_settings_are_refused(wrong: dict[str, Any], word: str) -> None:
    with pytest.raises(ValidationError, match=word):
        TrainConfig.model_validate(wrong)


def test_configs_do_not_change_and_travel_through_json() -> None:
    setting = paper_training(augment="crop-flip", clip=2.0)
    with pytest.raises(ValidationError, match="frozen"):
        setting.lr = 1.0
    assert TrainConfig.model_validate_json(setting.model_dump_json()) == setting
