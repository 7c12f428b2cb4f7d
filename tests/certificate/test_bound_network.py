"""Constants of whole networks: never below what two images show, exact where that is known, rounding included."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from certificate_networks import COVERED, SIZE, Chained, convolutional, exact, linear, pixels, stable
from torch import Tensor, nn

from sonet.certificate import bound_network

EACH = pytest.mark.parametrize("name", list(COVERED))


def stretches(model: nn.Module, a: Tensor, b: Tensor, rounds: int = 30) -> Tensor:
    """(classes, classes): the largest change of a difference of logits over that of the images, by ascent."""
    classes = model(a).shape[1]
    one, other = (
        place.flatten() for place in torch.meshgrid(torch.arange(classes), torch.arange(classes)[:], indexing="ij")
    )
    starts = len(a)
    a, b = a.repeat(len(one), 1, 1, 1), b.repeat(len(one), 1, 1, 1)
    one, other = one.repeat_interleave(starts)[:, None], other.repeat_interleave(starts)[:, None]
    best = torch.zeros(len(a), dtype=a.dtype)
    for _ in range(rounds):
        a, b = a.detach().requires_grad_(True), b.detach().requires_grad_(True)
        change = model(a) - model(b)
        out = (change.gather(1, one) - change.gather(1, other)).abs()[:, 0]
        apart = (a - b).flatten(1).norm(dim=1)
        ratio = out / apart
        best = torch.maximum(best, ratio.detach())
        slopes = torch.autograd.grad(ratio.sum(), (a, b))
        with torch.no_grad():
            step = 0.1 * apart.view(-1, 1, 1, 1)
            a, b = (end + step * slope.sign() for end, slope in zip((a, b), slopes, strict=True))
    return best.view(classes, classes, starts).amax(2)


@EACH
def test_no_pair_of_images_shows_a_larger_constant(name: str) -> None:
    model = COVERED[name]()
    gaps = bound_network(model, pixels(1)).gaps
    twin = exact(model)
    x = pixels(4).double()
    seen = stretches(twin, x, x + 0.2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).double())
    assert bool((seen <= gaps * (1 + 1e-9)).all()), (seen / gaps).nan_to_num()
    assert float(seen.max()) > 0
    assert gaps.shape == (3, 3)
    assert gaps.dtype == torch.float64
    assert torch.equal(gaps, gaps.T)
    assert not gaps.diagonal().any()


@EACH
def test_rounding_moves_no_difference_of_logits_further_than_counted(name: str) -> None:
    model = COVERED[name]()
    error = bound_network(model, pixels(1)).error
    twin = exact(model)
    extreme = (pixels(50, seed=3) > 0.5).float()
    x = torch.cat((pixels(200, seed=2), extreme, torch.zeros(1, 1, *SIZE), torch.ones(1, 1, *SIZE)))
    with torch.no_grad():
        off = model(x).double() - twin(x.double())
    worst = float((off.amax(1) - off.amin(1)).max())
    assert 0 < worst <= error
    if name in ("linear", "convolutional", "stable-sonet", "convex-potential"):  # of the others it is large
        assert error < 0.01


def test_shorter_images_are_rounded_less_and_longer_ones_do_not_exist() -> None:
    model = stable()
    whole, half, more = (bound_network(model, pixels(1), size=size) for size in (None, 2.0, 1e9))
    assert half.error < whole.error == more.error
    assert torch.equal(half.gaps, whole.gaps)


def test_of_a_linear_network_they_are_the_distances_of_its_rows() -> None:
    model = linear(classes=5)
    bound = bound_network(model, pixels(1))
    rows = model[1].weight.detach().double()  # type: ignore[union-attr]
    for i in range(5):
        for j in range(5):
            assert float(bound.gaps[i, j]) == pytest.approx(float((rows[i] - rows[j]).norm()), rel=1e-9)
    assert bound.largest == float(bound.gaps.max())
    assert [(layer.name, layer.kind) for layer in bound.layers] == [("0", "Flatten"), ("1", "Linear")]


def test_a_chain_without_bends_is_within_the_product_of_its_norms() -> None:
    """Convolutions and a batch norm in a row are one matrix, whose constant is known."""
    model = convolutional()
    straight = nn.Sequential(*(layer for part in model for layer in part if not isinstance(layer, nn.ReLU))).eval()  # type: ignore[attr-defined]
    bound = bound_network(straight, pixels(1))
    jacobian = torch.autograd.functional.jacobian(straight, pixels(1))[0].flatten(1).double()
    true = torch.cdist(jacobian, jacobian)
    assert bool((true <= bound.gaps * (1 + 1e-6)).all())
    assert float(bound.gaps.max()) < 6 * float(true.max())
    assert [layer.name for layer in bound.layers] == ["0", "1", "2", "3", "4"]


def test_names_are_places_in_the_network_and_constants_multiply() -> None:
    bound = bound_network(convolutional(), pixels(1))
    assert [layer.name for layer in bound.layers] == ["0.0", "0.1", "0.2", "1.0", "1.1", "1.2", "1.3"]
    kinds = ["Conv2d", "BatchNorm2d", "ReLU", "Conv2d", "ReLU", "Flatten", "Linear"]
    assert [layer.kind for layer in bound.layers] == kinds
    errors = [layer.error for layer in bound.layers]
    assert errors == sorted(errors) or errors[0] > 0
    assert bound.layers[2].gain == bound.layers[1].gain
    names = [layer.name for layer in bound_network(stable(), pixels(1)).layers]
    assert names == ["spread", "stages.0.0", "stages.0.1", "stages.1", "stages.2.0", "stages.2.1", "head"]


def test_a_network_of_one_s_own_that_names_its_layers_is_bounded() -> None:
    own, plain = bound_network(Chained().eval(), pixels(1)), bound_network(linear(), pixels(1))
    assert torch.equal(own.gaps, plain.gaps)
    assert [layer.name for layer in own.layers] == ["first", "last"]


def test_a_last_layer_that_is_not_linear_gets_the_square_root_of_two() -> None:
    """Two logits of one tensor: |e_i - e_j| = sqrt(2)."""
    bound = bound_network(COVERED["sonet"](), pixels(1))
    assert bound.gaps[0, 1] == pytest.approx(2**0.5 * bound.layers[-1].gain, rel=1e-9)


@pytest.mark.parametrize("make", [stable, convolutional])
def test_bounding_changes_neither_weights_nor_answers_nor_modes(make: Callable[[], nn.Module]) -> None:
    model = make()
    image = pixels(1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    answer, grads = model(image), [p.requires_grad for p in model.parameters()]
    bound_network(model, image)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(model(image), answer)
    assert [p.requires_grad for p in model.parameters()] == grads
    assert not any(module.training for module in model.modules())
