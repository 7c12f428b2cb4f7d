"""`sonet list`."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel


class What(StrEnum):
    MODELS = "models"
    TRAINING = "training"
    DATA = "data"
    ATTACKS = "attacks"
    ENSEMBLES = "ensembles"
    GRADIENTS = "gradients"
    SOLVERS = "solvers"
    EXPERIMENTS = "experiments"


def listing(
    what: Annotated[What, typer.Argument(help="What to list.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List networks, settings of training, data, attacks, ensembles, gradients, solvers or experiments.

    Example: sonet list models
    """
    entries = {
        What.MODELS: _models,
        What.TRAINING: _training,
        What.DATA: _data,
        What.ATTACKS: _attacks,
        What.ENSEMBLES: _ensembles,
        What.GRADIENTS: _gradients,
        What.SOLVERS: _solvers,
        What.EXPERIMENTS: _experiments,
    }[what]()
    if as_json:
        typer.echo(json.dumps(entries, indent=1))
        return
    for name, entry in entries.items():
        typer.echo(f"{name}\n  {entry['about']}")
        for option, words in entry.get("options", {}).items():
            typer.echo(f"    {option}: {words}")


def _options(settings: type[BaseModel], but: str = "") -> dict[str, str]:
    """Each setting with its description, and its default where there is one."""
    return {
        name: f"{field.description or ''}{'' if field.default is None else f' [default: {field.default}]'}"
        for name, field in settings.model_fields.items()
        if name != but
    }


def _models() -> dict[str, dict[str, Any]]:
    from sonet.models import MODELS

    return {
        name: {
            "about": (config.__doc__ or "").strip().split("\n")[0],
            "options": _options(config, but="kind"),
        }
        for name, (config, _) in MODELS.items()
    }


def _training() -> dict[str, dict[str, Any]]:
    from sonet.training import TrainConfig

    about = "settings of `sonet train`: --set training.NAME=VALUE"
    return {"training": {"about": about, "options": _options(TrainConfig)}}


def _data() -> dict[str, dict[str, Any]]:
    from sonet.data import DATASETS

    others = {
        "FILE.npz": "uint8 arrays x_train, y_train, x_test, y_test, images (N, H, W) or (N, H, W, C); title, in words. "
        "DIR/NAME.npz under --data-dir DIR stands for the one called NAME",
        "FOLDER": "images by class: FOLDER/train/CLASS/*.png and FOLDER/test/CLASS/*.png, or FOLDER/CLASS/*.png",
    }
    return {name: {"about": about} for name, about in (DATASETS | others).items()}


def _attacks() -> dict[str, dict[str, Any]]:
    from sonet.attacks import ATTACKS

    return {
        name: {
            "about": f"{about}; {' and '.join(attack.norms)}",
            "options": _options(attack),
        }
        for name, (attack, about) in ATTACKS.items()
    }


def _ensembles() -> dict[str, dict[str, Any]]:
    from sonet.attacks.ensemble import ENSEMBLES

    return {name: {"about": about} for name, (_, about) in ENSEMBLES.items()}


def _gradients() -> dict[str, dict[str, Any]]:
    from sonet.evaluation import GRADIENTS

    return {name: {"about": about} for name, about in GRADIENTS.items()}


def _solvers() -> dict[str, dict[str, Any]]:
    from sonet.solvers import METHODS

    def about(name: str) -> str:
        method = METHODS[name]
        kinds = ["fixed steps"] + (["adaptive steps"] if method.adaptive else [])
        return f"order {method.order}, {method.stages} stages{', FSAL' if method.fsal else ''}; {' or '.join(kinds)}"

    return {name: {"about": f"{about(name)}; {method.source}"} for name, method in METHODS.items()}


def _experiments() -> dict[str, dict[str, Any]]:
    from sonet.experiments import plans

    return {name: {"about": title} for name, title in plans().items()}
