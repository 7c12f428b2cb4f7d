"""An experiment as data: a TOML file that says which networks are trained and which attacks they meet."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from sonet.models import configure
from sonet.solvers import Adaptive, Solver
from sonet.training import TrainConfig

StepGradient = Literal["differentiated", "first", "frozen"]


class PlanError(ValueError):
    """No such experiment, or one that contradicts itself."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SPSAPlan(_Part):
    """The gradient-free attack: on how many images (it is dear), with how many steps and directions a step."""

    images: PositiveInt
    steps: PositiveInt
    samples: PositiveInt


class AttackPlan(_Part):
    """Every radius meets PGD at each number of steps, each step gradient in each batch, the margin loss, SPSA."""

    norm: Literal["linf", "l2"]
    eps: tuple[PositiveFloat, ...] = Field(min_length=1)
    steps: tuple[PositiveInt, ...] = Field(min_length=1)
    step_gradients: tuple[StepGradient, ...] = Field(min_length=1)
    batches: tuple[PositiveInt, ...] = Field(min_length=1)
    spsa: SPSAPlan


class ModelPlan(_Part):
    """A network of the registry with its options."""

    name: str
    options: dict[str, Any]


class Plan(_Part):
    """A whole experiment. `quick` holds what `--quick` changes."""

    title: str
    data: str
    images: PositiveInt
    judge_batch: PositiveInt
    seeds: PositiveInt
    training: TrainConfig
    solver: Solver
    models: tuple[ModelPlan, ...]
    attacks: AttackPlan
    quick: dict[str, Any] = {}

    @model_validator(mode="after")
    def _sound(self) -> Plan:
        for entry in self.models:
            if "solver" in entry.options:
                raise ValueError(f"{entry.name} has a solver of its own; the plan's [solver] is that of all networks")
            self.network(entry)
        attacks = self.attacks
        for what, values in (
            ("models", [entry.name for entry in self.models]),
            ("attacks.eps", attacks.eps),
            ("attacks.steps", attacks.steps),
            ("attacks.step_gradients", attacks.step_gradients),
            ("attacks.batches", attacks.batches),
        ):
            if len(set(values)) < len(values):  # its rows and files could not be told apart
                raise ValueError(f"{what} names something twice: {', '.join(map(str, values))}")
        if isinstance(self.solver, Adaptive) and self.solver.scope not in ("sample", "batch"):
            raise ValueError(f"solver.scope {self.solver.scope}: networks are deployed with 'sample' or 'batch'")
        if attacks.spsa.images > self.images:
            raise ValueError(f"spsa attacks {attacks.spsa.images} images, but the plan has only {self.images}")
        for batch in self.attacks.batches:
            if self.images % batch:
                raise ValueError(f"attack batch {batch} does not divide the {self.images} attacked images")
        return self

    def network(self, entry: ModelPlan, **like: Any) -> Any:
        """The config of a network of the plan; those with ODE blocks get the plan's solver."""
        config = configure(entry.name, **(like | entry.options))
        return config.model_copy(update={"solver": self.solver}) if "solver" in type(config).model_fields else config

    def adaptive(self, entry: ModelPlan) -> bool:
        """Whether a network of the plan chooses its steps, so that there is a step gradient to speak of."""
        return "solver" in type(self.network(entry)).model_fields and self.solver.kind == "adaptive"


def plans() -> dict[str, str]:
    """The experiments at hand, by name, with their titles."""
    found = {}
    for file in sorted(files("sonet.experiments").iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".toml"):
            found[file.name.removesuffix(".toml")] = str(tomllib.loads(file.read_text())["title"])
    return found


def load_plan(name: str, *, quick: bool = False, seeds: int | None = None) -> Plan:
    """The plan called `name`, in its quick form if asked, with another number of seeds if given."""
    if name not in plans():
        raise PlanError(f"no experiment is called {name!r}, expected one of {', '.join(plans())}.")
    raw = tomllib.loads(files("sonet.experiments").joinpath(f"{name}.toml").read_text())
    if quick:
        raw = _merge(raw, raw.get("quick", {}))
    if seeds is not None:
        raw["seeds"] = seeds
    return Plan.model_validate(raw)


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
