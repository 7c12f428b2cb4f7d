"""Compiled kernels for the CPU, and the switch that turns them off."""

from sonet.kernels.build import NoKernels
from sonet.kernels.calls import (
    act_norm,
    act_norm_back,
    alike,
    all_finite,
    channels_last,
    dense,
    error_square,
    error_square_back,
    mixed,
    narrow_kernel,
    narrow_transpose,
    scaled_squares,
    scaled_squares_back,
    sum_norm,
    weighted_sum,
    weighted_sum_along,
)
from sonet.kernels.switch import plain, untouched, usable, why_not

__all__ = [
    "NoKernels",
    "act_norm",
    "act_norm_back",
    "alike",
    "all_finite",
    "channels_last",
    "dense",
    "error_square",
    "error_square_back",
    "mixed",
    "narrow_kernel",
    "narrow_transpose",
    "plain",
    "scaled_squares",
    "scaled_squares_back",
    "sum_norm",
    "untouched",
    "usable",
    "weighted_sum",
    "weighted_sum_along",
    "why_not",
]
