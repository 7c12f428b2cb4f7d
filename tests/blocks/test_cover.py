"""What is proven of each kind of layer, against what it was seen to do: stretches, sizes, and rounding in float32."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sonet.blocks import (
    BasicBlock,
    ConvexPotential,
    GlobalPool,
    MaxMin,
    ODEBlock,
    SpreadChannels,
    TiedSkewConv,
    UnitRows,
    Unshuffle,
    WideBlock,
    convex_potential_block,
    odenet_block,
    skew_conv_block,
    skew_dense_block,
)
from sonet.blocks.cover import NotCovered, cover
from sonet.blocks.cover_ode import dynamics
from sonet.blocks.isometric import SplitLift
from sonet.blocks.stretch import logarithmic_at, pair_stretch, stretch_at
from sonet.bounds import Reach
from sonet.solvers import METHODS, Adaptive, Fixed

EULER = Fixed(method="euler", num_steps=2)
PLAIN = 9  # the seed without biases
Shape = tuple[int, ...]
Make = Callable[[], nn.Module]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def skew(channels: tuple[int, int], stride: int, gamma: float, slope: float, method: str = "euler") -> ODEBlock:
    solver = Fixed(method=method, num_steps=2)
    return skew_conv_block(*channels, stride, solver, gamma=gamma, slope=slope, norm=False)


def tied(gamma: float, slope: float) -> ODEBlock:
    field = TiedSkewConv(2, (5, 4), kernel_norm=0.7, gamma=gamma, slope=slope)
    return ODEBlock(SplitLift(), field, EULER, output="all")


LAYERS: dict[str, tuple[Make, Shape]] = {
    "skew": (lambda: skew((2, 3), 1, 0.0, 0.01), (2, 5, 4)),
    "skew, damped": (lambda: skew((3, 2), 1, 0.4, 0.5), (3, 4, 5)),
    "skew, on the torus": (lambda: skew((3, 3), 1, 0.2, 0.9), (3, 8, 7)),
    "skew, strided": (lambda: skew((2, 4), 2, 0.0, 0.1), (2, 6, 8)),
    "skew, strided, odd": (lambda: skew((1, 3), 2, 0.7, 0.1), (1, 7, 5)),
    "skew by rk4": (lambda: skew((1, 2), 1, 0.3, 0.5, "rk4"), (1, 4, 3)),
    "dense": (lambda: skew_dense_block(6, 3, EULER, slope=0.1), (6,)),
    "tied": (lambda: tied(0.1, 0.9), (4, 5, 4)),
    "tied, undamped": (lambda: tied(0.0, 0.3), (4, 5, 4)),
    "potential": (lambda: convex_potential_block(3, (5, 4), Fixed(method="euler", num_steps=1)), (3, 5, 4)),
    "basic": (lambda: BasicBlock(2, 2), (2, 5, 4)),
    "basic, strided": (lambda: BasicBlock(2, 3, 2), (2, 7, 5)),
    "wide": (lambda: WideBlock(3, 3), (3, 4, 5)),
    "wide, strided": (lambda: WideBlock(2, 3, 2), (2, 5, 7)),
    "conv": (lambda: nn.Conv2d(3, 2, 3, padding=1), (3, 6, 5)),
    "conv, strided": (lambda: nn.Conv2d(2, 3, 4, 2, padding=1, bias=False), (2, 9, 10)),
    "conv, pointwise": (lambda: nn.Conv2d(2, 3, 1, 2), (2, 5, 5)),
    "batch norm": (lambda: nn.BatchNorm2d(3), (3, 4, 3)),
    "batch norm without weights": (lambda: nn.BatchNorm2d(3, affine=False), (3, 4, 3)),
    "linear": (lambda: nn.Linear(7, 4), (7,)),
    "unit rows": (lambda: UnitRows(12, 4), (3, 2, 2)),
    "pool": (GlobalPool, (3, 5, 4)),
    "spread": (lambda: SpreadChannels(2, 7), (2, 3, 4)),
    "unshuffle": (Unshuffle, (2, 5, 4)),
    "max min": (MaxMin, (4, 3, 2)),
    "relu": (nn.ReLU, (2, 3, 3)),
    "flatten": (nn.Flatten, (2, 3, 3)),
}


def made(name: str, seed: int, wild: float = 0.5) -> tuple[nn.Module, Shape]:
    """In float32 and eval mode, with random biases and statistics; wild: how far scales differ, in powers of ten."""
    make, shape = LAYERS[name]
    torch.manual_seed(seed)
    layer = make().eval()
    with torch.no_grad():
        for i, parameter in enumerate(layer.parameters()):
            if parameter.dim() == 1:
                parameter.copy_(normal(*parameter.shape, seed=seed + i) * (seed != PLAIN))
        for module in layer.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean = (normal(module.num_features, seed=seed + 50) * 10**wild).float()
                module.running_var = (10 ** (2 * wild * normal(module.num_features, seed=seed + 51))).float()
    return layer, shape


def in_double(layer: nn.Module) -> nn.Module:
    """The same map in float64: kernels and rows that are made from weights stay those of float32."""
    exact = copy.deepcopy(layer).double()
    for mine, other in zip(layer.modules(), exact.modules(), strict=True):
        if isinstance(mine, TiedSkewConv | ConvexPotential):
            vars(other)["kernel"] = partial(torch.Tensor.double, mine.kernel().detach())
        elif isinstance(mine, UnitRows):
            vars(other)["rows"] = partial(torch.Tensor.double, mine.rows().detach())
    return exact


def from_image(shape: Shape) -> Reach:
    return Reach(math.sqrt(math.prod(shape)), 1.0, 0.0, 2.0**-24)


def forward(layer: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        out: Tensor = layer(x)
    return out


def largest(x: Tensor) -> float:
    return float(x.flatten(1).norm(dim=1).max())


@pytest.mark.parametrize("name", LAYERS)
def test_no_layer_stretches_more_than_it_may(name: str) -> None:
    for seed, wild in ((0, 0.5), (1, 0.5), (2, 2.0)):
        layer, shape = made(name, seed, wild)
        exact, gain = in_double(layer), cover(layer, from_image(shape), shape).gain
        generator = torch.Generator().manual_seed(seed)
        x = 10 ** normal(6, *(1 for _ in shape), seed=seed) * normal(6, *shape, seed=seed + 1)
        seen = stretch_at(exact, x, rounds=25, generator=generator)
        pairs = pair_stretch(exact, x, rounds=10, generator=generator)
        assert max(seen, pairs) <= gain * (1 + 1e-9)
        assert seen >= 0.1 * gain or wild > 1  # neither is the bound an idle one


@pytest.mark.parametrize("name", LAYERS)
def test_rounding_in_float32_moves_no_output_further_than_said(name: str) -> None:
    """Also where means are large and cancel, and variances are small."""
    for seed, wild in ((0, 0.5), (1, 2.0), (2, 4.0)):
        layer, shape = made(name, seed, wild)
        exact, reach = in_double(layer), cover(layer, from_image(shape), shape)
        x = torch.rand(8, *shape, generator=torch.Generator().manual_seed(seed)).float()
        x[0], x[1], x[2] = 0.0, 1.0, x[2].round()
        got, truth = forward(layer, x), forward(exact, x.double())
        assert got.dtype == torch.float32
        assert largest(got.double() - truth) <= reach.error * (1 + 1e-12)
        assert largest(truth) <= reach.size * (1 + 1e-12)
        assert reach.error <= 1e-2 * reach.size


@pytest.mark.parametrize("name", LAYERS)
def test_of_an_image_of_zeros_biases_and_their_rounding_are_left(name: str) -> None:
    """Also where a batch norm's shift all but undoes its mean."""
    for seed in (0, 1, 2, PLAIN):
        layer, shape = made(name, seed)
        for module in layer.modules():
            if isinstance(module, nn.BatchNorm2d) and module.affine:
                with torch.no_grad():
                    module.bias.sub_(module(torch.zeros(1, module.num_features, 1, 1)).flatten())
        reach = cover(layer, Reach(0.0, 1.0, 0.0, 2.0**-24), shape)
        x = torch.zeros(1, *shape)
        got, truth = forward(layer, x).double(), forward(in_double(layer), x.double())
        assert largest(truth) <= reach.size * (1 + 1e-12) + 1e-12
        assert largest(got - truth) <= reach.error


