"""The cause: on models that mask in one known way it is that factor that carries; the rule itself on hand-made ones."""

from __future__ import annotations

import pytest
import torch
from audit_stages import Swap, board, swap
from audit_subjects import Gauge, Mates, Pixels, drawn, subject_of
from torch import Tensor, nn

from sonet.attacks import Linf
from sonet.audit import cause
from sonet.audit.cause import Change, find_causes, name_cause
from sonet.audit.masks import BatchMates, RandomPhase, SaturatedLogits, WrongBackward
from sonet.audit.overestimate import OVERESTIMATE
from sonet.audit.planted import Detached, Linear, Softmax
from sonet.audit.siege import besiege
from sonet.audit.subject import Subject
from sonet.report.audit_record import Bar, Count
from sonet.solvers import Fixed
from sonet.types import Proportion

TWO = Linear.random(2, 0)
X = drawn(24)
NEAR = TWO.distance(X, TWO(X).argmax(1), "linf").sort().values
EPS = float(NEAR[17] + NEAR[18]) / 2
"""18 of the 24 can be felled."""


def causes(model: nn.Module, **more: object) -> tuple[list[Bar], Subject]:
    settings = {"steps": 20, "subset": 24, "queries": 60, "calls": 4}
    subject = subject_of(model, X, TWO(X).argmax(1), Linf(EPS), **(settings | more))
    besiege(subject, lambda name: True)
    return find_causes(subject, lambda name: True), subject


def carriers(bars: list[Bar]) -> list[str]:
    return [f"{bar.factor}: {bar.setting}" for bar in bars if bar.carries]


def settings(bars: list[Bar], factor: str) -> list[str]:
    return [bar.setting for bar in bars if bar.factor == factor]


def test_where_only_the_loss_masks_the_loss_carries() -> None:
    """Logits times 1e4. Square too goes by the margin; other gradients of the cross-entropy change nothing."""
    bars, subject = causes(SaturatedLogits(TWO))
    assert subject.stages.left.count == 6
    by_name = {(bar.factor, bar.setting): bar for bar in bars}
    reference, margin = bars[0], by_name["loss", "margin"]
    assert reference.reference
    assert reference.left.count == 24
    assert margin.carries
    assert margin.left.count == 6
    assert margin.note == "18 of 24 fell only then"
    assert set(carriers(bars)) - {"gradient: none: square"} == {"loss: margin"}
    assert settings(bars, "precision") == ["float64"]  # gradients of zero might have been of that
    for other in (by_name["gradient", "mean over a neighbourhood"], by_name["precision", "float64"]):
        assert other.left.count >= 23
    assert "loss (margin) to 25%" in name_cause(bars)


def test_of_a_cut_graph_only_what_needs_no_gradient_carries() -> None:
    bars, _ = causes(Detached(TWO), queries=300)
    assert carriers(bars) == ["gradient: none: square"]
    assert {bar.left.count for bar in bars if not bar.carries} == {24}


def test_of_a_wrong_backward_pass_neither_loss_nor_smoothing_carries() -> None:
    bars, _ = causes(WrongBackward(TWO, seed=None), queries=300)
    assert carriers(bars) == ["gradient: none: square"]


def test_of_batch_mates_it_is_the_batch() -> None:
    bars, _ = causes(BatchMates(TWO), queries=20)
    assert settings(bars, "attack batch") == ["4 images", "one image"]
    assert "attack batch: one image" in carriers(bars)
    assert "gradient: mean over a neighbourhood" not in carriers(bars)


def test_of_randomness_it_is_the_mean_of_calls() -> None:
    bars, _ = causes(RandomPhase(TWO, amplitude=0.02, frequency=400.0), calls=30, queries=5)
    assert settings(bars, "randomness") == ["mean of 30 calls"]
    assert "randomness: mean of 30 calls" in carriers(bars)


def test_of_a_sure_softmax_it_is_the_output() -> None:
    """p rounds to 1, and so the cross-entropy of p is flat; log p has a slope for the other class."""
    scale = 50 / float(TWO(X).diff(dim=1).abs().amax())
    bars, _ = causes(Softmax(Linear(TWO.weight * scale, TWO.bias * scale)))
    assert settings(bars, "output") == ["logarithm of the probabilities"]
    assert settings(bars, "output and precision") == ["logarithm in float64"]
    by_name = {bar.factor: bar for bar in bars}
    assert by_name["output"].left.count == by_name["output and precision"].left.count == 6


def test_where_nothing_masks_nothing_carries() -> None:
    bars, subject = causes(TWO)
    assert bars[0].left.count - subject.stages.left.count <= 1
    assert carriers(bars) == []


