"""Sound numbers: operator norms from above, how fast solutions part, what a step can stretch, and rounding."""

from sonet.bounds.contraction import (
    euler_bound,
    flow_damping,
    lipschitz,
    logarithmic_norm,
    potential_bound,
)
from sonet.bounds.damping import NoDamping, largest_norm, least_damping
from sonet.bounds.norms import conv_norm, matrix_norm
from sonet.bounds.reach import Dynamics, Reach, linear_rounding
from sonet.bounds.steps import step_bound

__all__ = [
    "Dynamics",
    "NoDamping",
    "Reach",
    "conv_norm",
    "euler_bound",
    "flow_damping",
    "largest_norm",
    "least_damping",
    "linear_rounding",
    "lipschitz",
    "logarithmic_norm",
    "matrix_norm",
    "potential_bound",
    "step_bound",
]
