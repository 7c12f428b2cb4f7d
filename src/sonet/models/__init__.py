"""The networks: configs, construction by name, and the solver swap."""

from sonet.models.baselines import ODENet, ResNet10, WideResNet
from sonet.models.config import ModelConfig, parse_config
from sonet.models.path import Chain, Path, layers
from sonet.models.registry import MODELS, ConfigError, build, configure, swap_solver, variant
from sonet.models.sonet import SONet
from sonet.models.stable import StableNet

__all__ = [
    "MODELS",
    "Chain",
    "ConfigError",
    "ModelConfig",
    "ODENet",
    "Path",
    "ResNet10",
    "SONet",
    "StableNet",
    "WideResNet",
    "build",
    "configure",
    "layers",
    "parse_config",
    "swap_solver",
    "variant",
]