def test_an_ode_network_is_asked_about_its_solver() -> None:
    subject = subject_of(Gauge(Fixed(method="euler", num_steps=2)), X, steps=3, subset=4)
    besiege(subject, lambda name: True)
    bars = find_causes(subject, lambda name: True)
    assert [(bar.factor, bar.setting) for bar in bars[1:]] == [
        ("loss", "margin"),
        ("steps", "8"),
        ("solver", "rk4, 8 steps"),
        ("adjoint", "continuous adjoint"),
    ]
    assert subject.not_run == {}


def test_the_images_are_the_first_that_are_right() -> None:
    labels = TWO(X).argmax(1)
    labels[:4] = 1 - labels[:4]
    subject = subject_of(TWO, X, labels, Linf(EPS), steps=20, subset=10)
    besiege(subject, lambda name: True)
    bars = find_causes(subject, lambda name: True)
    far = TWO.distance(X, TWO(X).argmax(1), "linf") > EPS
    by_name = {bar.setting: bar for bar in bars}
    assert by_name["margin"].left.n == 10
    assert by_name["margin"].left.count == int(far[4:14].sum())


def test_without_a_right_image_there_is_no_cause() -> None:
    assert find_causes(board(wrong=range(12)), lambda name: True) == []
    assert name_cause([]) == ""


def test_what_is_not_told_to_go_on_is_left_out() -> None:
    subject = subject_of(TWO, X, threat=Linf(EPS))
    bars = find_causes(subject, lambda name: name == "cause: loss")
    assert [bar.factor for bar in bars] == ["reference", "loss"]


class OneByOne(nn.Module):
    """Answers and gradients depend on batch-mates; it fails for a batch of one."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Mates(torch.ones(64) / 64, 1.0, 0.5, hidden=True)
        self.refuse = False
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        if self.refuse and len(images) == 1:
            raise ValueError("one image is no batch")
        logits: Tensor = self.model(images)
        return logits


def test_a_factor_that_fails_is_written_down_and_the_others_are_asked() -> None:
    model = OneByOne()
    subject = subject_of(model, X)
    assert subject.shared
    model.refuse = True
    bars = find_causes(subject, lambda name: True)
    assert subject.not_run["cause: attack batch, one image"] == "ValueError: one image is no batch"
    assert "one image" not in [bar.setting for bar in bars]
    assert "margin" in [bar.setting for bar in bars]


def by_rule(monkeypatch: pytest.MonkeyPatch, fells: int, standing: int, n: int = 40) -> Bar:
    """The bar of a change that fells `fells` of n images, of which PGD fells none and all attacks leave `standing`."""
    subject = board(n, model=Detached(Pixels(2)), subset=n)
    swap(subject, "square", range(n - standing))
    change = Change("planted", "by hand", Swap(whose=frozenset(range(fells)), batch_size=7), subject.own)
    monkeypatch.setattr(cause, "_changes", lambda *_: iter([change]))
    bars = find_causes(subject, lambda name: True)
    assert bars[0].left.count == n
    return bars[1]


@pytest.mark.parametrize(
    ("fells", "standing", "carries"),
    [(20, 0, None), (21, 0, True), (11, 20, True), (10, 20, None), (14, 0, None), (13, 0, False), (0, 40, None)],
)
def test_it_must_take_more_than_half_of_the_excess_and_does_not_where_the_interval_excludes_half(
    monkeypatch: pytest.MonkeyPatch, fells: int, standing: int, carries: bool | None
) -> None:
    bar = by_rule(monkeypatch, fells, standing)
    assert bar.left.count == 40 - fells
    assert bar.carries is carries


def test_and_more_than_chance_of_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    for fells in range(3, 8):
        bar = by_rule(monkeypatch, fells, standing=40 - fells)  # all of the excess
        assert bar.carries is (True if Proportion(fells, 40).interval[0] > OVERESTIMATE else None)
    assert bar.carries


def bar(factor: str, left: int, carries: bool | None, setting: str = "new") -> Bar:
    return Bar(factor=factor, setting=setting, left=Count.of(Proportion(left, 20)), carries=carries)


def test_the_sentence_names_who_carries_lowest_first_and_who_does_not() -> None:
    first = bar("reference", 16, None, "PGD")
    sentence = name_cause([first, bar("a", 4, True), bar("b", 2, True), bar("c", 15, False), bar("d", 16, False)])
    assert sentence == (
        "From the 80% that PGD leaves, one change alone leads: b (new) to 10%; a (new) to 20%. "
        "Not by themselves: c (new), d (new)."
    )
    assert name_cause([first, bar("a", 4, True)]).endswith("a (new) to 20%.")
    assert "several together" in name_cause([first, bar("c", 15, False)])
    assert name_cause([first]) == ""
