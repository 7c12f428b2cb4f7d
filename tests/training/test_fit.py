"""Training learns, repeats itself, reports what it did and leaves everything else alone."""

from __future__ import annotations

import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import config, digits, numbers, same, small, weights
from torch import nn

from sonet.attacks import predict
from sonet.models import build
from sonet.solvers import Adaptive, paper
from sonet.training import BatchReport, TrainConfig, TrainingError, fit, load_model


def few(n: int = 60) -> Any:
    return digits().train.take(n)


@pytest.mark.parametrize(("name", "options", "batch"), [("resnet10", {}, 25), ("sonet", {"channels": 8}, 10)])
def test_it_learns_digits(name: str, options: dict[str, Any], batch: int) -> None:
    model, test = small(name, **options), digits().test.take(200)
    history = fit(model, few(300), config(epochs=4, batch_size=batch, lr=0.3), test=test)
    assert all(later.loss < earlier.loss for earlier, later in pairwise(history))
    assert history[-1].loss < 0.6 * history[0].loss
    # Chance is 0.1; guessing gets more than 0.2 of 200 right once in 100,000.
    assert history[-1].train_accuracy > 0.5
    judged = float((predict(model, test.images, batch) == test.labels).float().mean())
    assert history[-1].test_accuracy == pytest.approx(judged)
    assert judged > 0.4


@pytest.mark.parametrize("options", [{}, {"augment": "crop-flip"}])
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(options: dict[str, Any]) -> None:
    runs = []
    for seed in (1, 1, 2):
        model = small()
        history = fit(model, few(), config(epochs=1, seed=seed, **options))
        runs.append((weights(model), numbers(history)))
    assert same(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]
    assert not same(runs[0][0], runs[2][0])


def test_dropout_is_seeded() -> None:
    runs = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        model = build("wide-resnet", like=digits(), seed=0, depth=10, widen=1, dropout=0.5)
        fit(model, few(20), config(epochs=1))
        runs.append(weights(model))
    assert same(*runs)


def test_augmentation_changes_what_is_learned() -> None:
    models = [small(), small()]
    for model, augment in zip(models, ("none", "crop-flip"), strict=True):
        fit(model, few(), config(epochs=1, augment=augment))
    assert not same(*(weights(model) for model in models))


def test_the_order_differs_between_epochs() -> None:
    losses: list[float] = []
    # A rate this small changes nothing in float32: the same batches would give the same losses.
    fit(small(), few(), config(lr=1e-30, schedule="constant"), progress=lambda report: losses.append(report.loss))
    assert len(losses) == 6
    assert losses[:3] != losses[3:]
    assert sum(losses[:3]) == pytest.approx(sum(losses[3:]), rel=1e-5)


def test_history_and_progress_say_what_happened() -> None:
    setting, seen = config(epochs=2, lr=0.2, seed=4), list[BatchReport]()
    history = fit(small(), few(50), setting, test=digits().test.take(30), progress=seen.append)
    assert [epoch.epoch for epoch in history] == [1, 2]
    assert [(r.epoch, r.epochs, r.batch, r.batches) for r in seen] == [(e, 2, b, 3) for e in (0, 1) for b in range(3)]
    for number, epoch in enumerate(history):
        parts = seen[3 * number : 3 * number + 3]
        sizes = (20, 20, 10)
        assert epoch.loss == pytest.approx(sum(r.loss * n for r, n in zip(parts, sizes, strict=True)) / 50)
        assert epoch.train_accuracy == pytest.approx(
            sum(r.accuracy * n for r, n in zip(parts, sizes, strict=True)) / 50
        )
        assert epoch.learning_rate == pytest.approx(setting.learning_rate((number + 2 / 3) / 2))
        assert epoch.test_accuracy is not None
        assert (epoch.test_accuracy * 30) == pytest.approx(round(epoch.test_accuracy * 30), abs=1e-4)
        assert epoch.seconds > 0


def test_without_test_images_nothing_is_judged() -> None:
    assert fit(small(), few(20), config(epochs=1))[0].test_accuracy is None


def test_evaluations_of_fields_are_counted() -> None:
    fixed = fit(small(), few(40), config(epochs=1))[0].evaluations
    assert fixed == 6  # three blocks, two Euler steps each
    assert fit(small("resnet10"), few(40), config(epochs=1))[0].evaluations == 0
    adaptive = fit(small(channels=2, solver=paper()), few(40), config(epochs=1))[0].evaluations
    # dopri5 needs two evaluations to choose its first step and six for each step, in three blocks.
    assert adaptive >= 3 * 8


