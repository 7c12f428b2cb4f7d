"""The networks: configs, construction by name, and the solver swap."""

from sonet.models.baselines import ODENet, ResNet10, WideResNet
from sonet.models.config import ModelConfig, parse_config
from sonet.models.registry import MODELS, ConfigError, build, configure, swap_solver, variant
from sonet.models.sonet import SONet

__all__ = [
    "MODELS",
    "ConfigError",
    "ModelConfig",
    "ODENet",
    "ResNet10",
    "SONet",
    "WideResNet",
    "build",
    "configure",
    "parse_config",
    "swap_solver",
    "variant",
]
