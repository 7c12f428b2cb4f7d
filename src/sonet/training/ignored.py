"""Settings that an objective would ignore, or misses: refused, so that nobody believes in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sonet.attacks import Threat

if TYPE_CHECKING:
    from sonet.training.config import TrainConfig

INNER = ("attack_steps", "attack_step_size")
WATCH = ("watched", "collapse")
ATTACK = (*INNER, "beta")


def refuse_ignored(config: TrainConfig) -> None:
    """ValueError for a setting of another objective, a missing threat, or parts of a batch without two images."""
    objective = config.objective
    if objective == "natural":
        for name in ("threat", *ATTACK):
            _refuse(
                config,
                name,
                f"objective 'natural' attacks nothing, so it takes no {name}, got {getattr(config, name)!r}; "
                f"choose objective 'madry', 'trades' or 'fast', or leave {name} out",
            )
    elif config.threat is None:
        raise ValueError(
            f"objective {objective!r} trains against a radius and needs a threat, got none; give one such as "
            f"threat '{'l2:0.25' if objective == 'margin' else 'linf:8/255'}', or choose objective 'natural'"
        )
    if objective == "margin":
        for name in ATTACK:
            _refuse(
                config,
                name,
                f"objective 'margin' attacks nothing, it uses the network's constants, so it takes no {name}, "
                f"got {getattr(config, name)!r}; leave it out",
            )
        if config.threat is not None and Threat.parse(config.threat).norm != "l2":
            raise ValueError(f"objective 'margin' demands a radius in l2, got {config.threat}; give l2:EPS")
    elif config.temperature is not None:
        raise ValueError(
            f"temperature is of objective 'margin', got {config.temperature:g} with {objective!r}; leave it out"
        )
    if objective in ("madry", "fast") and config.beta is not None:
        raise ValueError(
            f"objective {objective!r} has no term that beta would weigh, got beta {config.beta:g}; "
            "choose objective 'trades', or leave beta out"
        )
    if objective == "fast":
        _refuse(
            config,
            "attack_steps",
            f"objective 'fast' takes one step, so it takes no attack_steps, got {config.attack_steps}; "
            "choose objective 'madry', or leave attack_steps out",
        )
    else:
        for name in ("alignment", *WATCH):
            _refuse(
                config,
                name,
                f"{name} is of objective 'fast', got {getattr(config, name)!r} with {objective!r}; leave it out",
            )
    if config.accumulate > 1 and config.batch_size < 2 * config.accumulate:
        raise ValueError(
            f"accumulate {config.accumulate} would leave parts of less than two images of a batch_size of "
            f"{config.batch_size}; give batch_size >= {2 * config.accumulate}, or fewer parts"
        )


def _refuse(config: TrainConfig, name: str, why: str) -> None:
    if getattr(config, name) is not None:
        raise ValueError(why)
