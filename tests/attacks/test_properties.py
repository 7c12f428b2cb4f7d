"""What holds for every attack, whatever the network, the images, the radius: looked for in random ones.

Float64 wherever two runs are compared: batches of another size round differently, and a gradient near 0 or two losses
that are nearly equal turn the last digit into another step. In float32, of 4,800 such runs (400 of each attack) split
into single images none differed in who fell, but six in a pixel by more than 1e-6, up to 1e-4: no tolerance follows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toy_classifiers import Counting

from sonet.attacks import ATTACKS, LOSSES, Attack, AttackResult, Threat
from sonet.attacks.losses import fooled
from sonet.attacks.minimum import MinimumNorm
from sonet.attacks.threat import Norm

BENDS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "tanh": torch.tanh, "sin": torch.sin}
LOSS = st.sampled_from(sorted(LOSSES))
EITHER = st.booleans()
RATE = st.sampled_from((0.1, 0.5, 0.8))  # with 1 the first step ends exactly on the boundary of a linear model
FUTILITY = st.sampled_from((None, 0.5, 2.0))
SETTINGS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "fgsm": {"loss": LOSS},
    "pgd": {"loss": LOSS, "steps": st.integers(1, 6), "random_start": EITHER, "restarts": st.integers(1, 3)},
    "apgd-ce": {"steps": st.integers(1, 12), "restarts": st.integers(1, 2), "futility": FUTILITY},
    "apgd-dlr": {"steps": st.integers(1, 12), "restarts": st.integers(1, 2), "futility": FUTILITY},
    "apgd-t": {"steps": st.integers(1, 6), "targets": st.integers(1, 4), "encores": st.integers(0, 2)},
    "fab": {"steps": st.integers(1, 5), "targets": st.integers(1, 4), "restarts": st.integers(1, 2)},
    "deepfool": {"steps": st.integers(1, 6), "candidates": st.integers(1, 4)},
    "cw-l2": {"steps": st.integers(1, 10), "binary_search_steps": st.integers(1, 3), "learning_rate": RATE},
    "cw-linf": {"steps": st.integers(1, 10), "tau_steps": st.integers(1, 3), "learning_rate": RATE},
    "spsa": {"loss": LOSS, "steps": st.integers(1, 4), "samples": st.integers(2, 4)},
    "square": {"loss": LOSS, "queries": st.integers(1, 25), "restarts": st.integers(1, 2), "futility": FUTILITY},
    "boundary": {"steps": st.integers(1, 25), "starts": st.integers(1, 20)},
}
"""Short settings of each attack, beside `seed` and `stop_when_fooled`."""
N = 3


@dataclass(frozen=True)
class Net:
    """A network of random weights: a dense or a convolutional layer, a bend, a dense layer."""

    inner: Tensor
    outer: Tensor
    bias: Tensor
    bend: str
    scale: float
    shift: float = 0.0

    def __call__(self, x: Tensor) -> Tensor:
        x = x - 0.5
        hidden = F.conv2d(x, self.inner, padding=1) if self.inner.dim() == 4 else F.linear(x.flatten(1), self.inner)
        return self.scale * F.linear(BENDS[self.bend](hidden.flatten(1)), self.outer, self.bias) + self.shift


@dataclass(frozen=True)
class Case:
    """An attack and what it is run on."""

    attack: Attack
    model: Net
    images: Tensor
    labels: Tensor
    threat: Threat

    def run(self, model: Any = None, **changes: Any) -> AttackResult:
        """`model`: in place of the case's, for crafting; the case's judges."""
        case = replace(self, **changes)
        return case.attack.run(case.model, case.images, case.labels, case.threat, gradients_from=model)


@st.composite
def cases(
    draw: st.DrawFn,
    name: str,
    dtype: torch.dtype = torch.float64,
    eps: st.SearchStrategy[float] | None = None,
    compared: bool = False,
    **fixed: Any,
) -> Case:
    """compared: to be run twice, where rounding may differ; a tie that rounding decides would tell nothing."""
    kind = ATTACKS[name][0]
    drawn = {key: draw(values) for key, values in SETTINGS[name].items()} | {"seed": draw(st.integers(0, 3))}
    drawn["stop_when_fooled"] = draw(EITHER)
    if name == "pgd":
        drawn["restarts"] = drawn["restarts"] if drawn["random_start"] else 1
        # The last iterate may be worse than an earlier one, and is asked for all the same.
        drawn["keep"] = "best" if drawn["stop_when_fooled"] else draw(st.sampled_from(("best", "last")))
    if name == "square" and drawn["loss"] == "ce":
        drawn["futility"] = None
    attack = kind(**drawn | fixed)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    channels, height, width = draw(st.integers(1, 3)), draw(st.integers(3, 6)), draw(st.integers(3, 6))
    classes, pixels = draw(st.integers(2, 5)), channels * height * width
    if draw(EITHER):
        inner, hidden = 3 / (channels * 9) ** 0.5 * normal(2, channels, 3, 3), 2 * height * width
    else:
        inner, hidden = 3 / pixels**0.5 * normal(8, channels * height * width), 8
    model = Net(
        draw(st.sampled_from((0.5, 1.0, 3.0))) * inner,
        normal(classes, hidden) / hidden**0.5,
        normal(classes) / 4,
        # Of two classes whose boundary is a plane, FAB's overshoots from both sides cancel: it lands exactly on it. On
        # flat pieces CW-linf's steps, all of one length, come back to tau and to the boundary exactly.
        draw(st.sampled_from(("sin", "tanh") if compared and name in ("fab", "cw-linf") else sorted(BENDS))),
        draw(st.sampled_from((1.0, 1e-3, 1e3))),
    )
    images = torch.rand(N, channels, height, width, generator=generator, dtype=torch.float64).to(dtype)
    match draw(st.sampled_from(("grey", "some at the ends", "black and white"))):
        case "some at the ends":
            images = (2 * images - 0.5).clamp(0, 1)
        case "black and white":
            images = images.round()
    labels = model(images).argmax(1)
    wrong = draw(st.integers(0, 2 * N))
    if wrong < N:
        labels[wrong] = (labels[wrong] + 1) % classes
    norm = draw(st.sampled_from(kind.norms))
    radius = draw(eps if eps is not None else st.floats(0.01, 0.3)) * (1.0 if norm == "linf" else 0.5 * pixels**0.5)
    return Case(attack, model, images, labels, Threat(norm, radius))


def alike(one: AttackResult, other: AttackResult, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(one.adversarial, other.adversarial, rtol=0, atol=tolerance)
    for field in ("fooled", "predictions", "queries_each", "zero_gradients"):
        assert torch.equal(getattr(one, field), getattr(other, field)), field
    assert (one.minimum is None) == (other.minimum is None)
    if one.minimum is not None and other.minimum is not None:
        torch.testing.assert_close(one.minimum, other.minimum, rtol=0, atol=tolerance)


def taken(result: AttackResult, order: Tensor) -> AttackResult:
    each = ("adversarial", "labels", "predictions", "minimum", "zero_gradients", "queries_each")
    return replace(result, **{key: getattr(result, key)[order] for key in each if getattr(result, key) is not None})


def examples(number: int) -> Any:
    return settings(max_examples=number, deadline=None, derandomize=True, database=None)


every_attack = pytest.mark.parametrize("name", sorted(ATTACKS))


def test_every_attack_is_here() -> None:
    assert set(SETTINGS) == set(ATTACKS)


@every_attack
@examples(14)
@given(data=st.data())
def test_an_image_s_result_and_its_queries_are_its_own(name: str, data: st.DataObject) -> None:
    """Permuted, split, alone; the queries of an image are the images of it that the model saw, backward passes too."""
    case = data.draw(cases(name, compared=True))
    counting = Counting(case.model)
    whole = case.run(counting)
    assert whole.queries == counting.queries
    order = torch.tensor([2, 0, 1])
    alike(case.run(images=case.images[order], labels=case.labels[order]), taken(whole, order))
    alike(case.run(attack=case.attack.model_copy(update={"batch_size": 2})), whole)
    for i in range(N):
        counting, only = Counting(case.model), torch.tensor([i])
        alone = case.run(counting, images=case.images[only], labels=case.labels[only])
        alike(alone, taken(whole, only))
        assert alone.queries == counting.queries


class Recording(Counting):
    """Keeps a copy of every batch the classifier is shown."""

    def __init__(self, classifier: Any) -> None:
        super().__init__(classifier)
        self.seen: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        return super().__call__(x)


@every_attack
@examples(10)
@given(data=st.data())
def test_no_image_shown_on_the_way_is_better_than_the_result(name: str, data: st.DataObject) -> None:
    """If one inside the threat fooled, so does the result; if none did, the result has the largest loss of them.

    Of SPSA's images the probes do not count, for none is a place it went to; they come in batches of more than N.
    FGSM and PGD with keep="last" return where they arrive: they are not held to it.
    """
    case = data.draw(cases(name))
    x, threat = case.images, case.threat
    if name == "fgsm" or getattr(case.attack, "keep", "best") == "last":
        return
    apart = min(float(threat.distance(x[i : i + 1], x[j : j + 1])) for i, j in ((0, 1), (0, 2), (1, 2)))
    case = replace(case, threat=Threat(threat.norm, min(threat.eps, 0.49 * apart)))  # no doubt which image it is of
    recording = Recording(case.model)
    result = case.run(recording)
    seen = torch.cat([batch for batch in recording.seen if len(batch) <= N])
    seen = seen[((seen >= 0) & (seen <= 1)).flatten(1).all(1)]
    # A distance is compared as the attack compares it, to the last digit; a projection rounds.
    slack = 0.0 if isinstance(case.attack, MinimumNorm) else 1e-12
    for i in range(N):
        mine = seen[case.threat.distance(seen, x[i : i + 1]) <= case.threat.eps + slack]
        label = case.labels[i].expand(len(mine))
        if not len(mine):
            continue
        if bool(fooled(case.model(mine), label).any()):
            assert result.fooled[i]
        elif name in ("pgd", "apgd-ce", "apgd-dlr", "spsa", "square"):
            loss = LOSSES[case.attack.loss]  # type: ignore[attr-defined]
            best = loss(case.model(result.adversarial[i : i + 1]), label[:1])
            assert best >= loss(case.model(mine), label).max() - 1e-12 * max(case.model.scale, 1.0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ["pgd", "apgd-ce", "apgd-dlr", "square", "spsa"])
def test_an_image_on_a_peak_of_its_loss_is_the_result(name: str, norm: Norm) -> None:
    """Wherever the search starts: all it can find is farther from the boundary."""
    x = torch.rand(N, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    label = torch.zeros(N, dtype=torch.int64)

    def peaked(at: Tensor) -> Tensor:
        away = (at[:, None] - x).square().flatten(2).sum(2).amin(1)
        return torch.stack((1 + away, torch.zeros_like(away)), 1)

    attack = ATTACKS[name][0](**{"queries" if name == "square" else "steps": 5})
    result = attack.run(peaked, x, label, Threat(norm, 0.1))
    assert torch.equal(result.adversarial, x)


@every_attack
@examples(10)
@given(data=st.data(), radius=st.sampled_from((0.0, 1e-4, 0.03, 0.3, 1.1)), double=EITHER)
def test_box_and_budget_hold(name: str, data: st.DataObject, radius: float, double: bool) -> None:
    dtype = torch.float64 if double else torch.float32
    case = data.draw(cases(name, dtype, st.just(radius)))
    result = case.run()
    got, clean = result.adversarial.double(), case.images.double()
    assert result.adversarial.dtype == dtype
    assert torch.isfinite(got).all()
    assert (got >= 0).all()
    assert (got <= 1).all()
    assert (case.threat.distance(got, clean) <= case.threat.eps + (1e-12 if double else 1e-6)).all()
    if not radius:
        assert torch.equal(got, clean)
        assert torch.equal(result.fooled, result.clean != case.labels)


@every_attack
@examples(8)
@given(data=st.data(), shift=st.sampled_from((50.0, -50.0)))
def test_a_constant_on_all_logits_changes_nothing(name: str, data: st.DataObject, shift: float) -> None:
    case = data.draw(cases(name, compared=True))
    plain = case.run()
    alike(replace(case, model=replace(case.model, shift=shift)).run(), plain, 1e-6)


@every_attack
@examples(8)
@given(data=st.data())
def test_who_fell_falls_alone(name: str, data: st.DataObject) -> None:
    case = data.draw(cases(name))
    result = case.run()
    for image, label, fell in zip(result.adversarial, case.labels, result.fooled, strict=True):
        assert (int(case.model(image[None]).argmax()) != int(label)) == bool(fell)
    assert result.flips == 0


@pytest.mark.parametrize("name", sorted(name for name in ATTACKS if issubclass(ATTACKS[name][0], MinimumNorm)))
@examples(10)
@given(data=st.data(), factor=st.floats(1.1, 10))
def test_a_least_distance_does_not_depend_on_the_radius(name: str, data: st.DataObject, factor: float) -> None:
    """So a larger radius leaves no more. (FAB's later restarts do depend: they start in a ball of up to eps / 2.)"""
    once = {"restarts": 1} if name == "fab" else {}
    case = data.draw(cases(name, stop_when_fooled=False, **once))
    small, large = case.run(), case.run(threat=Threat(case.threat.norm, factor * case.threat.eps))
    assert small.minimum is not None
    assert large.minimum is not None
    assert torch.equal(small.minimum, large.minimum)
    for result in (small, large):
        inside = result.minimum <= result.threat.eps  # type: ignore[operator]
        assert result.fooled[inside].all()
        beyond = result.distance[inside] - result.minimum[inside]  # type: ignore[index]
        assert (beyond >= -1e-9).all()  # the last step beyond the boundary
        assert (beyond <= 1.001e-3 * result.minimum[inside]).all()  # type: ignore[index]
