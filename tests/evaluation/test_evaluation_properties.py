"""What holds for every evaluation, whatever the network, the images and the attacks: looked for in random ones.

In float64: the batch an image is in decides the last digit of its logits, and in float32 that one can be felt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import Net, labels_of, some_images
from torch import Tensor

from sonet.attacks import ATTACKS, Attack, Threat
from sonet.attacks.ensemble import Member
from sonet.evaluation import EARLIER, STANDS, WRONG, Evaluation, evaluate

SHORT: dict[str, dict[str, Any]] = {
    "fgsm": {},
    "pgd": {"steps": 4, "loss": "margin", "random_start": True, "stop_when_fooled": True},
    "apgd-ce": {"steps": 6, "futility": 1.0},
    "apgd-dlr": {"steps": 6, "restarts": 2, "stop_when_fooled": False},
    "apgd-t": {"steps": 5, "targets": 2},
    "fab": {"steps": 4, "targets": 2, "stop_when_fooled": True},
    "deepfool": {"steps": 2, "candidates": 2},
    "cw-l2": {"steps": 6, "binary_search_steps": 2, "learning_rate": 0.5, "stop_when_fooled": True},
    "cw-linf": {"steps": 6, "tau_steps": 2, "learning_rate": 0.5},
    "spsa": {"steps": 3, "samples": 4},
    "square": {"queries": 15},
    "boundary": {"steps": 15, "starts": 10, "stop_when_fooled": True},
}
N = 6


@dataclass(frozen=True)
class Case:
    model: Net
    images: Tensor
    labels: Tensor
    threat: Threat
    names: tuple[str, ...]

    @property
    def members(self) -> list[Member]:
        return [Member(name=name, attack=short(name)) for name in self.names]

    def evaluate(self, order: Tensor | None = None, members: Any = None, **more: Any) -> Evaluation:
        """The images in another order, the members given in place of the case's."""
        order = torch.arange(N) if order is None else order
        images, labels = self.images[order].contiguous(), self.labels[order]
        threat = more.pop("threat", self.threat)
        return evaluate(self.model, images, labels, threat, members or self.members, **more)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    seed = draw(st.integers(0, 2**20))
    norm = draw(st.sampled_from(("linf", "l2")))
    names = [name for name, (kind, _) in ATTACKS.items() if norm in kind.norms]
    chosen = draw(st.lists(st.sampled_from(names), min_size=1, max_size=4, unique=True))
    model = Net(seed, draw(st.integers(2, 5)), draw(st.sampled_from((0.5, 2.0, 6.0))))
    images = some_images(N, seed)
    if draw(st.booleans()):
        images = (2 * images - 0.5).clamp(0, 1)
    labels = labels_of(model, images)
    wrong = draw(st.integers(0, 2 * N))
    if wrong < N:
        labels[wrong] = (labels[wrong] + 1) % len(model.outer)  # type: ignore[arg-type]
    # A third of the way at which most images fall, to twice it.
    eps = draw(st.floats(0.3, 2.0)) * (0.06 if norm == "linf" else 0.25) / model.speed
    return Case(model, images, labels, Threat(norm, eps), tuple(chosen))


def short(name: str, **changes: Any) -> Attack:
    return ATTACKS[name][0](**SHORT[name] | changes)


def examples(number: int) -> Any:
    return settings(max_examples=number, deadline=None, derandomize=True, database=None)


def test_every_attack_is_here() -> None:
    assert set(SHORT) == set(ATTACKS)


@examples(40)
@given(case=cases())
def test_who_falls_is_the_union_of_the_attacks_alone(case: Case) -> None:
    found = case.evaluate()
    alone = [
        member.attack.run(case.model, case.images, case.labels, case.threat).fooled & (found.fell_to != WRONG)
        for member in case.members
    ]
    wrong = labels_of(case.model, case.images) != case.labels
    assert torch.equal(found.fell_to == WRONG, wrong)
    assert torch.equal(~found.standing, torch.stack(alone).any(0) | wrong)
    for number, fell in enumerate(alone):  # an image that fell is the first one's that fells it
        before = torch.stack(alone[:number]).any(0) if number else torch.zeros_like(fell)
        assert torch.equal(found.fell_to == number, fell & ~before)
    for place in range(N):
        judged = labels_of(case.model, found.adversarial[place : place + 1])
        assert (judged != case.labels[place]) == (not found.standing[place])
    assert found.flips == 0
    case.threat.check(found.adversarial, case.images)


@examples(30)
@given(
    case=cases(),
    images=st.permutations(range(N)),
    attacks=st.randoms(use_true_random=False),
    batch=st.integers(1, N + 1),
    judged=st.integers(1, N + 1),
)
def test_no_order_and_no_batch_size_changes_who_falls(
    case: Case, images: list[int], attacks: Any, batch: int, judged: int
) -> None:
    found = case.evaluate()
    resized = {name: Member(name=name, attack=short(name, batch_size=batch)) for name in case.names}
    members = [resized[name] for name in attacks.sample(case.names, len(case.names))]
    order = torch.tensor(images)
    other = case.evaluate(order, members, judge_batch=judged)
    assert torch.equal(other.standing, found.standing[order])
    assert torch.equal(other.fell_to == WRONG, (found.fell_to == WRONG)[order])
    assert other.accuracy == found.accuracy
    first = case.names[0]  # on its own it gives the same images, too
    one, again = case.evaluate(members=case.members[:1]), case.evaluate(order, [resized[first]])
    torch.testing.assert_close(again.adversarial, one.adversarial[order], rtol=0, atol=1e-8)


@examples(25)
@given(case=cases(), factors=st.lists(st.floats(1.0, 2.0), min_size=2, max_size=3))
def test_a_larger_radius_never_leaves_more(case: Case, factors: list[float]) -> None:
    """On any image; and what fell earlier still falls, within the smaller radius."""
    earlier, threat = case.evaluate(), case.threat
    for factor in factors:
        threat = Threat(threat.norm, threat.eps * factor)
        found = case.evaluate(threat=threat, earlier=earlier)
        assert not (found.standing & ~earlier.standing).any()
        assert found.accuracy.count <= earlier.accuracy.count
        again = found.fell_to == EARLIER
        assert torch.equal(again, (earlier.fell_to != STANDS) & (earlier.fell_to != WRONG))
        assert torch.equal(found.adversarial[again], earlier.adversarial[again])
        assert (labels_of(case.model, found.adversarial) != case.labels)[again].all()
        assert all((attempt.queries[again] == 0).all() for attempt in found.attempts)
        threat.check(found.adversarial, case.images)
        earlier = found
