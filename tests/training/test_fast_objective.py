"""One-step training: the suite's PGD with a single step, aligned gradients by their formula, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from small_runs import EULER, config, digits, same, small, weights
from torch import Tensor, nn

from sonet.attacks import PGD, Linf, Threat
from sonet.attacks.noise import ImageNoise
from sonet.models import build
from sonet.training import TrainConfig, fit
from sonet.training.alignment import NEIGHBOUR, misalignment
from sonet.training.objectives import Fast


def fast(**changes: Any) -> TrainConfig:
    return config(**({"objective": "fast", "threat": "linf:0.1", "lr": 0.05, "watched": 20} | changes))


def curved(seed: int = 0) -> nn.Module:
    """Smooth logits of 12 pixels, in float64."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def grey(n: int = 5) -> Tensor:
    return 0.3 + 0.4 * torch.rand(n, 3, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def labels(n: int = 5) -> Tensor:
    return torch.arange(n) % 3


# The step


@pytest.mark.parametrize("threat", ["linf:0.1", "l2:0.5"])
def test_the_step_is_the_suites_pgd(threat: str) -> None:
    model, some, given = small("resnet10"), digits().train.take(20), Threat.parse(threat)
    hard = Fast.of(fast(threat=threat)).craft(model.train(), some.images, some.labels, 7)
    attack = PGD(steps=1, step_size=1.25 * given.eps, random_start=True, keep="last", seed=7)
    result = attack.run(model.eval(), some.images, some.labels, given)
    assert torch.equal(hard, result.adversarial)
    given.check(hard, some.images)


def test_the_step_size_comes_from_the_config() -> None:
    assert Fast.of(fast(attack_step_size=0.07)).attack.step_size == 0.07
    assert Fast.of(fast()).alignment == 0
    assert Fast.of(fast(alignment=0.5)).alignment == 0.5


# Alignment


def test_misalignment_is_its_formula() -> None:
    """Against gradients written out: W_1^T diag(1 - tanh^2) W_2^T (p - y)."""
    model, images, truth, threat = curved(), grey(), labels(), Linf(0.2)
    first, last = model[1], model[3]  # type: ignore[index]

    def slopes(x: Tensor) -> Tensor:
        hidden = torch.tanh(x.flatten(1) @ first.weight.T + first.bias)
        p = torch.softmax(hidden @ last.weight.T + last.bias, 1)
        wrong = p - nn.functional.one_hot(truth, 3)
        return (wrong @ last.weight * (1 - hidden**2)) @ first.weight

    near = threat.random_start(images, ImageNoise(images, 9 + NEIGHBOUR))
    assert not torch.allclose(near, images)
    expected = (1 - torch.cosine_similarity(slopes(images), slopes(near))).mean()
    found = misalignment(model, images, truth, threat, 9)
    assert found.item() == pytest.approx(expected.item(), rel=1e-10)
    assert found.item() > 1e-4
    ours, theirs = (torch.autograd.grad(value, list(model.parameters())[:3]) for value in (found, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-12)


def test_two_classes_and_linear_logits_are_aligned() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).double()
    assert misalignment(model, grey(), labels() % 2, Linf(0.2), 0).item() == pytest.approx(0, abs=1e-12)


def test_a_sample_without_a_gradient_counts_as_aligned_and_spoils_nothing() -> None:
    class Dead(nn.Module):
        """The first image's logits do not depend on it."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = curved()

        def forward(self, images: Tensor) -> Tensor:
            alive = torch.ones(len(images), 1, dtype=images.dtype)
            alive[0] = 0
            out: Tensor = alive * self.inner(images)
            return out

    model, images, truth = Dead(), grey(), labels()
    found = misalignment(model, images, truth, Linf(0.2), 0)
    rest = misalignment(model.inner, images[1:], truth[1:], Linf(0.2), 0)
    assert found.item() == pytest.approx(rest.item() * 4 / 5)
    slopes = torch.autograd.grad(found, list(model.parameters()), allow_unused=True)
    assert all(bool(torch.isfinite(slope).all()) for slope in slopes if slope is not None)


def test_saturated_gradients_still_have_a_direction() -> None:
    """Logits so far apart that the squares of CE's gradient would underflow in float32."""
    model = curved().float()
    images, threat = grey().float(), Linf(0.2)
    with torch.no_grad():
        top = model(images).topk(2).values
        model[3].weight.mul_(120 / float((top[:, 0] - top[:, 1]).mean()))  # type: ignore[index]
    truth = model(images).argmax(1)
    points = images.clone().requires_grad_()
    slope = torch.autograd.grad(nn.functional.cross_entropy(model(points), truth, reduction="sum"), points)[0]
    tiny = slope.flatten(1).abs().amax(1)
    assert bool(((tiny > 0) & (tiny.square() == 0)).any())
    found = misalignment(model, images, truth, threat, 0)
    assert 0 <= found.item() <= 2
    for gradient in torch.autograd.grad(found, list(model.parameters()), allow_unused=True):
        assert gradient is None or bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("name", ["sonet", "resnet10", "odenet", "stable-sonet"])
def test_its_gradient_is_that_of_finite_differences(name: str) -> None:
    """Along itself, in float64, in training mode; for ODE networks a solve is differentiated twice."""
    some = digits().train.take(6)
    images, truth = some.images.double(), some.labels
    options = {"channels": 4, "solver": EULER}
    model = (build("odenet", like=digits(), seed=0, **options) if name == "odenet" else small(name)).double().train()

    def value() -> Tensor:
        return misalignment(model, images, truth, Linf(0.1), 3)

    parameters = list(model.parameters())
    slopes = torch.autograd.grad(value(), parameters, allow_unused=True)
    slopes = tuple(
        torch.zeros_like(weight) if slope is None else slope for weight, slope in zip(parameters, slopes, strict=True)
    )
    length = torch.sqrt(sum((slope**2).sum() for slope in slopes))
    ends = []
    for step in (1e-8, -2e-8):
        with torch.no_grad():
            for weight, slope in zip(parameters, slopes, strict=True):
                weight += step * slope / length
        ends.append(value().item())
    assert (ends[0] - ends[1]) / 2e-8 == pytest.approx(float(length), rel=1e-3)


def test_training_with_alignment_aligns() -> None:
    """On the images trained on, against the same training without."""
    some = digits().train.take(40)
    left = []
    for weight in (None, 5.0):
        model = small("resnet10")
        fit(model, some, fast(epochs=12, alignment=weight))
        left.append(misalignment(model.eval(), some.images, some.labels, Linf(0.1), 5).item())
    assert left[1] < 0.5 * left[0]


def test_the_penalty_is_none_without_a_weight() -> None:
    some = digits().train.take(4)
    for weight in (None, 0):
        assert Fast.of(fast(alignment=weight)).penalty(small(), some.images, some.labels, 0) is None


def test_evaluations_count_three_passes_with_alignment() -> None:
    for weight, passes in ((None, 1), (0.5, 3)):
        report = fit(small(), digits().train.take(20), fast(epochs=1, alignment=weight))[0]
        assert report.evaluations == 6 * passes  # three blocks, two Euler steps each
        assert report.nfe == 6


def test_the_same_seed_gives_the_same_weights() -> None:
    found = []
    for alignment, seed in ((0.5, 0), (0.5, 0), (None, 0), (0.5, 1)):
        model = small("resnet10")
        fit(model, digits().train.take(40), fast(alignment=alignment, seed=seed))
        found.append(weights(model))
    assert same(found[0], found[1])
    assert not same(found[0], found[2])
    assert not same(found[0], found[3])


# The config


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"objective": "fast"}, "objective 'fast' trains against a radius and needs a threat"),
        (
            {"attack_steps": 3},
            "attack_steps is of objective 'madry' or 'trades', got 3 with 'fast', which takes one step",
        ),
        ({"beta": 1}, "got 1.0 with 'fast', which has no term to weigh"),
        ({"temperature": 1}, "temperature is of objective 'margin'"),
        ({"objective": "madry", "threat": "linf:0.1", "alignment": 0.2}, "alignment is of objective 'fast', got 0.2"),
        ({"objective": "natural", "alignment": 0.2}, "alignment is of objective 'fast', got 0.2 with 'natural'"),
        ({"objective": "trades", "threat": "linf:0.1", "watched": 5}, "watched is of objective 'fast', got 5"),
        ({"objective": "margin", "threat": "l2:0.1", "collapse": 0.1}, "collapse is of objective 'fast', got 0.1"),
        ({"alignment": -1}, "greater than or equal to 0"),
        ({"watched": 0}, "greater than 0"),
        ({"collapse": 0}, "greater than 0"),
        ({"collapse": 1.5}, "less than or equal to 1"),
    ],
)
def test_what_would_be_ignored_or_makes_no_sense_is_refused(wrong: dict[str, Any], word: str) -> None:
    given = wrong if "objective" in wrong else {"objective": "fast", "threat": "linf:0.1"} | wrong
    with pytest.raises(ValidationError) as caught:
        TrainConfig.model_validate(given)
    assert word in str(caught.value)
