"""PGD on the KL, away from the network's own answer: its starts, its slope by hand, what it costs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from toy_classifiers import Counting, Wavy, images

from sonet.attacks import L2, PGD, AttackError, Linf, Threat
from sonet.attacks.losses import kl_divergence
from sonet.attacks.noise import ImageNoise

THREATS = pytest.mark.parametrize("threat", [Linf(0.1), L2(0.3)], ids=str)


def labels(n: int) -> torch.Tensor:
    return torch.arange(n) % 3


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"loss": "kl"}, "no gradient at the image itself"),
        ({"random_start": True, "start_noise": 0.1}, "two starts"),
        ({"start_noise": -0.1}, "greater than or equal to 0"),
    ],
    ids=str,
)
def test_starts_that_make_no_sense_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(AttackError, match=words):
        PGD(**given)


@THREATS
def test_it_is_the_loop_written_out_by_hand(threat: Threat) -> None:
    model, x = Wavy(), images(6)
    attack = PGD(steps=4, step_size=0.02, loss="kl", start_noise=0.01, keep="last", seed=3)
    result = attack.run(model, x, labels(6), threat)
    here = threat.project(x + 0.01 * ImageNoise(x, 3 * 1009).normal(), x)
    own = model(x).detach()
    for _ in range(4):
        here = here.detach().requires_grad_(True)
        slope = torch.autograd.grad(kl_divergence(model(here), own).sum(), here)[0]
        here = threat.project(here + 0.02 * threat.steepest(slope), x)
    torch.testing.assert_close(result.adversarial, here.detach(), rtol=0, atol=1e-12)


@THREATS
@pytest.mark.parametrize("start", [{"random_start": True}, {"start_noise": 0.01}], ids=str)
def test_labels_say_only_who_is_fooled(threat: Threat, start: dict[str, Any]) -> None:
    model, x = Wavy(), images(6)
    attack = PGD(steps=5, loss="kl", keep="last", **start)
    one, other = (attack.run(model, x, given, threat) for given in (labels(6), (labels(6) + 1) % 3))
    assert torch.equal(one.adversarial, other.adversarial)
    assert not torch.equal(one.fooled, other.fooled)
    with torch.no_grad():
        assert bool((kl_divergence(model(one.adversarial), model(x)) > 0).all())


def test_noise_at_the_start_belongs_to_the_image_and_the_seed() -> None:
    model, x = Wavy(), images(6)

    def run(seed: int, which: slice = slice(None)) -> torch.Tensor:
        attack = PGD(steps=2, start_noise=0.05, seed=seed, keep="last")
        return attack.run(model, x[which], labels(6)[which], Linf(0.2)).adversarial

    assert torch.equal(run(0), run(0))
    torch.testing.assert_close(run(0)[2:4], run(0, slice(2, 4)), rtol=0, atol=1e-12)
    assert ((run(0) - run(1)).abs().amax((1, 2, 3)) > 1e-3).all()


@pytest.mark.parametrize("restarts", [1, 3])
def test_its_reference_is_a_query(restarts: int) -> None:
    x = images(7)
    counting = Counting(Wavy())
    attack = PGD(steps=5, loss="kl", start_noise=0.01, restarts=restarts, keep="last")
    result = attack.run(Wavy(), x, labels(7), Linf(0.1), gradients_from=counting)
    assert result.queries == counting.queries == 7 * (1 + restarts * (2 * 5) + (restarts if restarts > 1 else 0))
