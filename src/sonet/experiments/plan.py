"""An experiment as data: a TOML file that says which networks are trained, by which objectives, and what they meet."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import Any

from pydantic import Field, PositiveInt, model_validator

from sonet.experiments.parts import AttackPlan, AuditPlan, EnsemblePlan, ModelPlan, PaperRow, Part, Switches
from sonet.models import configure
from sonet.solvers import Adaptive, Solver
from sonet.training import TrainConfig


class PlanError(ValueError):
    """No such experiment or row, or a plan that contradicts itself."""


@dataclass(frozen=True)
class TableRow:
    """A row of a table: a network trained by an objective."""

    model: ModelPlan
    objective: str

    @property
    def name(self) -> str:
        return f"{self.model.name}/{self.objective}"

    @property
    def names(self) -> tuple[str, ...]:
        """All that --only may call it by: the row, the network, its kind, the objective."""
        return self.name, self.model.name, self.model.network, self.objective


class Plan(Part):
    """A whole table: rows are models x objectives. `quick` holds what `--quick` changes.

    train_images: of the training images only the first so many. objectives: what each changes of `training`;
    adversarial: what all that attack inside share, so that a threat stands once. only: the rows to do, () for all.
    changes: what the plan changes from the paper; reasons: what could explain a gap in any row.
    """

    title: str
    data: str
    images: PositiveInt
    train_images: PositiveInt | None = None
    judge_batch: PositiveInt
    seeds: PositiveInt
    training: TrainConfig
    adversarial: dict[str, Any] = Field(default_factory=dict)
    objectives: dict[str, dict[str, Any]] = Field(default_factory=dict)
    solver: Solver
    models: tuple[ModelPlan, ...]
    attacks: AttackPlan
    switches: Switches = Switches()
    ensemble: EnsemblePlan | None = None
    audit: AuditPlan | None = None
    paper: tuple[PaperRow, ...] = ()
    changes: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    quick: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _sound(self) -> Plan:
        for entry in self.models:
            if "solver" in entry.options:
                raise ValueError(f"{entry.name} has a solver of its own; the plan's [solver] is that of all networks")
            self.network(entry)
            unknown = set(entry.objectives) - set(self.named)
            if unknown:
                raise ValueError(f"{entry.name}: no objective is called {min(unknown)!r}, got {', '.join(self.named)}")
        for name in self.named:
            kind = self.objective(name).objective
            if name != kind and not name.startswith(f"{kind}-"):
                raise ValueError(f"objective {name!r} trains by {kind!r}; call it {kind} or {kind}-..., as it is shown")
        self._name_once()
        if isinstance(self.solver, Adaptive) and self.solver.scope not in ("sample", "batch"):
            raise ValueError(f"solver.scope {self.solver.scope}: networks are deployed with 'sample' or 'batch'")
        attacks = self.attacks
        for what, images in (
            ("spsa", attacks.spsa.images),
            ("switches", self.switches.images or 1),
            ("ensemble", self.ensemble.images if self.ensemble else 1),
            ("audit", self.audit.images if self.audit else 1),
        ):
            if images > self.images:
                raise ValueError(f"{what} attacks {images} images, but the plan has only {self.images}")
        for batch in attacks.batches:
            if self.images % batch:
                raise ValueError(f"attack batch {batch} does not divide the {self.images} attacked images")
            if attacks.chunk is not None and attacks.chunk % batch:
                raise ValueError(f"attacks.chunk {attacks.chunk} is no multiple of attack batch {batch}")
        if self.switches.images is not None and self.switches.images % max(attacks.batches):
            raise ValueError(f"switches.images {self.switches.images} is no multiple of batch {max(attacks.batches)}")
        some = (self.only, *(part.only for part in (self.ensemble, self.audit) if part), attacks.spsa.whole)
        for names in (*some, [entry.row for entry in self.paper]):
            self._check_names(names)
        return self

    def _name_once(self) -> None:
        """Rows and files of what is named twice could not be told apart."""
        attacks = self.attacks
        names: dict[str, Sequence[object]] = {
            "models": [entry.name for entry in self.models],
            "attacks.norm": [ball.norm for ball in attacks.balls],
            **{f"attacks.eps in {ball.norm}": ball.eps for ball in attacks.balls},
            "attacks.steps": attacks.steps,
            "attacks.step_gradients": attacks.step_gradients,
            "attacks.batches": attacks.batches,
            "attacks.losses": attacks.losses,
            "paper": [entry.row for entry in self.paper],
        }
        for what, values in names.items():
            if len(set(values)) < len(values):
                raise ValueError(f"{what} names something twice: {', '.join(map(str, values))}")

    @property
    def named(self) -> dict[str, dict[str, Any]]:
        return self.objectives or {self.training.objective: {}}

    def objective(self, name: str) -> TrainConfig:
        """How a row of this objective is trained."""
        given = self.named[name]
        base = self.training.model_dump(exclude_unset=True)
        kind = given.get("objective", self.training.objective)
        steps = {"attack_steps", "attack_step_size"} if kind not in ("madry", "trades") else set()
        shared = (
            {} if kind == "natural" else {key: value for key, value in self.adversarial.items() if key not in steps}
        )
        return TrainConfig.model_validate(base | shared | given)

    @cached_property
    def rows(self) -> tuple[TableRow, ...]:
        """All rows, in the order of the table."""
        return tuple(TableRow(model, name) for model in self.models for name in model.objectives or self.named)

    @property
    def chosen(self) -> tuple[TableRow, ...]:
        """Those to do."""
        return tuple(row for row in self.rows if self.meant(row, self.only))

    def meant(self, row: TableRow, names: Sequence[str]) -> bool:
        """Whether `names` name the row, its network, its kind or its objective; no names name all rows."""
        return not names or bool(set(names) & set(row.names))

    def select(self, only: Sequence[str]) -> Plan:
        """The plan with these rows to do. PlanError for a name of none."""
        try:
            self._check_names(only)
        except ValueError as error:
            raise PlanError(f"--only: {error}.") from None
        return self.model_copy(update={"only": tuple(only)})

    def _check_names(self, names: Sequence[str]) -> None:
        for name in names:
            if not any(name in row.names for row in self.rows):
                known = ", ".join(row.name for row in self.rows)
                raise ValueError(f"no row, network or objective is called {name!r}; the rows are {known}")

    def reported(self, row: str, attack: str, steps: int, norm: str | None, eps: float | None) -> float | None:
        """The paper's figure for this row under this attack."""
        figures = [figure for entry in self.paper if entry.row == row for figure in entry.parsed]
        wanted = (attack, steps, norm, eps)
        return next((f.accuracy for f in figures if (f.attack, f.steps, f.norm, f.eps) == wanted), None)

    def network(self, entry: ModelPlan, **like: Any) -> Any:
        """The config of a network of the plan; those with ODE blocks get the plan's solver."""
        config = configure(entry.network, **(like | entry.options))
        return config.model_copy(update={"solver": self.solver}) if "solver" in type(config).model_fields else config

    def adaptive(self, entry: ModelPlan) -> bool:
        """Whether a network of the plan chooses its steps, so that there is a step gradient to speak of."""
        return "solver" in type(self.network(entry)).model_fields and self.solver.kind == "adaptive"


def plans() -> dict[str, str]:
    """The experiments at hand, by name, with their titles."""
    return {name: str(tomllib.loads(text)["title"]) for name, text in _texts().items()}


def load_plan(name: str, *, quick: bool = False, seeds: int | None = None) -> Plan:
    """The plan called `name`, in its quick form if asked, with another number of seeds if given."""
    texts = _texts()
    if name not in texts:
        raise PlanError(f"no experiment is called {name!r}, expected one of {', '.join(texts)}.")
    raw = tomllib.loads(texts[name])
    if quick and not raw.get("quick"):
        raise PlanError(f"{name} has no quick form; do single rows of it with --only.")
    if quick:
        raw = _merge(raw, raw["quick"])
    if seeds is not None:
        raw["seeds"] = seeds
    return Plan.model_validate(raw)


def _texts() -> dict[str, str]:
    entries = sorted(files("sonet.experiments").iterdir(), key=lambda entry: entry.name)
    return {file.name.removesuffix(".toml"): file.read_text() for file in entries if file.name.endswith(".toml")}


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
