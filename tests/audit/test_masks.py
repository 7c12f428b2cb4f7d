"""Each mask: what it does to the forward pass, what to the gradient, and that the gradient's attack is misled by it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn
from torch import Tensor, nn

import sonet
from sonet.attacks import APGD, PGD, Linf, cross_entropy, margin
from sonet.attacks.losses import log_odds
from sonet.audit import own_gradient_share
from sonet.audit.masks import (
    LUMINANCE,
    MATES_WAVE,
    PHASE_WAVE,
    WAVE,
    BatchMates,
    JPEGStep,
    RandomPhase,
    SaturatedLogits,
    Shattering,
    SureSoftmax,
    WrongBackward,
    fixed_signs,
)
from sonet.audit.networks import plain
from sonet.audit.planted import MASK_EPS, MASKS, Linear
from sonet.training import TrainConfig

COLOUR = (3, 17, 19)
WAYS = list(MASKS)


def drawn(n: int, shape: tuple[int, int, int] = (1, 8, 8), seed: int = 0) -> Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def gradient(model: Any, images: Tensor, labels: Tensor, loss: Any = margin) -> Tensor:
    leaf = images.clone().requires_grad_(True)
    value = loss(model(leaf), labels).sum()
    if not value.requires_grad:
        return torch.zeros_like(leaf)
    return torch.autograd.grad(value, leaf, allow_unused=True, materialize_grads=True)[0]


def alike_signs(one: Tensor, other: Tensor) -> float:
    return float((one.sign() == other.sign()).double().mean())


@pytest.fixture(name="linear")
def _linear() -> tuple[Linear, Tensor, Tensor]:
    """Images away from the faces of the box, each with the class it has."""
    model, images = Linear.random(10), 0.1 + 0.8 * drawn(24)
    return model, images, model(images).argmax(1)


@pytest.fixture(name="digits", scope="module")
def _digits() -> sonet.data.Dataset:
    return sonet.load("digits")


@pytest.fixture(name="trained", scope="module")
def _trained(digits: sonet.data.Dataset) -> nn.Module:
    model = plain(seed=9)
    sonet.fit(model, digits.train, TrainConfig(epochs=15, lr=0.1, device="cpu"))
    return model


def left(model: Any, images: Tensor, labels: Tensor) -> float:
    """What PGD and APGD on cross-entropy leave, with the model's own gradient in one batch."""
    threat = Linf(MASK_EPS)
    attacks = PGD(steps=30, step_size=MASK_EPS / 10), APGD(steps=30, loss="ce")
    fooled = [attack.run(model, images, labels, threat).fooled for attack in attacks]
    return float((~torch.stack(fooled).any(0)).double().mean())


@pytest.mark.parametrize("way", WAYS)
def test_a_mask_keeps_what_the_network_says_of_digits(way: str, digits: sonet.data.Dataset, trained: nn.Module) -> None:
    images, labels = digits.test.images[:200], digits.test.labels[:200]
    model = MASKS[way](trained)
    assert not any(part.training for part in model.modules())
    with torch.no_grad():
        own, masked = trained(images).argmax(1), model(images).argmax(1)
    assert float((masked == labels).double().mean()) >= 0.9
    assert float((masked == own).double().mean()) >= 0.95


@pytest.mark.parametrize("way", WAYS)
def test_the_masks_own_gradient_leaves_thirty_points_more_than_the_networks(
    way: str, digits: sonet.data.Dataset, trained: nn.Module
) -> None:
    """The base's own attack is the yardstick: its images fool the masked network too, which predicts the same."""
    images, labels = digits.test.images[:40], digits.test.labels[:40]
    model = MASKS[way](trained)
    assert left(model, images, labels) >= left(trained, images, labels) + 0.3
    moved = APGD(steps=30).run(model, images, labels, Linf(MASK_EPS), gradients_from=trained)
    assert moved.accuracy.value <= left(trained, images, labels) + 0.3


@pytest.mark.parametrize("way", WAYS)
def test_masks_take_colour_images_of_any_size(way: str) -> None:
    images, model = drawn(5, COLOUR), MASKS[way](plain(COLOUR, 4).eval())
    assert model(images).shape == (5, 4)
    assert gradient(model, images, torch.arange(5) % 4).shape == images.shape
    with torch.no_grad():
        assert model(images.double()[:0].float()).shape == (0, 4)


