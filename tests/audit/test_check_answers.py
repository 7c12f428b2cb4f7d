"""Checks of the answers: each raised and not, its figure against one found another way."""

from __future__ import annotations

import pytest
import torch
from audit_subjects import Landscape, Pixels, on_landscape, plausible, subject_of
from torch import Tensor, nn

from sonet.audit.answers import batch_composition, randomness, scaled_output, softmax_output
from sonet.audit.planted import Coupled, Linear, NaNNear, Noisy, Quantised, Softmax, mirrored

MODEL = Linear.random(3, seed=1)
IMAGES = 0.3 + 0.4 * torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = MODEL(IMAGES).argmax(1)


def test_randomness_counts_who_changes() -> None:
    again = Noisy(MODEL, 1.0, seed=3)
    answers = [again(IMAGES).argmax(1) for _ in range(6)]  # twice to see whether it is random, then four calls
    expected = torch.stack([answer != answers[0] for answer in answers[2:]]).any(0)
    found = randomness(subject_of(Noisy(MODEL, 1.0, seed=3), IMAGES, LABELS))
    assert found.raised
    assert 0 < int(expected.sum()) < 20
    assert found.value == pytest.approx(float(expected.double().mean()))
    assert found.n == 20
    assert f"Asked 4 times again, {int(expected.sum())} of 20" in found.sentence


def test_a_model_that_answers_the_same_is_not_random() -> None:
    found = randomness(subject_of(MODEL, IMAGES, LABELS))
    assert (found.raised, found.value) == (False, 0.0)
    assert "moved by at most 0 of" in found.sentence


