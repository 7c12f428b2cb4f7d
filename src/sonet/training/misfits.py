"""What a network cannot be trained with: refused before any work."""

from __future__ import annotations

from torch import nn

from sonet.blocks import ode_blocks
from sonet.solvers import Adaptive
from sonet.training.config import TrainConfig
from sonet.training.errors import TrainingRefused
from sonet.training.objectives import OBJECTIVES


def refuse_misfits(model: nn.Module, config: TrainConfig, world: int) -> None:
    """TrainingRefused for what this network cannot be trained with in `world` processes."""
    blocks = ode_blocks(model).values()
    shared = any(isinstance(block.solver, Adaptive) and block.solver.scope != "sample" for block in blocks)
    if shared and world > 1:
        raise TrainingRefused(
            f"step sizes are shared within a batch, and {world} processes would each share within their part only, "
            "which is another network. Use scope='sample', or one process."
        )
    if shared and config.accumulate > 1:
        raise TrainingRefused(
            f"step sizes are shared within a batch, and its {config.accumulate} parts would each share within "
            "themselves only, which is another network. Use scope='sample', or accumulate=1."
        )
    for name in ("kinetic", "nfe_budget"):
        if getattr(config, name) is not None and not blocks:
            raise TrainingRefused(
                f"{name} is of networks with ODE blocks, got {getattr(config, name):g} with {type(model).__name__}, "
                "which has none. Leave it out."
            )
    if misfit := OBJECTIVES[config.objective].misfit(model):
        raise TrainingRefused(misfit)
