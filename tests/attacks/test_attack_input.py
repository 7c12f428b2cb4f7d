"""What an attack refuses, in words: images, labels, models, settings; and the check on what an attack made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn
from toy_classifiers import Linear, Wavy, images, weights

from sonet.attacks import (
    ATTACKS,
    FGSM,
    L2,
    PGD,
    SPSA,
    Alone,
    Attack,
    AttackError,
    Average,
    Backpropagation,
    Linf,
    Progress,
    Threat,
    ThreatError,
    check_images,
    predict,
)
from sonet.attacks.crafted import Crafted
from sonet.attacks.gradients import GradientSource
from sonet.types import Images, Labels

X, Y = images(3), torch.tensor([0, 1, 2])
QUICK: list[Attack] = [PGD(steps=2), SPSA(steps=2, samples=4)]


def replaced(value: float) -> Tensor:
    x = X.clone()
    x[1, 0, 1, 2] = value
    return x


BAD_INPUT: list[tuple[Tensor, Tensor, str]] = [
    (replaced(torch.nan), Y, r"image 1 is not finite \(NaN or infinite\); expected pixels in \[0, 1\]"),
    (replaced(torch.inf), Y, "image 1 is not finite"),
    (replaced(-0.01), Y, r"image 1 has pixels outside \[0, 1\]; .*Put any normalisation inside the model"),
    (replaced(1.5), Y, r"image 1 has pixels outside \[0, 1\]"),
    ((255 * X).to(torch.uint8), Y, r"float32 or float64 images in \[0, 1\], got torch.uint8; divide uint8 .* by 255"),
    (X.half(), Y, "expected float32 or float64 images .*got torch.float16"),
    (X.to(torch.bfloat16), Y, "got torch.bfloat16"),
    (X[0], Y, r"expected images \(N, C, H, W\), N >= 1, and labels \(N,\), got \(2, 3, 3\) and \(3,\)"),
    (X.flatten(1), Y, r"got \(3, 18\) and \(3,\)"),
    (X[:0], Y[:0], r"N >= 1, .*got \(0, 2, 3, 3\) and \(0,\)"),
    (X, Y[:2], r"got \(3, 2, 3, 3\) and \(2,\)"),
    (X, Y[:, None], r"got \(3, 2, 3, 3\) and \(3, 1\)"),
    (X, Y.float(), "expected labels int64 >= 0, got torch.float32"),
    (X, Y.to(torch.int32), "expected labels int64 >= 0, got torch.int32"),
    (X, torch.tensor([0, -1, 2]), "expected labels int64 >= 0, got torch.int64 from -1"),
    (X, torch.tensor([0, 3, 2]), r"expected logits \(N, classes\) with classes > 3, the largest label, got \(1, 3\)"),
]


@pytest.mark.parametrize("attack", QUICK)
@pytest.mark.parametrize(("x", "labels", "message"), BAD_INPUT)
def test_refuses_images_and_labels(attack: Attack, x: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(AttackError, match=message):
        attack.run(Wavy(), x, labels, Linf(0.1))


def test_refused_input_has_cost_nothing() -> None:
    """Not even where only the model can tell: the number of its classes is asked for first."""
    seen: list[int] = []

    def model(x: Tensor) -> Tensor:
        seen.append(len(x))
        return Wavy()(x)

    with pytest.raises(AttackError, match="classes > 3"):
        PGD(steps=500).run(model, X, torch.tensor([0, 3, 2]), Linf(0.1))
    assert seen == [1]


@pytest.mark.parametrize("attack", QUICK)
def test_refuses_a_model_in_train_mode(attack: Attack) -> None:
    training, ready = Wavy().train(), Wavy()
    for model, source in ((training, None), (ready, training), (training, ready)):
        with pytest.raises(
            AttackError, match=r"Wavy is in train mode, expected eval mode: .*Call model\.eval\(\) first"
        ):
            attack.run(model, X, Y, Linf(0.1), gradients_from=source)
    attack.run(ready, X, Y, Linf(0.1), gradients_from=ready)


def test_refuses_a_model_of_which_a_part_is_in_train_mode() -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(18), nn.Linear(18, 3)).double().eval()
    PGD(steps=1).run(model, X, Y, Linf(0.1))
    model[1].train()
    before = model[1].running_mean.clone()
    with pytest.raises(AttackError, match="train mode"):
        PGD(steps=1).run(model, X, Y, Linf(0.1))
    assert torch.equal(model[1].running_mean, before)


def test_refuses_train_mode_behind_sources_and_beside_a_part_called_classifier() -> None:
    class Named(nn.Module):
        """As the image networks of torchvision: features, then what they call the classifier."""

        def __init__(self) -> None:
            super().__init__()
            self.features, self.classifier = nn.Dropout(), nn.Linear(18, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.classifier(self.features(x.flatten(1)))

    model = Named().eval()
    ready = Backpropagation(model)
    model.features.train()
    sources: list[Any] = [model, ready, Alone(ready), Average((Backpropagation(Wavy()), Alone(ready)))]
    for source in sources:
        with pytest.raises(AttackError, match="Named is in train mode"):
            PGD(steps=1).run(Wavy(), X, Y, Linf(0.1), gradients_from=source)
    model.eval()
    for source in sources:
        PGD(steps=1).run(Wavy(), X, Y, Linf(0.1), gradients_from=source)


def test_refuses_logits_that_are_none() -> None:
    with pytest.raises(AttackError, match=r"expected logits \(N, classes\) .*got \(1,\)"):
        PGD(steps=1).run(lambda x: x.flatten(1).sum(1), X, Y, Linf(0.1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"judge_batch": 0}, "judge_batch must be >= 1, got 0"),
        ({"judge_batch": -2}, "judge_batch must be >= 1, got -2"),
        ({"checkpoints": (0,)}, r"checkpoints must be steps of 1 \.\. 2, got 0"),
        ({"checkpoints": (1, 3)}, r"checkpoints must be steps of 1 \.\. 2, got 3"),
    ],
)
@pytest.mark.parametrize("attack", QUICK)
def test_refuses_options_of_a_run(attack: Attack, options: dict[str, Any], message: str) -> None:
    with pytest.raises(AttackError, match=message):
        attack.run(Wavy(), X, Y, Linf(0.1), **options)


BAD_SETTINGS: list[tuple[type[Attack], dict[str, Any], str]] = [
    (PGD, {"steps": 0}, r"PGD: steps: Input should be greater than 0 \(got 0\)"),
    (PGD, {"restarts": 0, "random_start": True}, r"PGD: restarts: Input should be greater than 0 \(got 0\)"),
    (PGD, {"batch_size": -1}, r"PGD: batch_size: Input should be greater than 0 \(got -1\)"),
    (PGD, {"step_size": 0.0}, r"PGD: step_size: Input should be greater than 0 \(got 0\.0\)"),
    (PGD, {"step_size": -0.1}, r"PGD: step_size: Input should be greater than 0 \(got -0\.1\)"),
    (PGD, {"step_size": float("nan")}, r"PGD: step_size: Input should be a finite number \(got nan\)"),
    (PGD, {"step_size": float("inf")}, r"PGD: step_size: Input should be a finite number \(got inf\)"),
    (PGD, {"loss": "l1"}, r"PGD: loss: Input should be 'ce', 'log-odds', 'margin', 'dlr' or 'kl' \(got 'l1'\)"),
    (PGD, {"keep": "first"}, r"PGD: keep: Input should be 'last' or 'best' \(got 'first'\)"),
    (PGD, {"restarts": 2}, "restarts without random_start would repeat the same run; set random_start=True"),
    (PGD, {"keep": "last", "stop_when_fooled": True}, "goes with stop_when_fooled=False"),
    (PGD, {"step": 3}, r"PGD: step: Extra inputs are not permitted \(got 3\). Its settings are: .*steps, step_size"),
    (PGD, {"seed": -1}, r"PGD: seed: Input should be greater than or equal to 0 \(got -1\)"),
    (FGSM, {"loss": "l1"}, "FGSM: loss: Input should be"),
    (FGSM, {"steps": 2}, "FGSM: steps: Extra inputs are not permitted"),
    (SPSA, {"steps": 0}, r"SPSA: steps: Input should be greater than 0 \(got 0\)"),
    (SPSA, {"batch_size": 0}, r"SPSA: batch_size: Input should be greater than 0 \(got 0\)"),
    (SPSA, {"chunk": 0}, r"SPSA: chunk: Input should be greater than 0 \(got 0\)"),
    (SPSA, {"samples": 0}, r"SPSA: samples: Input should be greater than 0 \(got 0\)"),
    (SPSA, {"momentum": -0.1}, r"SPSA: momentum: Input should be greater than or equal to 0 \(got -0\.1\)"),
    (SPSA, {"momentum": 1.0}, r"SPSA: momentum: Input should be less than 1 \(got 1\.0\)"),
    (SPSA, {"momentum": float("nan")}, r"SPSA: momentum: Input should be a finite number \(got nan\)"),
    (SPSA, {"delta": 0.0}, r"SPSA: delta: Input should be greater than 0 \(got 0\.0\)"),
    (SPSA, {"delta": float("nan")}, r"SPSA: delta: Input should be a finite number \(got nan\)"),
    (SPSA, {"step_size": -1.0}, r"SPSA: step_size: Input should be greater than 0 \(got -1\.0\)"),
    (SPSA, {"step_size": float("inf")}, r"SPSA: step_size: Input should be a finite number \(got inf\)"),
    (SPSA, {"loss": "l1"}, r"SPSA: loss: Input should be 'ce', 'log-odds', 'margin' or 'dlr' \(got 'l1'\)"),
]


@pytest.mark.parametrize(("kind", "settings", "message"), BAD_SETTINGS)
def test_refuses_settings(kind: type[Attack], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(AttackError, match=message):
        kind(**settings)


def test_the_defaults_of_every_attack_are_settings() -> None:
    """And every one says what it is, where it is from and what each setting does."""
    for kind, description in ATTACKS.values():
        attack = kind()
        assert attack.batch_size == 100
        assert attack.work >= 1
        assert description
        assert "arXiv:" in kind.paper
        assert set(kind.norms) <= {"linf", "l2"}
        assert all(field.description for field in kind.model_fields.values())
        assert kind(**attack.model_dump()) == attack
        with pytest.raises(ValidationError, match="frozen"):
            attack.seed = 1


class Moves(Attack):
    """Adds a constant to every image, whatever it is allowed to."""

    paper: ClassVar[str] = "none"

    by: float = Field(allow_inf_nan=True)
    batch_size: int = 2

    @property
    def work(self) -> int:
        return 1

    def craft(
        self,
        source: GradientSource,
        images: Images,
        labels: Labels,
        threat: Threat,
        checkpoints: Sequence[int],
        progress: Progress | None,
    ) -> Crafted:
        zero = torch.zeros(len(images), dtype=torch.bool)
        queries = torch.ones(len(images), dtype=torch.int64)
        return Crafted(images + self.by, torch.zeros(1, len(images)), zero, queries)


@pytest.mark.parametrize(
    ("by", "threat", "message"),
    [
        (0.2, Linf(0.1), "linf:0.1: .*0.1 beyond eps"),
        (0.1, L2(0.4), "l2:0.4: .*0.024 beyond eps"),  # 0.1 sqrt(18) = 0.424
        (0.2, Linf(0.3), r"0\.1 outside \[0, 1\]"),
        (torch.nan, Linf(0.1), "finite: False"),
    ],
)
def test_an_attack_that_leaves_its_threat_is_caught(by: float, threat: Threat, message: str) -> None:
    x = images(3, low=0.5, high=0.9)
    x[0, 0, 0, 0] = 0.9
    with pytest.raises(ThreatError, match=message):
        Moves(by=by).run(Wavy(), x, Y, threat)
    within = Moves(by=0.05).run(Wavy(), x, Y, threat)
    assert torch.equal(within.adversarial, x + 0.05)


def test_progress_hears_every_step_of_every_image() -> None:
    for attack, total in (
        (PGD(steps=4, batch_size=2), 12),
        (PGD(steps=4, random_start=True, restarts=2), 24),
        (SPSA(steps=4, samples=2, stop_when_fooled=False), 12),
    ):
        done: list[float] = []
        attack.run(Wavy(), X, Y, Linf(0.1), progress=done.append)
        assert sum(done) == total


def test_images_may_be_views_and_may_carry_gradient_and_stay_untouched() -> None:
    stored = images(3).permute(0, 2, 3, 1).contiguous().requires_grad_(True)
    x = stored.permute(0, 3, 1, 2)
    before = x.detach().clone()
    result = PGD(steps=3).run(Wavy(), x, Y, Linf(0.1))
    assert torch.equal(result.adversarial, PGD(steps=3).run(Wavy(), before, Y, Linf(0.1)).adversarial)
    assert torch.equal(x, before)
    assert stored.grad is None
    assert check_images(x, Y).is_contiguous()
    assert not check_images(x, Y).requires_grad


def test_an_attack_leaves_no_gradient_on_the_model() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(18, 3)).double().eval()
    PGD(steps=2, random_start=True, restarts=2).run(model, X, Y, Linf(0.1))
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_attacks_work_where_gradients_are_switched_off() -> None:
    with torch.no_grad():
        inside = PGD(steps=2).run(Wavy(), X, Y, Linf(0.1))
    assert torch.equal(inside.adversarial, PGD(steps=2).run(Wavy(), X, Y, Linf(0.1)).adversarial)
    assert inside.zero_gradient_share == 0.0


def test_predictions_come_in_the_images_order_and_say_where_there_is_no_answer() -> None:
    model = Linear(weights(3), torch.zeros(3, dtype=torch.float64))
    x = images(7)
    expected = model(x).argmax(1)
    for size in (1, 3, 7, 50):
        assert torch.equal(predict(model, x, size), expected)

    def broken(x: Tensor) -> Tensor:
        logits = model(x)
        return torch.where(x[:, :1, 0, 0] > 0.5, torch.nan, logits)

    none = x[:, 0, 0, 0] > 0.5
    assert 0 < int(none.sum()) < 7
    assert torch.equal(predict(broken, x, 3), torch.where(none, -1, expected))
