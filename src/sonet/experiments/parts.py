"""The sections of a plan: networks, attacks, switches, ensemble and audit, the paper's figures."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from sonet.attacks import Threat, parse_eps
from sonet.attacks.ensemble import ENSEMBLES
from sonet.report.planned import Figure

StepGradient = Literal["differentiated", "first", "frozen"]
Norm = Literal["linf", "l2"]
Loss = Literal["margin", "log-odds", "dlr"]
Radius = Annotated[PositiveFloat, BeforeValidator(parse_eps)]
"""0.031 or "8/255"."""


class Part(BaseModel):
    """Fixed, and without unknown keys: a switch with a typo would silently be off."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SPSAPlan(Part):
    """The gradient-free attack: on how many images (it is dear), with how many steps and directions a step.

    whole: objectives under which it sees all attacked images, so that it can be compared with PGD image by image.
    """

    images: PositiveInt
    steps: PositiveInt
    samples: PositiveInt
    whole: tuple[str, ...] = ()


class Ball(Part):
    """Radii in a norm, and PGD's step size there; default eps / 8."""

    norm: Norm
    eps: tuple[Radius, ...] = Field(min_length=1)
    step_size: PositiveFloat | None = None


class AttackPlan(Ball):
    """Every radius meets PGD at each number of steps, each step gradient in each batch, the other losses, SPSA.

    also: further norms under the same attacks. chunk: images crafted together in memory, a multiple of every batch;
    default all. It changes no result: shared steps are shared within a batch alone.
    """

    steps: tuple[PositiveInt, ...] = Field(min_length=1)
    step_gradients: tuple[StepGradient, ...] = Field(min_length=1)
    batches: tuple[PositiveInt, ...] = Field(min_length=1)
    losses: tuple[Loss, ...] = ("margin",)
    spsa: SPSAPlan
    also: tuple[Ball, ...] = ()
    chunk: PositiveInt | None = None

    @property
    def balls(self) -> tuple[Ball, ...]:
        return (self, *self.also)


class Switches(Part):
    """The reference attack on the same weights with one thing changed, at the largest radius of the first norm.

    scope, tolerance, end: of the solver, deployed and attacked so. nearest: an attack that looks for the nearest image,
    one image at a time, counted twice: clipped to the ball, and by the distance found. images: the first so many.
    """

    scope: Literal["sample", "batch"] | None = None
    tolerance: PositiveFloat | None = None
    end: Literal["dense", "clip"] | None = None
    eps: Radius | None = None
    random_start: bool = False
    restarts: PositiveInt = 1
    nearest: Literal["deepfool", "cw-l2", "cw-linf"] | None = None
    images: PositiveInt | None = None


class EnsemblePlan(Part):
    """The worst case over an ensemble, on the first `images`; only: rows, networks, kinds or objectives, () for all."""

    name: str = "standard"
    images: PositiveInt
    only: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _known(self) -> EnsemblePlan:
        if self.name not in ENSEMBLES:
            raise ValueError(f"no ensemble is called {self.name!r}, expected one of {', '.join(ENSEMBLES)}")
        return self


class AuditPlan(Part):
    """The verdict of a quick audit on the first `images`; only: as for an ensemble."""

    images: PositiveInt = 64
    only: tuple[str, ...] = ()


class ModelPlan(Part):
    """A network of the registry with its options. name: in the table; kind: in the registry, default the name.

    objectives: those it is trained by; () for all of the plan.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    kind: str = ""
    options: dict[str, Any] = Field(default_factory=dict)
    objectives: tuple[str, ...] = ()

    @property
    def network(self) -> str:
        return self.kind or self.name


class PaperRow(Part):
    """The paper's figures for a row. figures: "natural", or an attack with its radius, "pgd-20 linf:0.031" -> accuracy.

    reasons: sentences that could explain a gap in this row.
    """

    row: str
    figures: dict[str, Annotated[float, Field(ge=0, le=1)]]
    reasons: tuple[str, ...] = ()

    @property
    def parsed(self) -> list[Figure]:
        return [_figure(name, accuracy) for name, accuracy in self.figures.items()]

    @model_validator(mode="after")
    def _readable(self) -> PaperRow:
        assert self.parsed is not None
        return self


def _figure(name: str, accuracy: float) -> Figure:
    if name == "natural":
        return Figure(attack="none", steps=0, norm=None, eps=0.0, accuracy=accuracy)
    attack, _, threat = name.partition(" ")
    kind, _, steps = attack.rpartition("-")
    if not kind or not steps.isdigit():
        raise ValueError(f"got the figure {name!r}, expected 'natural' or such as 'pgd-20 linf:0.031'")
    ball = Threat.parse(threat)
    return Figure(attack=kind, steps=int(steps), norm=ball.norm, eps=ball.eps, accuracy=accuracy)
