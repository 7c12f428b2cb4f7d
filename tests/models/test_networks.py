"""The networks against the paper: parameters by hand, shapes, and samples that do not know their batch-mates."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sonet.blocks import ODEBlock, ode_blocks
from sonet.models import build
from sonet.solvers import Adaptive, Fixed, paper

QUICK = Fixed(method="euler", num_steps=1)
RK4 = Fixed(method="rk4", num_steps=2)

SMALL: dict[str, dict[str, Any]] = {
    "sonet": {"channels": 2, "blocks": (1, 2), "strides": (1, 2)},
    "soblock-resnet10": {"channels": 4, "blocks": (1, 2), "strides": (1, 2)},
    "soblock-wide-resnet": {"depth": 10, "widen": 1},
    "odenet": {"channels": 3, "num_blocks": 2},
    "resnet10": {"channels": 4, "blocks": (1, 2), "strides": (1, 2)},
    "wide-resnet": {"depth": 10, "widen": 1},
}
WITH_BLOCKS = ["sonet", "soblock-resnet10", "soblock-wide-resnet", "odenet"]


def small(name: str, **options: Any) -> nn.Module:
    """A small network in eval mode, its batch norms with statistics of some images."""
    if name in WITH_BLOCKS:
        options = {"solver": RK4} | options
    model = build(name, seed=3, **(SMALL[name] | options))
    if any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        with torch.no_grad():
            for _ in range(3):
                model(images(16, model.config.in_channels, seed=9))
    return model.eval()


def images(n: int, channels: int = 3, height: int = 8, width: int = 8, seed: int = 0) -> Tensor:
    return torch.rand(n, channels, height, width, generator=torch.Generator().manual_seed(seed))


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# From the paper's description.


def skew(c_in: int, c_out: int, size: int) -> int:
    """One kernel without bias, and four affine norms: two over C_out channels (y, dy), two over C_in (z, dz)."""
    return c_out * c_in * size * size + 2 * (2 * c_out) + 2 * (2 * c_in)


def dense(features: int, classes: int) -> int:
    """W and two biases."""
    return features * classes + features + classes


def linear(features: int, classes: int) -> int:
    return features * classes + classes


def basic(c_in: int, c_out: int) -> int:
    """Two 3 x 3 convolutions without bias, each with an affine norm; a 1 x 1 one with a norm where channels change."""
    shortcut = c_in * c_out + 2 * c_out if c_in != c_out else 0
    return 9 * c_in * c_out + 2 * c_out + 9 * c_out * c_out + 2 * c_out + shortcut


def odenet(c: int) -> int:
    """Three norms, and two 3 x 3 convolutions with bias and the time as one more channel."""
    return 3 * 2 * c + 2 * (9 * (c + 1) * c + c)


def wide(c_in: int, c_out: int) -> int:
    """Norm, convolution, norm, convolution, with biases; a 1 x 1 convolution with bias where channels change."""
    shortcut = c_in * c_out + c_out if c_in != c_out else 0
    return 2 * c_in + 9 * c_in * c_out + c_out + 2 * c_out + 9 * c_out * c_out + c_out + shortcut


def wide_stages(c: int, n: int, widen: int) -> int:
    """From 16 channels through three stages of n blocks, and the last norm."""
    a, b, c = c * widen, 2 * c * widen, 4 * c * widen
    first = wide(16, a) + wide(a, b) + wide(b, c)
    return first + (n - 1) * (wide(a, a) + wide(b, b) + wide(c, c)) + 2 * c


COUNTS: list[tuple[str, dict[str, Any], int]] = [
    (
        "sonet",  # the paper's: n = 2 and c = 32, all options at their defaults
        {},
        (skew(3, 32, 3) + 2 * skew(32, 32, 3))
        + (skew(32, 64, 4) + skew(64, 64, 3))
        + (skew(64, 128, 4) + skew(128, 128, 3))
        + (skew(128, 256, 4) + skew(256, 256, 3))
        + dense(256, 10),
    ),
    (
        "sonet",
        {"channels": 64},
        (skew(3, 64, 3) + 2 * skew(64, 64, 3))
        + (skew(64, 128, 4) + skew(128, 128, 3))
        + (skew(128, 256, 4) + skew(256, 256, 3))
        + (skew(256, 512, 4) + skew(512, 512, 3))
        + dense(512, 10),
    ),
    (
        "sonet",
        {"channels": 4, "blocks": (1, 2, 1), "strides": (2, 1, 2), "in_channels": 1, "classes": 5},
        skew(1, 4, 3) + skew(4, 8, 4) + 2 * skew(8, 8, 3) + skew(8, 16, 4) + dense(16, 5),
    ),
    ("sonet", {"channels": 2, "blocks": (1,), "strides": (1,), "norm": False}, 54 + 36 + dense(2, 10)),
    (
        "soblock-resnet10",
        {},
        skew(3, 32, 3) + basic(32, 32) + basic(32, 64) + basic(64, 128) + basic(128, 256) + linear(256, 10),
    ),
    (
        "soblock-resnet10",
        {"channels": 64},
        skew(3, 64, 3) + basic(64, 64) + basic(64, 128) + basic(128, 256) + basic(256, 512) + linear(512, 10),
    ),
    (
        "resnet10",  # conv and norm in place of the block
        {},
        (9 * 3 * 32 + 64) + basic(32, 32) + basic(32, 64) + basic(64, 128) + basic(128, 256) + linear(256, 10),
    ),
    (
        "resnet10",
        {"channels": 4, "blocks": (2, 1), "strides": (1, 2), "in_channels": 1, "classes": 3},
        (9 * 4 + 8) + 2 * basic(4, 4) + basic(4, 8) + linear(8, 3),
    ),
    ("odenet", {}, 10 * odenet(54) + 2 * 54 + linear(9 * 54, 10)),
    ("odenet", {"channels": 5, "num_blocks": 3, "classes": 4}, 3 * odenet(5) + 10 + linear(45, 4)),
    ("wide-resnet", {}, (9 * 3 * 16 + 16) + wide_stages(16, 5, 10) + linear(640, 10)),
    ("soblock-wide-resnet", {}, skew(3, 16, 3) + wide_stages(16, 5, 10) + linear(640, 10)),
    (
        "wide-resnet",
        {"depth": 16, "widen": 2, "in_channels": 1, "classes": 7},
        (9 * 16 + 16) + wide_stages(16, 2, 2) + linear(128, 7),
    ),
]


@pytest.mark.parametrize(("name", "options", "count"), COUNTS)
def test_parameters_are_those_of_the_paper(name: str, options: dict[str, Any], count: int) -> None:
    with torch.device("meta"):  # nothing is allocated: 46 million for WideResNet-34-10
        model = build(name, **options)
    assert parameters(model) == count


def test_the_formulas_themselves_by_hand() -> None:
    """Guards the arithmetic above: numbers worked out on paper."""
    assert skew(3, 32, 3) == 864 + 128 + 12
    assert skew(32, 64, 4) == 32768 + 256 + 128
    assert dense(256, 10) == 2826
    assert basic(32, 64) == 18432 + 128 + 36864 + 128 + 2048 + 128
    assert odenet(54) == 324 + 2 * (26730 + 54)
    assert (
        46.1e6 < (9 * 3 * 16 + 16) + wide_stages(16, 5, 10) + linear(640, 10) < 46.3e6
    )  # 46.2 million: the known size of WRN-34-10


def shapes_of(model: nn.Module, stages: list[nn.Module], x: Tensor) -> list[tuple[int, ...]]:
    seen: list[tuple[int, ...]] = []

    def note(module: nn.Module, given: Any, out: Tensor) -> None:
        seen.append(tuple(out.shape))

    for stage in stages:
        stage.register_forward_hook(note)
    with torch.no_grad():
        seen.append(tuple(model(x).shape))
    return seen


def test_sonet_of_the_paper_is_as_wide_and_high_as_it_says() -> None:
    model = build("sonet", solver=QUICK).eval()
    stages = [model.first, *model.stages]
    expected = [(1, 32, 32, 32), (1, 32, 32, 32), (1, 64, 16, 16), (1, 128, 8, 8), (1, 256, 4, 4), (1, 10)]
    assert shapes_of(model, stages, images(1, 3, 32, 32)) == expected
    blocks = ode_blocks(model)
    assert list(blocks) == ["first", *(f"stages.{i}.{j}" for i in range(4) for j in range(2)), "head"]
    assert sum(1 for module in model.modules() if isinstance(module, ODEBlock)) == 10


@pytest.mark.parametrize("name", ["soblock-resnet10", "resnet10"])
def test_resnet10_of_the_paper_is_as_wide_and_high_as_it_says(name: str) -> None:
    model = build(name).eval()
    expected = [(1, 32, 32, 32), (1, 32, 32, 32), (1, 64, 16, 16), (1, 128, 8, 8), (1, 256, 4, 4), (1, 10)]
    assert shapes_of(model, [model.first, *model.stages], images(1, 3, 32, 32)) == expected
    assert list(ode_blocks(model)) == (["first"] if name == "soblock-resnet10" else [])


def test_odenet_of_the_paper_repeats_channels_and_pools_to_three_by_three() -> None:
    model = build("odenet", solver=QUICK).eval()
    assert len(ode_blocks(model)) == 10
    given: list[Tensor] = []
    model.blocks[0].register_forward_hook(lambda module, x, out: given.append(x[0]))
    x = images(1, 3, 32, 32)
    assert shapes_of(model, list(model.blocks), x) == [(1, 54, 32, 32)] * 10 + [(1, 10)]
    assert torch.equal(given[0], x[:, [0, 1, 2] * 18])
    assert model.head.in_features == 9 * 54


def test_wide_resnet_is_as_wide_and_high_as_it_says() -> None:
    for name in ("wide-resnet", "soblock-wide-resnet"):
        model = build(name, depth=10, widen=2).eval()
        stages = [model.first, *model.blocks]
        expected = [(1, 16, 32, 32), (1, 32, 32, 32), (1, 64, 16, 16), (1, 128, 8, 8), (1, 10)]
        assert shapes_of(model, stages, images(1, 3, 32, 32)) == expected
        assert list(ode_blocks(model)) == (["first"] if name.startswith("soblock") else [])


def test_nothing_follows_the_first_block_of_soblock_resnet() -> None:
    """No norm and no activation: negative numbers reach the first BasicBlock."""
    model = small("soblock-resnet10")
    assert isinstance(model.first, ODEBlock)
    assert (model.first(images(4)) < 0).any()
    assert (small("resnet10").first(images(4)) >= 0).all()


@settings(max_examples=12, deadline=None)
@given(
    height=st.integers(8, 13),
    width=st.integers(8, 13),
    channels=st.integers(1, 5),
    classes=st.integers(2, 11),
    n=st.integers(1, 3),
)
@pytest.mark.parametrize("name", list(SMALL))
def test_any_size_of_image_and_number_of_channels_and_classes(
    name: str, height: int, width: int, channels: int, classes: int, n: int
) -> None:
    options = {"solver": QUICK} if name in WITH_BLOCKS else {}
    model = build(name, seed=0, in_channels=channels, classes=classes, **SMALL[name], **options).eval()
    x = images(n, channels, height, width)
    logits = model(x)
    assert logits.shape == (n, classes)
    assert torch.isfinite(logits).all()
    assert (logits.std(1) > 0).all()


@settings(max_examples=8, deadline=None)
@given(height=st.integers(8, 13), width=st.integers(8, 13), channels=st.integers(1, 5))
def test_the_four_stages_of_the_paper_take_small_odd_images(height: int, width: int, channels: int) -> None:
    model = build("sonet", seed=0, channels=2, in_channels=channels, solver=QUICK).eval()
    x = images(2, channels, height, width)
    assert model.stages(model.first(x)).shape == (2, 16, height // 2 // 2 // 2, width // 2 // 2 // 2)
    assert torch.isfinite(model(x)).all()


DEFAULT = Adaptive()  # per sample, frozen, clipped


@pytest.mark.parametrize("name", list(SMALL))
def test_a_sample_does_not_depend_on_its_batch_mates(name: str) -> None:
    """Permuted, split, padded, alone: the same logits, to rounding.

    In float64 also of images so differently bright that each needs steps of its own. In float32 the norms inside a
    block blow the rounding of a dark image up as they blow up its contrast: at a brightness of 0.1 a million times.
    """
    model = small(name, **({"solver": DEFAULT} if name in WITH_BLOCKS else {}))
    alike = images(6)
    unlike = alike.double() * torch.linspace(0.4, 1, 6, dtype=torch.float64)[:, None, None, None]
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    for x, tolerance in ((alike, 1e-5), (unlike, 1e-11)):
        model = model.to(x.dtype)
        with torch.no_grad():
            whole = model(x)
            padded = model(torch.cat([x, torch.ones_like(x[:3])]))[:6]
            split = torch.cat([model(x[:4]), model(x[4:])])
            alone = torch.cat([model(x[i : i + 1]) for i in range(6)])
            torch.testing.assert_close(model(x[order]), whole[order], rtol=0, atol=tolerance)
        for other in (padded, split, alone):
            torch.testing.assert_close(other, whole, rtol=0, atol=tolerance)


def test_whole_batch_steps_couple_the_samples() -> None:
    """The paper's setting: other batch-mates, other logits."""
    model = build("sonet", seed=3, solver=paper(), **SMALL["sonet"]).double().eval()
    x = (images(6) * torch.linspace(0.1, 1, 6)[:, None, None, None]).double()
    with torch.no_grad():
        whole, alone = model(x), torch.cat([model(x[i : i + 1]) for i in range(6)])
    assert ((whole - alone).abs().amax(1) > 1e-4).all()


