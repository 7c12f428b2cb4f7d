"""The layers: skew-symmetric ODE blocks, ODENet's block, and residual blocks to compare with."""

from sonet.blocks.adjoint import adjoint_gradients
from sonet.blocks.cover import NotCovered, cover
from sonet.blocks.cover_layers import head_terms
from sonet.blocks.cover_ode import dynamics
from sonet.blocks.fields import ODENetField, SkewConv, SkewDense
from sonet.blocks.isometric import MaxMin, SpreadChannels, UnitRows, Unshuffle
from sonet.blocks.ode import (
    ODEBlock,
    convex_potential_block,
    name_blocks,
    ode_blocks,
    odenet_block,
    skew_conv_block,
    skew_dense_block,
    stable_skew_block,
    watch_solves,
)
from sonet.blocks.pool import GlobalPool
from sonet.blocks.recompute import recomputed
from sonet.blocks.residual import BasicBlock, WideBlock
from sonet.blocks.tied import ConvexPotential, TiedField, TiedSkewConv

__all__ = [
    "BasicBlock",
    "ConvexPotential",
    "GlobalPool",
    "MaxMin",
    "NotCovered",
    "ODEBlock",
    "ODENetField",
    "SkewConv",
    "SkewDense",
    "SpreadChannels",
    "TiedField",
    "TiedSkewConv",
    "UnitRows",
    "Unshuffle",
    "WideBlock",
    "adjoint_gradients",
    "convex_potential_block",
    "cover",
    "dynamics",
    "head_terms",
    "name_blocks",
    "ode_blocks",
    "odenet_block",
    "recomputed",
    "skew_conv_block",
    "skew_dense_block",
    "stable_skew_block",
    "watch_solves",
]
