"""Catastrophic overfitting: when training stops, which weights it leaves, and that a restart changes neither."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import config, digits, numbers, same, small, weights
from torch import nn

from sonet.attacks import PGD, Linf
from sonet.training import EpochReport, deployed, fit, load_checkpoint, load_model
from sonet.training.collapse import Watch, best

FALLS = ((0.3, 0.2), (0.6, 0.5), (0.7, 0.5), (0.9, 0.1), (0.9, 0.6))
"""At one-step images and under PGD: best in the third epoch, the later of equals; a collapse in the fourth."""


def watch(collapse: float = 0.2, n: int = 20) -> Watch:
    train = digits().train.take(n)
    return Watch.of(config(objective="fast", threat="linf:0.1", collapse=collapse), train, Linf(0.1), step())


def step() -> PGD:
    return PGD(steps=1, step_size=0.125, random_start=True, keep="last")


def past(pairs: Sequence[tuple[float, float]]) -> tuple[EpochReport, ...]:
    common: dict[str, Any] = {"loss": 1.0, "train_accuracy": 0.5, "test_accuracy": None, "evaluations": 0.0}
    common |= {"learning_rate": 0.1, "seconds": 1.0}
    return tuple(
        EpochReport(epoch=number, watched_step=one, watched_pgd=pgd, **common)
        for number, (one, pgd) in enumerate(pairs, start=1)
    )


@pytest.mark.parametrize(
    ("pairs", "collapsed"),
    [
        (((0.5, 0.5),), False),
        (((0.5, 0.5), (0.9, 0.25)), True),
        (((0.5, 0.5), (0.9, 0.3)), False),  # by 0.2, not by more
        (((0.5, 0.5), (0.25, 0.25)), False),  # everything fell: a bad epoch
        (((0.5, 0.5), (0.35, 0.25)), True),
        (((0.9, 0.5), (0.5, 0.45), (0.6, 0.2)), False),  # below the best one-step accuracy, too
        (((0.5, 0.5), (0.6, 0.4), (0.7, 0.29)), True),  # slowly, in two epochs
    ],
)
def test_a_collapse_is_a_fall_under_pgd_alone(pairs: Any, collapsed: bool) -> None:
    assert watch().collapsed(past(pairs)) is collapsed
    assert not watch(collapse=1.0).collapsed(past(pairs))


def test_the_best_epoch_is_the_later_of_equals() -> None:
    assert best(past(FALLS[:4])).epoch == 3


def test_the_accuracies_are_those_of_the_suites_attacks() -> None:
    model, some = small("resnet10"), digits().train.take(30)
    fit(model, digits().train.take(100), config(epochs=8, lr=0.2))
    model.train()
    before = weights(model)
    found = watch(n=30).judge(model)
    assert all(module.training for module in model.modules())
    assert same(before, weights(model))
    pgd = PGD(steps=10, step_size=0.1 / 4, random_start=True, keep="last")
    expected = []
    for attack in (step(), pgd):
        result = attack.run(model.eval(), some.images, some.labels, Linf(0.1))
        expected.append(float((result.predictions == some.labels).float().mean()))
    assert found == pytest.approx(tuple(expected))
    assert 0 < found[1] < found[0]


def test_it_watches_the_first_training_images() -> None:
    setting = config(objective="fast", threat="linf:0.1")
    for n, watched in ((300, 200), (50, 50)):
        train = digits().train.take(n)
        assert torch.equal(Watch.of(setting, train, Linf(0.1), step()).split.images, train.images[:watched])


# Training that stops


def scripted(monkeypatch: pytest.MonkeyPatch, pairs: Sequence[tuple[float, float]]) -> list[dict[str, Any]]:
    """Judgements as in `pairs`, by the epoch; the weights judged are noted."""
    seen: list[dict[str, Any]] = []

    def judge(self: Watch, model: nn.Module) -> tuple[float, float]:
        seen.append(weights(model))
        return pairs[len(seen) - 1]

    monkeypatch.setattr(Watch, "judge", judge)
    return seen


def train(run: Path | None = None, stop_in: int | None = None, **changes: Any) -> tuple[nn.Module, Any]:
    class Stop(Exception):
        pass

    def tell(report: Any) -> None:
        if report.epoch + 1 == stop_in:
            raise Stop

    model = small("resnet10")
    setting = config(**({"objective": "fast", "threat": "linf:0.1", "epochs": 6, "lr": 0.05} | changes))
    try:
        history = fit(model, digits().train.take(40), setting, test=digits().test.take(20), run=run, progress=tell)
    except Stop:
        return model, None
    return model, history


@pytest.mark.parametrize("average", [None, 0.9])
def test_it_stops_and_keeps_the_best_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, average: float | None
) -> None:
    seen = scripted(monkeypatch, FALLS)
    model, history = train(tmp_path, average=average)
    assert [epoch.kept for epoch in history] == [None, None, None, 3]
    assert [(epoch.watched_step, epoch.watched_pgd) for epoch in history] == list(FALLS[:4])
    assert deployed(history) is history[2]
    assert same(weights(model), seen[2])
    assert not same(seen[2], seen[3])
    assert same(weights(load_model(tmp_path)), seen[2])
    batches: list[Any] = []
    again = small("resnet10")
    setting = load_checkpoint(tmp_path).description.training
    repeated = fit(again, digits().train.take(40), setting, run=tmp_path, progress=batches.append)
    assert not batches  # a run that stopped has ended
    assert repeated == history
    assert same(weights(again), seen[2])


@pytest.mark.parametrize("average", [None, 0.9])
@pytest.mark.parametrize("stop_in", [2, 3, 4])
def test_interrupted_before_it_stops_it_ends_with_the_same_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stop_in: int, average: float | None
) -> None:
    scripted(monkeypatch, FALLS)
    straight, whole = train(average=average)
    scripted(monkeypatch, FALLS[: stop_in - 1])
    train(tmp_path, stop_in=stop_in, average=average)
    assert len(load_checkpoint(tmp_path).description.history) == stop_in - 1
    scripted(monkeypatch, FALLS[stop_in - 1 :])
    resumed, history = train(tmp_path, average=average)
    assert numbers(history) == numbers(whole)
    assert same(weights(resumed), weights(straight))


def test_without_a_collapse_the_last_weights_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = scripted(monkeypatch, [(0.5, 0.5), (0.5, 0.4), (0.5, 0.45)])
    model, history = train(epochs=3)
    assert deployed(history) is history[-1]
    assert history[-1].kept is None
    assert same(weights(model), seen[-1])


def test_a_history_without_epochs_has_nothing_deployed() -> None:
    with pytest.raises(ValueError, match="without epochs, expected one at least"):
        deployed(())