def gradients(model: nn.Module, x: Tensor, differentiable: Callable[[Tensor], Tensor] = lambda x: x) -> list[Tensor]:
    """Of the cross-entropy: with respect to the images and every parameter."""
    leaf = x.clone(memory_format=torch.contiguous_format).requires_grad_(True)
    loss = nn.functional.cross_entropy(model(differentiable(leaf)), torch.arange(len(x)) % 3)
    return list(torch.autograd.grad(loss, [leaf, *model.parameters()]))


@pytest.mark.parametrize("name", list(SMALL))
@pytest.mark.parametrize("solver", [RK4, DEFAULT, paper()], ids=["fixed", "adaptive", "paper"])
def test_backward_through_permuted_images_is_that_of_their_contiguous_copies(
    name: str, solver: Fixed | Adaptive
) -> None:
    if name not in WITH_BLOCKS and solver is not RK4:
        return
    model = small(name, **({"solver": solver} if name in WITH_BLOCKS else {})).double()
    stored = images(4, 3, 9, 8).double().permute(0, 2, 3, 1).contiguous()  # as image files are: channels last

    def view(leaf: Tensor) -> Tensor:
        x = leaf.permute(0, 3, 1, 2)
        assert not x.is_contiguous()
        return x

    through_view = gradients(model, stored, view)
    through_copy = gradients(model, stored, lambda leaf: leaf.permute(0, 3, 1, 2).contiguous())
    for got, expected in zip(through_view, through_copy, strict=True):
        assert expected.isfinite().all()
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)
    assert through_copy[0].abs().max() > 0


@pytest.mark.parametrize("name", list(SMALL))
@pytest.mark.parametrize("solver", [RK4, DEFAULT, paper()], ids=["fixed", "adaptive", "paper"])
def test_a_nan_image_gives_nan_logits_only_for_itself(name: str, solver: Fixed | Adaptive) -> None:
    if name not in WITH_BLOCKS and solver is not RK4:
        return
    model = small(name, **({"solver": solver} if name in WITH_BLOCKS else {}))
    x = images(4)
    others = torch.tensor([0, 1, 3])
    broken = x.clone()
    broken[2, 1, 4, 4] = torch.nan
    with torch.no_grad():
        logits, expected = model(broken), model(x[others])
    assert torch.isnan(logits[2]).all()
    torch.testing.assert_close(logits[others], expected, rtol=0, atol=1e-5)


def test_a_copy_of_a_network_is_a_network_of_its_own() -> None:
    model = small("sonet")
    copied = copy.deepcopy(model)
    next(iter(ode_blocks(copied).values())).solver = QUICK
    x = images(2)
    assert not torch.equal(model(x), copied(x))
    assert next(iter(ode_blocks(model).values())).solver == RK4
