"""The skew-symmetric fields: adjoints, skew Jacobians, kept norms, and the formulas with matrices written out."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sonet.blocks import SkewConv, SkewDense
from sonet.blocks.fields import SLOPE, group_norm
from sonet.solvers import Adaptive, integrate
from sonet.types import State

TIGHT = Adaptive(rtol=1e-10, atol=1e-10)
TIME = torch.zeros(1, dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def conv_field(
    in_channels: int, out_channels: int, stride: int, gamma: float = 0.0, slope: float = 1.0, norm: bool = False
) -> SkewConv:
    """A field in float64; by default its linear part alone. Norms get weights that tell one from the other."""
    field = SkewConv(in_channels, out_channels, stride, gamma=gamma, slope=slope, norm=norm).double()
    with torch.no_grad():
        for seed, parameter in enumerate(field.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=seed))
    return field


def state_for(field: SkewConv, height: int, width: int, samples: int = 1, seed: int = 5) -> State:
    out_channels, in_channels = field.kernel.shape[:2]
    y = normal(samples, out_channels, height // field.stride, width // field.stride, seed=seed)
    return y, normal(samples, in_channels, height, width, seed=seed + 1)


def energy(state: State) -> Tensor:
    return torch.stack([part.square().flatten(1).sum(1) for part in state]).sum(0)


def conv_matrix(kernel: Tensor, stride: int, height: int, width: int) -> Tensor:
    """K as a matrix, entry by entry: row (o, r, c) times column (i, r s - 1 + dr, c s - 1 + dc) is K[o, i, dr, dc]."""
    out_channels, in_channels, size, _ = kernel.shape
    rows, columns = height // stride, width // stride
    matrix = torch.zeros(out_channels, rows, columns, in_channels, height, width, dtype=kernel.dtype)
    for row in range(rows):
        for column in range(columns):
            for dr in range(size):
                for dc in range(size):
                    r, c = row * stride - 1 + dr, column * stride - 1 + dc
                    if 0 <= r < height and 0 <= c < width:
                        matrix[:, row, column, :, r, c] = kernel[:, :, dr, dc]
    return matrix.reshape(out_channels * rows * columns, in_channels * height * width)


@settings(max_examples=40, deadline=None)
@given(
    stride=st.sampled_from([1, 2]),
    height=st.integers(4, 13),
    width=st.integers(4, 13),
    in_channels=st.integers(1, 5),
    out_channels=st.integers(1, 5),
)
def test_the_transposed_convolution_is_the_adjoint(
    stride: int, height: int, width: int, in_channels: int, out_channels: int
) -> None:
    """<K z, y> = <z, K^T y>, also for the odd sizes that a bare transposed convolution cannot come back to."""
    field = conv_field(in_channels, out_channels, stride)
    y, z = state_for(field, height, width, samples=2)
    forth = field.convolve(z)
    back = field.transpose(y, (height, width))
    assert (forth.shape, back.shape) == (y.shape, z.shape)
    torch.testing.assert_close((forth * y).sum(), (z * back).sum(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("stride", "height", "width"), [(1, 4, 3), (2, 4, 6), (2, 5, 4), (2, 5, 7)])
@pytest.mark.parametrize("gamma", [0.0, 0.7])
def test_the_jacobian_of_the_linear_part_is_skew_and_damping_adds_minus_gamma(
    stride: int, height: int, width: int, gamma: float
) -> None:
    field = conv_field(2, 3, stride, gamma=gamma)
    y, z = state_for(field, height, width)

    def flat(vector: Tensor) -> Tensor:
        state = (vector[: y.numel()].view_as(y), vector[y.numel() :].view_as(z))
        return torch.cat([part.flatten() for part in field(TIME, state)])

    start = torch.cat([y.flatten(), z.flatten()])
    jacobian = torch.autograd.functional.jacobian(flat, start)
    assert isinstance(jacobian, Tensor)
    skew = jacobian + gamma * torch.eye(len(start), dtype=torch.float64)
    assert torch.equal(skew.diagonal(), torch.zeros_like(start))
    torch.testing.assert_close(skew.T, -skew, rtol=0, atol=1e-14)
    corner = skew[: y.numel(), y.numel() :]
    assert torch.equal(corner, conv_matrix(field.kernel.detach(), stride, height, width))


@pytest.mark.parametrize(("stride", "height", "width"), [(1, 5, 4), (2, 6, 4), (2, 7, 5)])
def test_the_undamped_flow_keeps_the_norm(stride: int, height: int, width: int) -> None:
    field = conv_field(2, 3, stride)
    start = state_for(field, height, width, samples=3)
    end = integrate(field, start, TIGHT).state
    assert (end[0] - start[0]).abs().max() > 0.1  # it does move
    torch.testing.assert_close(energy(end), energy(start), rtol=1e-8, atol=0)


@pytest.mark.parametrize("gamma", [0.1, 1.0])
def test_damping_shrinks_the_norm_as_its_closed_form(gamma: float) -> None:
    """d/dt (|y|^2 + |z|^2) = -2 gamma (|y|^2 + |z|^2), whatever K is."""
    field = conv_field(2, 2, 2, gamma=gamma)
    start = state_for(field, 5, 6, samples=2)
    end = integrate(field, start, TIGHT).state
    torch.testing.assert_close(energy(end), math.exp(-2 * gamma) * energy(start), rtol=1e-8, atol=0)


def hand_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """GroupNorm from its definition."""
    assert isinstance(norm, nn.GroupNorm)
    groups = x.reshape(len(x), norm.num_groups, -1)
    mean = groups.mean(2, keepdim=True)
    variance = (groups - mean).square().mean(2, keepdim=True)
    whitened = ((groups - mean) / (variance + 1e-5).sqrt()).reshape(x.shape)
    return whitened * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)


def hand_phi(x: Tensor, slope: float) -> Tensor:
    return torch.where(x > 0, x, slope * x)


@pytest.mark.parametrize(("stride", "height", "width"), [(1, 4, 5), (2, 6, 4), (2, 7, 5)])
@pytest.mark.parametrize(("gamma", "slope"), [(0.0, SLOPE), (0.4, 0.2)])
def test_conv_field_is_the_formula(stride: int, height: int, width: int, gamma: float, slope: float) -> None:
    """dy = N3(phi(K N2 z - gamma N1 y)), dz = N4(phi(-K^T N1 y - gamma N2 z)), K an explicit matrix."""
    field = conv_field(2, 6, stride, gamma=gamma, slope=slope, norm=True)
    y, z = state_for(field, height, width, samples=2)
    matrix = conv_matrix(field.kernel.detach(), stride, height, width)
    n1, n2 = hand_norm(field.norm_y, y), hand_norm(field.norm_z, z)
    dy = (n2.flatten(1) @ matrix.T).view_as(y) - gamma * n1
    dz = -(n1.flatten(1) @ matrix).view_as(z) - gamma * n2
    expected = hand_norm(field.norm_dy, hand_phi(dy, slope)), hand_norm(field.norm_dz, hand_phi(dz, slope))
    got = field(TIME.expand(2), (y, z))
    torch.testing.assert_close(got[0], expected[0], rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(got[1], expected[1], rtol=1e-11, atol=1e-11)


def test_dense_field_is_the_formula() -> None:
    """dy = W phi(z) + b1, dz = -W^T phi(y) + b2, written out for 3 features and 2 classes."""
    field = SkewDense(3, 2).double()
    matrix = torch.tensor([[1.0, -2.0], [0.5, 3.0], [-1.0, 4.0]], dtype=torch.float64)
    with torch.no_grad():
        field.weight.copy_(matrix)
        field.bias_y.copy_(torch.tensor([0.1, 0.2, 0.3]))
        field.bias_z.copy_(torch.tensor([-0.5, 0.25]))
    y = torch.tensor([[1.0, -1.0, 2.0]], dtype=torch.float64)
    z = torch.tensor([[2.0, -3.0]], dtype=torch.float64)
    # phi(z) = (2, -0.03), phi(y) = (1, -0.01, 2) at slope 0.01.
    dy = [2 + 0.06 + 0.1, 1 - 0.09 + 0.2, -2 - 0.12 + 0.3]
    dz = [-(1 - 0.005 - 2) - 0.5, -(-2 - 0.03 + 8) + 0.25]
    got = field(TIME, (y, z))
    torch.testing.assert_close(got[0], torch.tensor([dy], dtype=torch.float64), rtol=0, atol=1e-7)  # float32 biases
    torch.testing.assert_close(got[1], torch.tensor([dz], dtype=torch.float64), rtol=0, atol=1e-7)


def test_dense_field_is_skew_but_for_its_biases() -> None:
    field = SkewDense(4, 3, slope=1.0).double()
    start = normal(7)

    def flat(vector: Tensor) -> Tensor:
        return torch.cat([part.flatten() for part in field(TIME, (vector[None, :4], vector[None, 4:]))])

    jacobian = torch.autograd.functional.jacobian(flat, start)
    assert isinstance(jacobian, Tensor)
    assert torch.equal(jacobian.T, -jacobian)
    assert torch.equal(jacobian[:4, 4:], field.weight.detach())
    assert torch.equal(flat(torch.zeros(7, dtype=torch.float64)), torch.cat([field.bias_y, field.bias_z]))


@pytest.mark.parametrize(("stride", "size"), [(1, 3), (2, 4)])
def test_kernel_is_kaiming_uniform_with_a_root_five(stride: int, size: int) -> None:
    """gain sqrt(2 / (1 + 5)) times sqrt(3 / fan_in): uniform within 1 / sqrt(fan_in)."""
    torch.manual_seed(0)
    field = SkewConv(8, 32, stride)
    bound = 1 / math.sqrt(8 * size * size)
    assert field.kernel.shape == (32, 8, size, size)
    assert 0.99 * bound < field.kernel.abs().max() <= bound
    assert field.kernel.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)
    assert field.slope == 0.01
    assert not any(name.endswith("bias") for name, _ in field.named_parameters() if not name.startswith("norm"))


def test_biases_of_the_head_are_uniform_within_one_over_root_classes() -> None:
    torch.manual_seed(0)
    field = SkewDense(2000, 4)
    for values in (field.weight, field.bias_y):
        assert 0.49 < values.abs().max() <= 0.5
    assert field.bias_z.abs().max() <= 0.5


@pytest.mark.parametrize("stride", [0, 3, -1])
def test_only_strides_one_and_two(stride: int) -> None:
    with pytest.raises(ValueError, match=f"expected stride 1 or 2, got {stride}"):
        SkewConv(2, 2, stride)


@pytest.mark.parametrize("gamma", [-0.1, math.nan, math.inf])
def test_damping_must_damp(gamma: float) -> None:
    with pytest.raises(ValueError, match=f"gamma >= 0, got {gamma}"):
        SkewConv(2, 2, gamma=gamma)


def test_groups_are_the_most_up_to_eight_that_divide() -> None:
    """By hand where min(8, C) fails; and the property for every number of channels."""
    by_hand = {1: 1, 3: 3, 7: 7, 8: 8, 9: 3, 10: 5, 11: 1, 12: 6, 13: 1, 14: 7, 15: 5, 16: 8, 25: 5, 36: 6, 38: 2}
    for channels in range(1, 41):
        norm = group_norm(channels)
        assert norm.num_groups <= 8
        assert channels % norm.num_groups == 0
        assert all(channels % more for more in range(norm.num_groups + 1, 9))
        assert norm.num_groups == by_hand.get(channels, norm.num_groups)
        assert norm.num_groups == min(8, channels) or channels % min(8, channels)
        assert norm.affine
        assert norm(normal(2, channels, 3, 3).float()).shape == (2, channels, 3, 3)
