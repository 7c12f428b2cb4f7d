"""Compiled kernels for the CPU, and the switch that turns them off."""

from sonet.kernels.build import NoKernels
from sonet.kernels.errors import error_square, error_square_back, scaled_squares, scaled_squares_back
from sonet.kernels.layout import alike, channels_last, dense
from sonet.kernels.narrow import narrow_kernel, narrow_transpose
from sonet.kernels.norms import act_norm, act_norm_back, sum_norm
from sonet.kernels.sums import Sum, all_finite, mixed
from sonet.kernels.switch import plain, untouched, usable, why_not

__all__ = [
    "NoKernels",
    "Sum",
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
    "why_not",
]