def test_the_model_is_left_on_the_cpu_in_eval_mode() -> None:
    model = small("resnet10")
    fit(model, few(20), config(epochs=1))
    assert not any(module.training for module in model.modules())
    assert all(tensor.device.type == "cpu" for tensor in model.state_dict().values())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_global_random_numbers_are_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    fit(small(), few(40), config(epochs=1, augment="crop-flip"), test=digits().test.take(10))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_clip_bounds_the_gradient() -> None:
    """One plain step moves the weights by lr * gradient, so by no more than lr * clip."""
    moved = []
    for clip in (None, 0.01):
        model = small()
        before = weights(model)
        fit(model, few(20), config(epochs=1, lr=1.0, momentum=0.0, schedule="constant", clip=clip))
        after = weights(model)
        moved.append(torch.sqrt(sum(((after[key] - before[key]) ** 2).sum() for key in before)).item())
    assert moved[0] > 0.02
    assert moved[1] == pytest.approx(0.01, rel=1e-3)


def test_a_last_batch_of_one_image_is_left_out() -> None:
    """BatchNorm cannot take it where pooling leaves one pixel: 1,297 digits in batches of 16 end in one."""
    model = small("resnet10", channels=2, blocks=(1, 1, 1, 1), strides=(1, 2, 2, 2))
    sizes: list[float] = []
    fit(model, few(41), config(epochs=1), progress=lambda report: sizes.append(report.batches))
    assert sizes == [2, 2]


def test_too_few_images_are_refused() -> None:
    with pytest.raises(TrainingError, match="1 images in batches of 20"):
        fit(small(), few(1), config())


def _spoil(model: nn.Module, epoch: int, batch: int) -> Any:
    def spoil(report: BatchReport) -> None:
        if (report.epoch, report.batch) == (epoch, batch):
            with torch.no_grad():
                next(model.parameters()).fill_(torch.nan)

    return spoil


def test_a_loss_that_is_not_finite_ends_training_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    model = small()
    with pytest.raises(TrainingError, match=re.escape("loss became nan in epoch 2, batch 2 of 3")) as caught:
        fit(model, few(), config(), run=tmp_path, progress=_spoil(model, 1, 0))
    assert "learning rate" in str(caught.value)
    kept = load_model(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-0001", "log.csv"]
    assert all(bool(torch.isfinite(tensor).all()) for tensor in kept.state_dict().values())


def test_weights_that_break_in_the_last_step_do_not_replace_the_checkpoint(tmp_path: Path) -> None:
    model = small()
    with pytest.raises(TrainingError, match="epoch 2"):
        fit(model, few(), config(), run=tmp_path, progress=_spoil(model, 1, 2))
    kept = load_model(tmp_path)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in kept.state_dict().values())


def test_a_learning_rate_that_is_too_large_is_an_error_not_a_result() -> None:
    with pytest.raises(TrainingError, match="epoch 1"):
        fit(small("resnet10"), few(), config(lr=1e30, schedule="constant"))


def test_mixed_precision_ends_with_training(tmp_path: Path) -> None:
    """An attack on the trained network must see the same float32 network as one on its checkpoint."""
    model, images = small("resnet10"), digits().test.take(8).images
    fit(model, few(40), config(epochs=1, precision="bf16"), run=tmp_path)
    with torch.no_grad():
        assert torch.equal(model(images), load_model(tmp_path)(images))
    plain = small("resnet10")
    fit(plain, few(40), config(epochs=1))
    assert not same(weights(plain), weights(model))  # bf16 was used
    other = small("resnet10")
    fit(other, few(40), config(epochs=1))  # and does not linger
    assert same(weights(plain), weights(other))


def test_fp16_is_refused_where_it_would_be_ignored() -> None:
    with pytest.raises(TrainingError, match="fp16"):
        fit(small(), few(20), config(precision="fp16"))


@pytest.mark.parametrize("scope", ["batch", 2])
def test_shared_steps_are_refused_in_several_processes(scope: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Two:
        num_processes, process_index = 2, 0

    monkeypatch.setattr(sys.modules["sonet.training.fit"], "_accelerator", lambda _: Two())
    model = small(solver=Adaptive(scope=scope))
    before = weights(model)
    with pytest.raises(TrainingError, match=r"2 processes.*scope='sample'"):
        fit(model, few(20), TrainConfig(epochs=1))
    assert same(weights(model), before)