def test_random_phase_moves_little_and_its_gradient_is_right_on_average_only(linear: Any) -> None:
    model, images, labels = linear
    seen: list[Tensor] = []
    RandomPhase(seen.append)(images)  # type: ignore[arg-type]
    moved = seen[0] - images
    assert moved.abs().max() <= PHASE_WAVE + 1e-6
    assert float(moved.std()) == pytest.approx(PHASE_WAVE / 2**0.5, rel=0.05)

    noisy, true = RandomPhase(model, seed=3), gradient(model, images, labels)
    calls = [gradient(noisy, images, labels) for _ in range(600)]
    assert alike_signs(calls[0], true) == pytest.approx(0.5, abs=0.06)
    assert alike_signs(torch.stack(calls[:30]).mean(0), true) < 0.75
    assert alike_signs(torch.stack(calls).mean(0), true) > 0.8


def test_random_phase_is_a_stream_of_its_seed(linear: Any) -> None:
    model, images, _ = linear
    one, same, other = (RandomPhase(model, seed=seed) for seed in (1, 1, 2))
    first, second = one(images), one(images)
    assert torch.equal(same(images), first)
    assert not torch.equal(first, second)
    assert not torch.equal(other(images), first)


def test_batch_mates_move_logits_by_the_amplitude_at_most_and_a_batch_of_one_not_at_all(linear: Any) -> None:
    model, images, labels = linear
    mates = BatchMates(model)
    change = mates(images) - model(images)
    assert change.abs().max() <= MATES_WAVE + 1e-4
    assert change.abs().max() > MATES_WAVE / 2
    for one, label in zip(images.split(1), labels.split(1), strict=True):
        assert torch.equal(mates(one), model(one))
        assert torch.equal(gradient(mates, one, label), gradient(model, one, label))


def test_the_term_of_batch_mates_is_that_of_the_others_by_hand(linear: Any) -> None:
    model, images, _ = linear
    images = images[:3].double()
    features = [float((image * fixed_signs(images, 5)).mean()) for image in images]
    got = BatchMates(model, amplitude=0.2, frequency=7.0, seed=5)(images) - model(images)
    for i in range(3):
        wave = 0.2 * np.sin(7.0 * (sum(features) - features[i]))
        torch.testing.assert_close(got[i], wave * torch.linspace(-1, 1, 10).double(), atol=1e-6, rtol=1e-6)


def test_the_gradient_among_batch_mates_is_nearly_all_theirs(digits: sonet.data.Dataset, trained: nn.Module) -> None:
    images, labels = digits.test.images[:64], digits.test.labels[:64]
    torch.testing.assert_close(own_gradient_share(trained, images, labels).min(), torch.tensor(1.0), atol=1e-3, rtol=0)
    assert own_gradient_share(BatchMates(trained), images, labels).median() < 0.01
    assert own_gradient_share(BatchMates(trained), images, labels, loss=margin).median() < 0.3


def test_saturated_logits_have_no_cross_entropy_but_a_margin(linear: Any) -> None:
    model, images, labels = linear
    sure = SaturatedLogits(model)
    torch.testing.assert_close(sure(images), 1e4 * model(images))
    assert margin(sure(images), labels).max() < -104
    assert (cross_entropy(sure(images), labels) == 0).all()
    assert (gradient(sure, images, labels, cross_entropy) == 0).all()
    for loss in (margin, log_odds):
        assert alike_signs(gradient(sure, images, labels, loss), gradient(model, images, labels, margin)) > 0.99


def test_a_sure_softmax_is_flat_to_every_loss_in_float32_and_not_in_float64(linear: Any) -> None:
    _, images, labels = linear
    model = Linear(*(part * 4 for part in (linear[0].weight, linear[0].bias)))
    gap = -margin(model(images), labels)
    chosen = (gap > 104 / 40) & (gap < 700 / 40)
    assert int(chosen.sum()) >= 8
    images, labels, sure = images[chosen], labels[chosen], SureSoftmax(model)
    assert set(sure(images).unique().tolist()) == {0.0, 1.0}
    for loss in (cross_entropy, margin, log_odds):
        assert (gradient(sure, images, labels, loss) == 0).all()
    exact = Linear(model.weight.double(), model.bias.double())
    fine = gradient(SureSoftmax(exact), images.double(), labels)
    assert fine.flatten(1).any(1).all()
    # The label's 1 is exact there too, so that only the slope of the runner-up's logit is left.
    second = exact(images.double()).topk(2).indices[:, 1]
    assert alike_signs(fine.flatten(1), exact.weight[second]) > 0.99


