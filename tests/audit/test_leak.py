"""The own-gradient share against models whose coupling is known by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sonet.audit import own_gradient_share
from sonet.models import build, variant
from sonet.solvers import paper

A, B = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])


def first_logit(logits: Tensor, labels: Tensor) -> Tensor:
    return logits[:, 0]


def coupled(images: Tensor) -> Tensor:
    """Logit i = A x_i + B mean_j x_j: d L_i / d x_i = A + B / n, d L_j / d x_i = B / n."""
    flat = images.flatten(1)
    return (flat @ A + (flat @ B).mean())[:, None]


def in_pairs(images: Tensor) -> Tensor:
    return torch.cat([coupled(pair) for pair in images.split(2)])


def pixels(n: int) -> tuple[Tensor, Tensor]:
    return torch.rand(n, 1, 1, 2, generator=torch.Generator().manual_seed(0)), torch.zeros(n, dtype=torch.int64)


def by_hand(n: int) -> float:
    own = math.hypot(3, 4 / n)
    return own / (own + 4 * (n - 1) / n)


@pytest.mark.parametrize("n", [1, 2, 4, 7])
def test_a_coupled_model_has_the_share_computed_by_hand(n: int) -> None:
    shares = own_gradient_share(coupled, *pixels(n), loss=first_logit)
    torch.testing.assert_close(shares, torch.full((n,), by_hand(n)))


def test_coupling_in_groups_needs_only_one_pass_for_each_member() -> None:
    calls = 0

    def counted(images: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return in_pairs(images)

    whole = own_gradient_share(in_pairs, *pixels(6), loss=first_logit)
    torch.testing.assert_close(whole, torch.full((6,), by_hand(2)))
    assert torch.equal(own_gradient_share(counted, *pixels(6), loss=first_logit, stride=2), whole)
    assert torch.equal(own_gradient_share(counted, *pixels(6), loss=first_logit, stride=6), whole)
    assert calls == 2


def test_an_independent_model_has_exactly_one() -> None:
    weight = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    images = torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(2))
    labels = torch.tensor([0, 1, 2, 0, 1])
    for stride in (None, 1, 5):
        shares = own_gradient_share(lambda x: x.flatten(1) @ weight.T, images, labels, stride=stride)
        assert torch.equal(shares, torch.ones(5))


def test_without_any_gradient_the_share_is_one() -> None:
    images, labels = pixels(3)
    assert torch.equal(own_gradient_share(lambda x: 0 * x.flatten(1), images, labels), torch.ones(3))


def test_a_gradient_that_is_not_finite_is_no_answer() -> None:
    images, labels = pixels(2)
    shares = own_gradient_share(lambda x: x.flatten(1) * torch.tensor([[torch.nan], [1.0]]), images, labels)
    assert shares[0].isnan()
    assert shares[1] == 1


def test_the_papers_network_leaks_and_with_frozen_steps_it_does_not() -> None:
    model = build("sonet", seed=0, in_channels=1, channels=2, blocks=(1,), strides=(2,), solver=paper())
    model = model.double().eval().requires_grad_(False)
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(4)
    leaking = own_gradient_share(model, images, labels)
    assert bool((leaking < 0.999).all())
    assert bool((leaking > 0).all())
    frozen = own_gradient_share(variant(model, step_gradient="frozen"), images, labels)
    torch.testing.assert_close(frozen, torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-9)
    single = own_gradient_share(variant(model, scope="sample"), images, labels)
    torch.testing.assert_close(single, torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-9)
    pairs = variant(model, scope=2)
    torch.testing.assert_close(
        own_gradient_share(pairs, images, labels, stride=2),
        own_gradient_share(pairs, images, labels),
        rtol=0,
        atol=1e-9,
    )


def test_the_image_is_not_changed_and_carries_no_graph() -> None:
    images, labels = pixels(4)
    before = images.clone()
    shares = own_gradient_share(coupled, images, labels, loss=first_logit)
    assert torch.equal(images, before)
    assert not images.requires_grad
    assert not shares.requires_grad


@pytest.mark.parametrize("stride", [3, 0, -1, -2, 8])
def test_a_stride_that_does_not_divide_the_images(stride: int) -> None:
    with pytest.raises(ValueError, match=rf"got stride {stride}, expected a number >= 1 that divides the 4 images"):
        own_gradient_share(coupled, *pixels(4), stride=stride)
