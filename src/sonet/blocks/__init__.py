"""The layers: skew-symmetric ODE blocks, ODENet's block, and residual blocks to compare with."""

from sonet.blocks.adjoint import adjoint_gradients
from sonet.blocks.fields import ODENetField, SkewConv, SkewDense
from sonet.blocks.ode import (
    ODEBlock,
    name_blocks,
    ode_blocks,
    odenet_block,
    skew_conv_block,
    skew_dense_block,
    watch_solves,
)
from sonet.blocks.residual import BasicBlock, WideBlock

__all__ = [
    "BasicBlock",
    "ODEBlock",
    "ODENetField",
    "SkewConv",
    "SkewDense",
    "WideBlock",
    "adjoint_gradients",
    "name_blocks",
    "ode_blocks",
    "odenet_block",
    "skew_conv_block",
    "skew_dense_block",
    "watch_solves",
]