def by_scipy(channel: np.ndarray, quality: int) -> np.ndarray:
    """One channel in [0, 1], block by block, with libjpeg's scale of the table."""
    scale = 5000 // quality if quality < 50 else 200 - quality * 2
    table = np.clip((np.array(LUMINANCE) * scale + 50) // 100, 1, 255)
    height, width = channel.shape
    padded = np.pad(channel, ((0, -height % 8), (0, -width % 8)), mode="edge") * 255 - 128
    out = np.empty_like(padded)
    for top in range(0, padded.shape[0], 8):
        for start in range(0, padded.shape[1], 8):
            place = slice(top, top + 8), slice(start, start + 8)
            out[place] = idctn(np.round(dctn(padded[place], norm="ortho") / table) * table, norm="ortho")
    return np.clip((out[:height, :width] + 128) / 255, 0, 1)


@pytest.mark.parametrize("quality", [5, 50, 92, 100])
@pytest.mark.parametrize("shape", [(1, 8, 8), COLOUR, (1, 28, 28), (2, 3, 5)])
def test_jpeg_is_the_transform_of_scipy(shape: tuple[int, int, int], quality: int) -> None:
    images = drawn(3, shape, seed=quality).double()
    got = JPEGStep(nn.Identity(), quality).compressed(images)
    expected = np.stack([[by_scipy(channel, quality) for channel in image] for image in images.numpy()])
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-12)


def test_jpeg_has_no_gradient_and_is_nearer_with_quality() -> None:
    images = drawn(4, COLOUR)
    far = [
        float((JPEGStep(nn.Identity(), quality).compressed(images) - images).abs().mean()) for quality in (5, 50, 95)
    ]
    assert far == sorted(far, reverse=True)
    assert far[-1] < 0.03
    assert (gradient(JPEGStep(plain(COLOUR).eval()), images, torch.arange(4)) == 0).all()
    for quality in (0, 101):
        with pytest.raises(ValueError, match=f"got quality {quality}, expected 1 to 100"):
            JPEGStep(nn.Identity(), quality)


def test_shattering_moves_little_and_multiplies_the_slope(linear: Any) -> None:
    model, images, labels = linear
    assert (Shattering(nn.Identity())(images) - images).abs().max() <= WAVE + 1e-6
    got = gradient(Shattering(model, 0.02, 500.0), images.double(), labels)
    slope = 1 + 0.02 * 500 * torch.cos(500.0 * images.double())
    torch.testing.assert_close(got, gradient(model, images.double(), labels) * slope)
    # cos(w x) < -1 / (a w) in nearly half of all pixels: there the sign is wrong.
    assert alike_signs(gradient(Shattering(model), images, labels), gradient(model, images, labels)) < 0.58


@pytest.mark.parametrize(("seed", "right"), [(0, 0.5), (4, 0.5), (None, 0.0)])
def test_wrong_backward_is_the_model_forward_and_finite_differences_tell(
    linear: Any, seed: int | None, right: float
) -> None:
    model, images, labels = linear
    images = images.double()
    wrong = WrongBackward(model, seed)
    assert torch.equal(wrong(images), model(images))
    got, true = gradient(wrong, images, labels), gradient(model, images, labels)
    torch.testing.assert_close(got.abs(), true.abs(), rtol=0, atol=0)
    assert torch.equal(gradient(wrong, images, labels), got)
    ratio = got / true
    assert torch.equal(ratio, ratio[:1].expand_as(ratio))  # the same pixels for all images
    assert alike_signs(got, true) == pytest.approx(right, abs=0.15)
    pixel = int((ratio[0].flatten() < 0).nonzero()[0])
    step = torch.zeros_like(images).flatten(1)
    step[:, pixel] = 1e-6
    step = step.view_as(images)
    difference = (margin(wrong(images + step), labels) - margin(wrong(images - step), labels)) / 2e-6
    torch.testing.assert_close(difference, -got.flatten(1)[:, pixel], rtol=1e-4, atol=1e-4)