class Late(nn.Module):
    """Answers otherwise from the fourth call on."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return MODEL(images) * (-1 if self.calls > 3 else 1)


def test_randomness_that_shows_late_only_is_told() -> None:
    """What the sentence says changed, and what is raised, are of the same calls."""
    found = randomness(subject_of(Late(), IMAGES, LABELS))
    assert found.raised
    assert found.value is not None
    assert found.value > 0


def test_answers_that_fail_at_times_move_by_no_finite_amount() -> None:
    class Fails(Late):
        def forward(self, images: Tensor) -> Tensor:
            self.calls += 1
            return MODEL(images).masked_fill(torch.tensor(self.calls == 4), torch.nan)

    found = randomness(subject_of(Fails(), IMAGES, LABELS))
    assert found.raised
    assert "at most no finite amount" in found.sentence
    assert plausible(found.sentence)


def moved_in_company(images: Tensor) -> float:
    """Largest |mean brightness - 1/2| that an image sees, by the four companies of the check, for mirrored images."""
    half, quarter = len(images) // 2, len(images) // 4
    padded = torch.cat((images[:half], 1 - images[:quarter]))
    means = [float(image.mean()) for image in images] + [float(images[:half].mean()), float(padded.mean())]
    return max(abs(mean - float(images.mean())) for mean in means)


@pytest.mark.parametrize(("share", "raised"), [(0.0096, False), (0.0104, True)])
def test_company_is_told_from_one_per_cent_of_the_spread_on(share: float, raised: bool) -> None:
    model = Linear.random(2)
    images = mirrored(model, 12, seed=5)
    spread = float(model(images).std(correction=0))
    strength = share * spread / moved_in_company(images)
    found = batch_composition(subject_of(Coupled(model, strength), images))
    assert found.raised is raised
    assert f"at most {share:.2g} of" in found.sentence


def test_company_flips_the_predictions_that_it_can() -> None:
    """Bright images away from dark ones are of class 0, dark ones of class 1: half of each had the other class."""
    model = Linear.random(2)
    images = mirrored(model, 12, seed=5)
    found = batch_composition(subject_of(Coupled(model), images))
    assert (found.raised, found.value, found.n) == (True, 0.5, 12)
    assert "6 of 12 predictions changed" in found.sentence


def test_without_company_nothing_moves() -> None:
    found = batch_composition(subject_of(MODEL, IMAGES))
    assert (found.raised, found.value) == (False, 0.0)
    assert batch_composition(subject_of(MODEL, IMAGES[:1])).raised is False
    assert batch_composition(subject_of(MODEL, IMAGES, batch=1)).raised is False


def test_strangers_in_the_batch_are_company_too() -> None:
    """Padded with the negatives of its images, a batch of bright ones has dark ones in it for the first time."""

    class Shy(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return MODEL(images) * (-1 if float(images.mean((1, 2, 3)).min()) < 0.5 else 1)

    found = batch_composition(subject_of(Shy().eval(), 0.3 + IMAGES))
    assert (found.raised, found.value) == (True, 0.5)  # the first half, who are padded


def test_company_of_a_random_model_cannot_be_told() -> None:
    assert batch_composition(subject_of(Noisy(MODEL, 1.0), IMAGES, LABELS)).raised is None


def test_an_image_without_an_answer_anywhere_is_no_matter_of_company() -> None:
    model = NaNNear(MODEL, IMAGES[2], reach=0.05)
    assert batch_composition(subject_of(model, IMAGES, LABELS)).raised is False
    assert randomness(subject_of(model, IMAGES, LABELS)).raised is False


def test_company_that_takes_an_answer_away_is_raised() -> None:
    class Alone(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return MODEL(images) * (1.0 if len(images) > 1 else torch.nan)

    found = batch_composition(subject_of(Alone().eval(), IMAGES, LABELS))
    assert found.raised
    assert "no finite amount" in found.sentence


def test_probabilities_are_told_from_logits() -> None:
    assert softmax_output(subject_of(Softmax(MODEL), IMAGES)).raised is True
    found = softmax_output(subject_of(MODEL, IMAGES))
    logits = MODEL(IMAGES)
    assert found.raised is False
    assert f"between {float(logits.min()):.3g} and {float(logits.max()):.3g}," in found.sentence
    inside = softmax_output(subject_of(Pixels(3), IMAGES))  # in [0, 1], but their sum is not 1
    assert inside.raised is False


def test_the_range_of_answers_is_that_of_the_finite_ones() -> None:
    model = NaNNear(MODEL, IMAGES[2], reach=0.05)
    rest = MODEL(IMAGES)[torch.arange(20) != 2]
    found = softmax_output(subject_of(model, IMAGES, LABELS))
    assert f"between {float(rest.min()):.3g} and {float(rest.max()):.3g}," in found.sentence


@pytest.mark.parametrize(("sure", "raised"), [(0, False), (2, False), (3, True), (20, True)])
def test_scaled_output_is_raised_for_more_than_a_tenth(sure: int, raised: bool) -> None:
    """Margins of 15.9 and 16.1, both of class 0."""
    model, images = Landscape([(-1, -15.9), (1, -15.9)], [(-1, -16.1), (1, -16.1)]), on_landscape([0] * 20)
    images[:sure] = on_landscape([1])
    found = scaled_output(subject_of(model, images))
    assert (found.raised, found.value, found.n) == (raised, sure / 20, 20)
    assert f"the median is {16.1 if sure > 10 else 15.9}" in found.sentence


def test_of_seventeen_on_the_labels_probability_is_one() -> None:
    """What the check's threshold stands for, in float32: at 16 all but the last digit."""
    at = {m: float(torch.tensor([m, 0.0]).softmax(0)[0]) for m in (14.0, 16.0, 17.0)}
    assert at[17.0] == 1.0
    assert 1 - at[16.0] == pytest.approx(torch.finfo(torch.float32).eps)
    assert 1 - at[14.0] > 5 * torch.finfo(torch.float32).eps


def test_images_that_are_wrong_do_not_count_as_sure() -> None:
    images = on_landscape([1] * 10)
    model = Landscape([(-1, -1.0), (1, -1.0)], [(-1, -20.0), (1, -20.0)])
    labels = torch.tensor([0] * 5 + [1] * 5)
    found = scaled_output(subject_of(model, images, labels))
    assert (found.value, found.n) == (1.0, 5)


def test_without_a_right_image_nothing_is_said_of_margins() -> None:
    found = scaled_output(subject_of(MODEL, IMAGES, (LABELS + 1) % 3))
    assert found.raised is None
    assert plausible(found.sentence)


def test_rounding_pixels_is_no_matter_of_answers() -> None:
    subject = subject_of(Quantised(MODEL, 16), IMAGES)
    for look in (randomness, batch_composition, softmax_output, scaled_output):
        assert look(subject).raised is False
