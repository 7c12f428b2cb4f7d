"""Each way in which a model cannot be audited, or only with a note: the sentence, and its remedy tried."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from preflight_models import GOOD, N, X, Y, from_sentence, look, only_blocker, only_note
from torch import Tensor, nn

from sonet.audit.planted import SHAPE, LeftInTraining, Noisy, Quantised
from sonet.audit.preflight import CannotAudit, Preflight, require
from sonet.models import build
from sonet.types import Classifier, Proportion


@pytest.mark.parametrize("batch", [1, 2, 7, 8, N, 100])
def test_a_sound_model_passes_without_a_word(batch: int) -> None:
    found = look(GOOD, batch=batch)
    assert found == Preflight((), (), 3, True, False, True, Proportion(N, N))
    assert require(found) is found


def test_ode_networks_pass() -> None:
    model = build("sonet", seed=0, in_channels=1, channels=4, classes=3, blocks=(1,), strides=(2,)).eval()
    images = torch.rand(4, 1, 8, 8)
    found = look(model, images, model(images).argmax(1), 4)
    assert found.blockers == ()
    assert found.gradient


def test_every_image_is_seen_and_none_is_changed() -> None:
    seen: list[Tensor] = []
    before = X.clone()

    def watched(x: Tensor) -> Tensor:
        seen.append(x.detach().clone())
        return GOOD(x)

    look(watched)
    assert all(any(bool((image == one).all()) for batch in seen for one in batch) for image in X)
    assert torch.equal(X, before)
    assert not X.requires_grad


# The answer's form: (model, what is said)
FORMS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "one logit, a column": (lambda x: GOOD(x)[:, :1], "the model answers (8, 1) for images (8, 1, 8, 8)"),
    "one logit, no column": (lambda x: GOOD(x)[:, 0], "return torch.stack((torch.zeros_like(z), z), 1)"),
    "tuple": (lambda x: (GOOD(x), x), "answers a tuple, expected a tensor of logits (8, classes). Its [0] fits"),
    "tuple with the second": (lambda x: (x.mean(), GOOD(x)), "`def wrapped(x): return model(x)[1]`"),
    "tuple without logits": (lambda x: (x.mean(), "ok"), "Nothing in it looks like logits"),
    "dict": (lambda x: {"loss": None, "logits": GOOD(x)}, "return model(x)['logits']`"),
    "object": (lambda x: type("Out", (), {})(), "answers a Out, expected a tensor"),
    "array": (lambda x: GOOD(x).detach().numpy(), "torch.from_numpy(logits)"),
    "none": (lambda x: None, "answers a NoneType"),
    "spatial": (lambda x: GOOD(x)[:, :, None, None].expand(-1, -1, 2, 2), "such as logits.mean((2, 3))"),
    "one place": (lambda x: GOOD(x)[:, :, None, None], "Return logits.flatten(1)."),
    "transposed": (lambda x: GOOD(x).T, "Classes come first; return logits.T."),
    "a loss": (lambda x: GOOD(x).mean(), "looks like a loss"),
    "batch joined": (lambda x: GOOD(x).view(4, -1), "The first dimension must be that of the images"),
    "class numbers": (lambda x: GOOD(x).argmax(1), "numbers of torch.int64, expected floating logits"),
    "integer logits": (lambda x: GOOD(x).long(), "numbers of torch.int64"),
    "other device": (lambda x: GOOD(x).to("meta"), "answers on meta, expected cpu"),
}


@pytest.mark.parametrize("name", FORMS)
def test_an_answer_that_is_no_logits(name: str) -> None:
    model, said = FORMS[name]
    found = look(model)
    assert said in only_blocker(found)
    assert (found.classes, found.natural) == (0, None)


def test_the_remedy_for_a_single_logit_works() -> None:
    def model(x: Tensor) -> Tensor:
        return (GOOD(x)[:, 1] - GOOD(x)[:, 0])[:, None]

    wrapped = from_sentence(only_blocker(look(model)), model)
    assert look(wrapped, labels=(model(X)[:, 0] > 0).long()).natural == Proportion(N, N)


# How many images it takes
def normalised(x: Tensor) -> Tensor:
    return GOOD(nn.functional.batch_norm(x.flatten(1), None, None, training=True).view_as(x)) + GOOD(x)


SIZES: dict[str, tuple[Callable[[Tensor], Tensor], int, bool, str]] = {
    "batch statistics": (
        normalised,
        8,
        False,
        "a batch of 1 fails where one of 8 does not: the model fails (ValueError",
    ),
    "squeeze": (lambda x: GOOD(x).squeeze(), 8, False, "A squeeze() takes the batch away where it has one image"),
    "fixed": (lambda x: GOOD(x.view(8, *SHAPE)), 8, False, "a fixed size in view or reshape"),
    "fixed to another": (lambda x: GOOD(x.view(4, *SHAPE)), 8, False, "but takes batches of 4."),
    "one at a time": (lambda x: GOOD(x.view(1, *SHAPE)), 8, False, "but takes batches of 1."),
    "one only": (lambda x: GOOD(x.view(1, *SHAPE)), 1, True, ""),
    "even": (lambda x: GOOD(torch.cat(x.chunk(2)).view(2, -1, *SHAPE).flatten(0, 1)), 8, False, "fails"),
}


@pytest.mark.parametrize("name", SIZES)
def test_the_number_of_images(name: str) -> None:
    model, batch, single, said = SIZES[name]
    found = look(model, batch=batch)
    assert found.accepts_single is single
    assert bool(found.blockers) is not single
    assert said in " ".join(found.blockers)


def test_a_model_whose_last_batch_fails() -> None:
    def picky(x: Tensor) -> Tensor:
        if len(x) == 3:
            raise RuntimeError("not three")
        return GOOD(x)

    found = look(picky, X[:19], Y[:19], 8)
    assert "of the batches of 8 images some fail: the model fails (RuntimeError: not three)" in only_blocker(found)


def test_the_number_of_classes_changes() -> None:
    found = look(lambda x: GOOD(x)[:, : 2 + len(x) // 8])
    assert "with 3 classes, as it gave before" in " ".join(found.blockers)


def test_a_module_in_train_mode_is_not_asked() -> None:
    model = LeftInTraining(GOOD)
    before = model.normalise.running_mean.clone()  # type: ignore[union-attr,operator]
    assert "LeftInTraining is in train mode, expected eval mode" in only_blocker(look(model))
    assert torch.equal(model.normalise.running_mean, before)  # type: ignore[arg-type]


# Gradients
def through_numpy(x: Tensor) -> Tensor:
    return GOOD(torch.from_numpy(x.numpy()))


def without_grad(x: Tensor) -> Tensor:
    with torch.no_grad():
        return GOOD(x)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (through_numpy, "asking for one fails (RuntimeError: Can't call numpy() on Tensor that requires grad"),
        (without_grad, "does not depend on the images for autograd"),
        (lambda x: GOOD(x.detach()), "does not depend on the images"),
        (lambda x: GOOD(x.detach()) * torch.ones(3, requires_grad=True), "does not depend on the images"),
    ],
)
def test_no_gradient_is_a_note(model: Classifier, said: str) -> None:
    found = look(model)
    assert said in only_note(found)
    assert not found.gradient


def test_a_gradient_of_zero_is_one() -> None:
    assert look(Quantised(GOOD)).gradient


def test_a_model_that_needs_gradients_to_answer() -> None:
    def energy(x: Tensor) -> Tensor:
        x = x.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad((GOOD(x) ** 2).sum() / 2, x)
        return (GOOD(x) + 0 * slope.sum()).detach()

    assert "with torch.enable_grad():" in only_blocker(look(energy))


# What it answers
def test_numbers_that_are_not_finite() -> None:
    nothing = only_blocker(look(lambda x: GOOD(x) / 0 * 0))
    assert "the logits of all 24 images are NaN or infinite" in nothing
    found = look(lambda x: GOOD(x).masked_fill(((x == X[3]) | (x == X[12])).flatten(1).all(1)[:, None], torch.nan))
    assert only_note(found) == "For 2 of 24 images logits are NaN or infinite; those count as wrong."
    assert found.natural == Proportion(N - 2, N)


def test_random_answers_are_noted() -> None:
    found = look(Noisy(GOOD, std=0.01))
    assert found.random
    assert "It answers otherwise when asked again: logits move by up to" in only_note(found)
    dropped = look(lambda x: GOOD(nn.functional.dropout(x, 0.02, training=True)))
    assert dropped.random


def test_a_model_that_fails_at_times() -> None:
    calls = 0

    def moody(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise RuntimeError("not now")
        return GOOD(x)

    found = look(moody)
    assert found.random
    assert "fail or overflow only at times" in only_note(found)


def test_an_input_changed_in_place() -> None:
    def rude(x: Tensor) -> Tensor:
        return GOOD(x.sub_(0.5) + 0.5)

    before = X.clone()
    found = look(rude)
    assert "changes its input in place" in only_blocker(found)
    assert torch.equal(X, before)
    assert found.notes == ()
    assert found.gradient


def test_images_and_labels() -> None:
    assert "expected float32 or float64 images in [0, 1], got torch.uint8" in only_blocker(look(GOOD, X.byte()))
    assert "image 0 has pixels outside [0, 1]" in only_blocker(look(GOOD, X + 1))
    assert "expected labels int64" in only_blocker(look(GOOD, X, Y.float()))
    assert "the labels on meta. Move both" in only_blocker(look(GOOD, X, Y.to("meta")))
    both = look(LeftInTraining(GOOD), X + 1)
    assert len(both.blockers) == 2
    with pytest.raises(CannotAudit, match=r"^net.py:f cannot be audited yet: image 0 .* Also: LeftInTraining is"):
        require(both, "net.py:f")


def test_labels_without_a_class() -> None:
    labels = Y.clone()
    labels[5] = 3
    found = look(GOOD, labels=labels)
    assert "label 5 is 3, expected 0 to 2, for the model has 3 logits" in only_blocker(found)


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_of_nothing(batch: int) -> None:
    with pytest.raises(ValueError, match=f"got batch {batch}, expected >= 1"):
        look(GOOD, batch=batch)
