"""The networks that masks are tried on: what their layers do, and that k-winners, trained, masks its gradient."""

from __future__ import annotations

import torch
from torch import Tensor

import sonet
from sonet.attacks import APGD, PGD, SPSA, Linf
from sonet.audit.masks import MASK_EPS
from sonet.audit.networks import KWinners, TakeWinners, plain
from sonet.training import TrainConfig

COLOUR = (3, 17, 19)


def drawn(n: int, shape: tuple[int, int, int] = (1, 8, 8)) -> Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(0))


def test_winners_are_the_largest_of_each_sample_and_alone_have_a_gradient() -> None:
    x = torch.tensor([[3.0, -1.0, 2.0, 5.0], [-4.0, -1.0, -2.0, -3.0]], requires_grad=True)
    kept = TakeWinners(0.5)(x)
    assert kept.tolist() == [[3, 0, 0, 5], [0, -1, -2, 0]]
    assert torch.autograd.grad(kept.sum(), x)[0].tolist() == [[1, 0, 0, 1], [0, 1, 1, 0]]
    assert TakeWinners(0.01)(x).tolist() == [[0, 0, 0, 5], [0, -1, 0, 0]]
    planes = drawn(2, (4, 3, 5))
    assert (TakeWinners(0.1)(planes) != 0).flatten(1).sum(1).tolist() == [6, 6]


def test_k_winners_jumps_where_relu_does_not() -> None:
    """The largest change of a logit in a step along a line: steps of a tenth do not make a jump smaller."""
    networks = KWinners(COLOUR, 4, width=40).eval(), plain(COLOUR, 4, width=40).eval()
    start, end = drawn(2, COLOUR).double()
    shares = []
    for network in networks:
        with torch.no_grad():
            line = [network.double()(torch.lerp(start, end, torch.linspace(0, 1, n + 1).double().view(-1, 1, 1, 1)))
                    for n in (400, 4000)]  # fmt: skip
        coarse, fine = (float(values.diff(dim=0).abs().max()) for values in line)
        shares.append(fine / coarse)
    assert shares[0] > 0.7
    assert shares[1] < 0.15


def test_networks_of_a_seed_are_the_same_and_leave_the_generator_alone() -> None:
    before = torch.random.get_rng_state()
    for build in (KWinners, plain):
        one, same, other = (build(seed=seed).eval() for seed in (1, 1, 2))
        images = drawn(3)
        assert one(images).shape == (3, 10)
        assert torch.equal(one(images), same(images))
        assert not torch.equal(one(images), other(images))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_k_winners_shakes_its_images_in_training_only() -> None:
    model, images, seen = KWinners(width=20, shake=0.25), drawn(4), list[Tensor]()
    model.layers.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model(images)
    model.eval()(images)
    up, down = (images + 0.25).clamp(max=1), (images - 0.25).clamp(min=0)
    assert ((seen[0] == up) | (seen[0] == down)).all()
    assert 0.3 < float((seen[0] == up).double().mean()) < 0.7
    assert torch.equal(seen[1], images)


def test_k_winners_trained_masks_its_gradient() -> None:
    digits = sonet.load("digits")
    model = KWinners(seed=103, width=384)
    sonet.fit(model, digits.train, TrainConfig.model_validate({**KWinners.recipe, "epochs": 20, "device": "cpu"}))
    images, labels, threat = digits.test.images[:40], digits.test.labels[:40], Linf(MASK_EPS)
    own = PGD(steps=30, step_size=MASK_EPS / 10), APGD(steps=30, loss="ce")
    left = torch.stack([~attack.run(model, images, labels, threat).fooled for attack in own]).all(0)
    found = SPSA().run(model, images, labels, threat)
    assert found.natural.value >= 0.9
    assert float(left.double().mean()) >= found.accuracy.value + 0.15