@pytest.mark.parametrize("name", LAYERS)
def test_an_error_that_came_in_grows_as_distances_may(name: str) -> None:
    layer, shape = made(name, 0)
    reach = cover(layer, Reach(1.0, 3.0, 0.5, 2.0**-24), shape)
    assert reach.error >= reach.gain / 3 * 0.5 * (1 - 1e-12)
    assert reach.gain == pytest.approx(3 * cover(layer, Reach(1.0, 1.0, 0.0, 0.0), shape).gain, rel=1e-12)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**30), names=st.lists(st.sampled_from(["conv", "basic", "skew", "tied"]), max_size=3))
def test_bounds_of_a_chain_are_those_of_its_layers_one_after_another(seed: int, names: list[str]) -> None:
    channels, size = 2, (6, 5)
    chain: list[nn.Module] = [SpreadChannels(1, channels)]
    torch.manual_seed(seed % 1000)
    for name in names:
        match name:
            case "conv":
                chain += [nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
            case "basic":
                chain.append(BasicBlock(channels, channels))
            case "skew":
                chain.append(skew((channels, channels), 1, 0.1, 0.5))
            case "tied":
                field = TiedSkewConv(1, size, kernel_norm=0.5, gamma=0.1, slope=0.9)
                chain += [ODEBlock(SplitLift(), field, EULER, output="all"), MaxMin()]
    chain += [GlobalPool(), nn.Linear(channels, 3)]
    model = nn.Sequential(*chain).eval()
    x = torch.rand(6, 1, *size, generator=torch.Generator().manual_seed(seed))
    shape: Shape = (1, *size)
    reach, at = from_image(shape), x
    for layer in model:
        reach = cover(layer, reach, tuple(at.shape[1:]))
        at = forward(layer, at)
    exact = in_double(model)
    assert largest(at.double() - forward(exact, x.double())) <= reach.error
    assert largest(forward(exact, x.double())) <= reach.size
    assert stretch_at(exact, x.double(), rounds=10, generator=torch.Generator().manual_seed(0)) <= reach.gain


@pytest.mark.parametrize("name", [name for name, (make, _) in LAYERS.items() if isinstance(make(), ODEBlock)])
def test_the_numbers_of_a_field_bound_its_jacobians(name: str) -> None:
    layer, shape = made(name, 3)
    block = in_double(layer)
    assert isinstance(layer, ODEBlock)
    assert isinstance(block, ODEBlock)
    found = dynamics(layer, shape)
    generator = torch.Generator().manual_seed(0)
    x = normal(3, *shape, seed=4)
    assert logarithmic_at(block, x, rounds=15, points=3, generator=generator) <= found.logarithmic + 1e-9
    assert math.exp(found.logarithmic) <= found.flow <= math.exp(found.logarithmic) * (1 + 1e-9)
    assert 0 < found.norm <= found.lipschitz * (1 + 1e-9) or name == "potential"
    state = tuple(torch.zeros_like(part) for part in block.lift(x[:1]))
    at_zero = torch.cat([part.flatten() for part in block.field(torch.zeros(1), state)])
    assert float(at_zero.detach().norm()) <= found.at_zero * (1 + 1e-9) + 1e-12


def test_a_potential_whose_neurons_are_all_on_has_its_largest_slope() -> None:
    block, shape = made("potential", 0)
    assert isinstance(block, ODEBlock)
    field = block.double().field
    assert isinstance(field, ConvexPotential)
    with torch.no_grad():
        field.bias.fill_(100.0)
    x, generator = normal(1, *shape), torch.Generator().manual_seed(0)
    seen = stretch_at(lambda x: field(torch.zeros(1), (x,))[0], x, generator=generator)
    largest_slope = dynamics(block, shape).lipschitz
    assert 0.8 * largest_slope <= seen <= largest_slope


@pytest.mark.parametrize(
    ("make", "shape", "why"),
    [
        (lambda: skew_conv_block(2, 3, 1, EULER, gamma=0, slope=0.1, norm=True), (2, 5, 5), "GroupNorm .*norm=False"),
        (lambda: odenet_block(2, EULER), (2, 5, 5), "ODENetField: GroupNorm divides"),
        (lambda: skew_conv_block(2, 3, 1, Adaptive(), gamma=0, slope=0.1, norm=False), (2, 5, 5), "(?i)adaptive steps"),
        (lambda: skew_dense_block(4, 3, Adaptive(), slope=0.1), (4,), "(?i)adaptive steps depend on the input"),
        (lambda: nn.GroupNorm(1, 2), (2, 5, 5), "GroupNorm: no bound is known"),
        (nn.Sigmoid, (2, 5, 5), "Sigmoid: no bound is known"),
        (lambda: nn.BatchNorm2d(2).train(), (2, 5, 5), "train mode"),
        (lambda: BasicBlock(2, 2).train(), (2, 5, 5), "couples the images"),
        (lambda: WideBlock(2, 2).train(), (2, 5, 5), "couples the images"),
        (lambda: nn.BatchNorm2d(2, track_running_stats=False).eval(), (2, 5, 5), "without running statistics"),
        (lambda: nn.Conv2d(2, 2, (3, 1)), (2, 5, 5), "square kernels"),
        (lambda: nn.Conv2d(2, 2, 3, groups=2), (2, 5, 5), "without groups"),
        (lambda: nn.Conv2d(2, 2, 3, dilation=2), (2, 7, 7), "dilation"),
        (lambda: ODEBlock(nn.Identity(), nn.Identity(), EULER), (2, 5, 5), "Identity: no bound"),
    ],
)
def test_what_has_no_bound_says_why(make: Make, shape: Shape, why: str) -> None:
    with pytest.raises(NotCovered, match=why):
        cover(make(), from_image(shape), shape)


class Loud(nn.ReLU):
    def forward(self, input: Tensor) -> Tensor:
        return 100 * super().forward(input)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), (2, 5, 5)),
        (lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), (2, 5, 5)),
        (lambda: nn.Conv2d(2, 2, 3, stride=(2, 1), padding=1), (2, 6, 6)),
        (lambda: nn.Conv2d(2, 2, 3, padding=(0, 1)), (2, 6, 6)),
        (lambda: nn.Conv2d(2, 2, 3, padding="same"), (2, 6, 6)),
        (lambda: skew((2, 2), 1, 0.0, 0.0), (2, 4, 4)),
        (MaxMin, (3, 4, 4)),
        (Loud, (2, 4, 4)),
    ],
    ids=["circular", "reflect", "strides", "paddings", "same", "slope 0", "odd channels", "subclass"],
)
def test_settings_that_break_a_proof_are_not_covered(make: Make, shape: Shape) -> None:
    with pytest.raises(NotCovered):
        cover(make().eval(), from_image(shape), shape)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_with_fixed_steps_is_covered(method: str) -> None:
    layer = skew_dense_block(3, 2, Fixed(method=method, num_steps=1), slope=0.5).eval()
    reach = cover(layer, from_image((3,)), (3,))
    x = torch.rand(20, 3, generator=torch.Generator().manual_seed(0))
    exact = in_double(layer)
    assert largest(forward(layer, x).double() - forward(exact, x.double())) <= reach.error
    assert stretch_at(exact, x.double(), rounds=10) <= reach.gain
    assert reach.error <= 1e-4 * reach.size
