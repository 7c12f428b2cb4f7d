"""Settings that an objective would ignore, or misses: refused, so that nobody believes in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sonet.attacks import Threat

if TYPE_CHECKING:
    from sonet.training.config import TrainConfig

OF: dict[str, tuple[str, ...]] = {
    "threat": ("madry", "trades", "fast", "margin"),
    "attack_steps": ("madry", "trades"),
    "attack_step_size": ("madry", "trades", "fast"),
    "beta": ("trades",),
    "alignment": ("fast",),
    "watched": ("fast",),
    "collapse": ("fast",),
    "temperature": ("margin",),
}
"""Setting -> the objectives that take it. All take the others."""


def refuse_ignored(config: TrainConfig) -> None:
    """ValueError for a setting of another objective, a missing threat, or parts of a batch without two images."""
    objective = config.objective
    for name, takers in OF.items():
        value = getattr(config, name)
        if value is not None and objective not in takers:
            raise ValueError(
                f"{name} is of objective {_listed(takers)}, got {value!r} with {objective!r}{_why(objective, name)}; "
                f"leave it out, or choose {'that' if len(takers) == 1 else 'such an'} objective"
            )
    if objective in OF["threat"] and config.threat is None:
        raise ValueError(
            f"objective {objective!r} trains against a radius and needs a threat, got none; give one such as "
            f"threat '{'l2:0.25' if objective == 'margin' else 'linf:8/255'}', or choose objective 'natural'"
        )
    if objective == "margin" and config.threat is not None and Threat.parse(config.threat).norm != "l2":
        raise ValueError(f"objective 'margin' demands a radius in l2, got {config.threat}; give l2:EPS")
    if config.accumulate > 1 and config.batch_size < 2 * config.accumulate:
        raise ValueError(
            f"accumulate {config.accumulate} would leave parts of less than two images of a batch_size of "
            f"{config.batch_size}; give batch_size >= {2 * config.accumulate}, or fewer parts"
        )


def _why(objective: str, name: str) -> str:
    if objective == "natural":
        return ", which attacks nothing"
    if objective == "margin" and name in ("attack_steps", "attack_step_size", "beta"):
        return ", which attacks nothing and uses the network's constants"
    if name == "beta":
        return ", which has no term to weigh"
    return ", which takes one step" if name == "attack_steps" else ""


def _listed(names: Sequence[str]) -> str:
    """'a', 'b' or 'c'."""
    quoted = [repr(name) for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"
