"""The residual blocks against their formulas."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sonet.blocks import BasicBlock, WideBlock


def settled(block: nn.Module) -> nn.Module:
    """In eval mode with statistics and weights that tell every norm from the others."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*block.parameters(), *block.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) - 0.3)
        for module in block.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.add_(1.0)  # type: ignore[union-attr]
    return block.double().eval()


def norm(bn: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """BatchNorm in eval mode from its definition."""
    mean, variance, weight, bias = (
        value.view(1, -1, 1, 1)
        for value in (bn.running_mean, bn.running_var, bn.weight, bn.bias)  # type: ignore[union-attr]
    )
    return (x - mean) / (variance + 1e-5).sqrt() * weight + bias


@pytest.mark.parametrize(("in_channels", "channels", "stride"), [(3, 3, 1), (2, 4, 1), (3, 3, 2), (3, 6, 2)])
def test_basic_block(in_channels: int, channels: int, stride: int) -> None:
    block = settled(BasicBlock(in_channels, channels, stride))
    assert isinstance(block, BasicBlock)
    x = torch.rand(2, in_channels, 7, 6, dtype=torch.float64) - 0.5
    out = norm(block.bn1, F.conv2d(x, block.conv1.weight, stride=stride, padding=1)).relu()
    out = norm(block.bn2, F.conv2d(out, block.conv2.weight, padding=1))
    shortcut = x
    if in_channels != channels or stride != 1:
        assert isinstance(block.shortcut, nn.Sequential)
        conv, bn = block.shortcut
        shortcut = norm(bn, F.conv2d(x, conv.weight, stride=stride))  # type: ignore[arg-type]
    expected = (out + shortcut).relu()
    torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-12)
    assert block(x).shape == (2, channels, -(-7 // stride), 6 // stride)


@pytest.mark.parametrize(("in_channels", "channels", "stride"), [(3, 3, 1), (2, 4, 1), (3, 3, 2), (3, 6, 2)])
def test_wide_block_with_its_shortcut_from_the_bare_input(in_channels: int, channels: int, stride: int) -> None:
    block = settled(WideBlock(in_channels, channels, stride))
    assert isinstance(block, WideBlock)
    x = torch.rand(2, in_channels, 7, 6, dtype=torch.float64) - 0.5
    out = F.conv2d(norm(block.bn1, x).relu(), block.conv1.weight, block.conv1.bias, padding=1)
    out = F.conv2d(norm(block.bn2, out).relu(), block.conv2.weight, block.conv2.bias, stride=stride, padding=1)
    shortcut = x
    if in_channels != channels or stride != 1:
        assert isinstance(block.shortcut, nn.Conv2d)
        shortcut = F.conv2d(x, block.shortcut.weight, block.shortcut.bias, stride=stride)
    torch.testing.assert_close(block(x), out + shortcut, rtol=1e-12, atol=1e-12)


def test_dropout_of_a_wide_block_drops_in_training_only() -> None:
    block = settled(WideBlock(3, 3, dropout=0.5))
    x = torch.rand(2, 3, 6, 6, dtype=torch.float64)
    assert torch.equal(block(x), block(x))
    block.dropout.train()  # type: ignore[union-attr]
    assert not torch.equal(block(x), block(x))
