"""The optimizer that a config asks for, and its state as tensors by name, for checkpoints."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sonet.training.config import TrainConfig

SGD_STATE, ADAMW_STATE = ("momentum_buffer",), ("step", "exp_avg", "exp_avg_sq")


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW with beta_2 = 0.999."""
    if config.optimizer == "adamw":
        betas = (config.momentum, 0.999)
        return torch.optim.AdamW(model.parameters(), config.lr, betas=betas, weight_decay=config.weight_decay)
    return torch.optim.SGD(model.parameters(), config.lr, momentum=config.momentum, weight_decay=config.weight_decay)


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What the optimizer remembers of each parameter: SGD's momentum by the parameter's name, AdamW's by STATE:NAME."""
    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        for key in (*SGD_STATE, *ADAMW_STATE):
            value = optimizer.state[parameter].get(key)
            if value is not None:
                found[_name(key, name)] = value
    return found


def restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Tensor]) -> None:
    """Put back what `optimizer_state` gave."""
    for name, parameter in model.named_parameters():
        for key in (*SGD_STATE, *ADAMW_STATE):
            if _name(key, name) in state:
                optimizer.state[parameter][key] = state[_name(key, name)].clone()


def _name(key: str, parameter: str) -> str:
    return parameter if key in SGD_STATE else f"{key}:{parameter}"
