"""The worst case per sample: a union that no order of attacks, images or batches changes."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from small_models import Coupled, Net, Noisy, labels_of, members, some_images

from sonet.attacks import AttackError, Backpropagation, Linf, Threat
from sonet.attacks.ensemble import Member
from sonet.attacks.pgd import PGD
from sonet.evaluation import EARLIER, STANDS, WRONG, Evaluation, evaluate

EPS = {"linf": 0.03, "l2": 0.1}


def run(model: Any, x: Any, labels: Any, threat: Threat, some: Any = None, **more: Any) -> Evaluation:
    return evaluate(model, x, labels, threat, some or members(), **more)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_who_falls_is_the_union_of_the_single_attacks(norm: Any) -> None:
    model, x, threat = Net(), some_images(), Threat(norm, EPS[norm])
    labels = labels_of(model, x)
    labels[3] = (labels[3] + 1) % 4
    found = run(model, x, labels, threat)
    single = [member.attack.run(model, x, labels, threat).fooled for member in members()]
    union = torch.stack(single).any(0)
    assert torch.equal(~found.standing, union)
    assert 0 < int(union.sum()) < len(x)
    assert len({tuple(each.tolist()) for each in single}) > 1  # the attacks do differ
    assert found.fell_to[3] == WRONG
    assert found.natural.count == 23
    assert torch.equal(found.together != labels, union)
    threat.check(found.adversarial, x)


@pytest.mark.parametrize("kind", [Net, Coupled])
def test_the_order_of_the_attacks_does_not_matter(kind: Any) -> None:
    model, x, threat = kind(), some_images(), Threat("linf", 0.03)
    labels = labels_of(model, x)
    results = [
        run(model, x, labels, threat, order)
        for order in itertools.islice(itertools.permutations(members()), 0, 120, 17)
    ]
    assert {result.coupled for result in results} == {kind is Coupled}
    standing = {tuple(result.standing.tolist()) for result in results}
    assert len(standing) == 1
    assert 0 < results[0].accuracy.count < len(x)


def test_neither_does_the_order_of_images_or_the_size_of_batches() -> None:
    model, x, threat = Net(), some_images(), Threat("linf", 0.03)
    labels = labels_of(model, x)
    plain = run(model, x, labels, threat)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    shuffled = run(model, x[order].contiguous(), labels[order], threat, members(batch_size=5), judge_batch=7)
    assert torch.equal(shuffled.fell_to, plain.fell_to[order])
    torch.testing.assert_close(shuffled.adversarial, plain.adversarial[order], rtol=0, atol=1e-9)


def test_an_image_that_fell_costs_no_more_unless_batch_mates_matter() -> None:
    x, threat = some_images(), Threat("linf", 0.05)
    for kind in (Net, Coupled):
        labels = labels_of(kind(), x)
        found = run(kind(), x, labels, threat)
        for number, attempt in enumerate(found.attempts):
            before = (found.fell_to == STANDS) | (found.fell_to >= number)
            assert torch.equal(attempt.tried, torch.ones_like(before) if kind is Coupled else before)
            assert (attempt.queries[~attempt.tried] == 0).all()
            assert (attempt.queries[attempt.tried] > 0).all()


def test_a_model_of_changing_answers_is_named() -> None:
    x = some_images()
    torch.manual_seed(0)
    said: list[str] = []
    found = run(Noisy(), x, labels_of(Net(), x), Threat("linf", 0.03), say=said.append)
    assert found.random
    assert not found.coupled
    assert any("changes from call to call" in sentence for sentence in said)
    assert not run(Net(), x, labels_of(Net(), x), Threat("linf", 0.03)).random


def test_a_larger_radius_never_leaves_more_on_any_image() -> None:
    model, x = Net(speed=6.0), some_images(40)
    labels = labels_of(model, x)
    labels[0] = (labels[0] + 1) % 4
    earlier, counts = None, []
    for eps in (0.002, 0.004, 0.008, 0.016):
        threat = Linf(eps)
        found = run(model, x, labels, threat, members()[:1], earlier=earlier)
        if earlier is not None:
            assert not (found.standing & ~earlier.standing).any()
            again = found.fell_to == EARLIER
            assert torch.equal(again, (earlier.fell_to != STANDS) & (earlier.fell_to != WRONG))
            assert (labels_of(model, found.adversarial)[again] != labels[again]).all()
            threat.check(found.adversarial, x)
        counts.append(found.accuracy.count)
        earlier = found
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) > 2
    with pytest.raises(AttackError, match="expected the same images at a radius up to"):
        run(model, x, labels, Linf(0.001), earlier=earlier)


def test_gradients_of_another_source_and_bad_calls() -> None:
    model, x, threat = Net(), some_images(), Linf(0.05)
    labels = labels_of(model, x)
    attack = PGD(steps=5, loss="margin")
    cut = evaluate(lambda x: model(x.detach()), x, labels, threat, [Member(name="own", attack=attack)])
    assert cut.attempts[0].zero_gradient_share == 1.0
    assert cut.accuracy.value == 1.0
    through = [Member(name="other", attack=attack, gradients="true")]
    found = evaluate(
        lambda x: model(x.detach()), x, labels, threat, through, gradients={"true": Backpropagation(model)}
    )
    assert found.accuracy.value < 0.5
    for bad, word in (
        ((), "at least one attack"),
        (members()[:1] * 2, "every attack once"),
        (through, "no gradients are called true"),
    ):
        with pytest.raises(AttackError, match=word):
            evaluate(model, x, labels, threat, bad)
    with pytest.raises(AttackError, match="judge_batch"):
        run(model, x, labels, threat, judge_batch=0)


def test_nobody_left_to_attack() -> None:
    model, x = Net(), some_images(6)
    labels = (labels_of(model, x) + 1) % 4
    found = run(model, x, labels, Linf(0.1))
    assert found.accuracy.count == 0
    assert found.queries == 0
    assert (found.fell_to == WRONG).all()
