"""How steps are chosen, and what of that choice carries gradient: `Fixed`, `Adaptive`, and the paper's setting.

Both are frozen, validated and JSON-able, so the setting a network was trained with travels in its checkpoint.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from sonet.solvers.methods import METHODS
from sonet.solvers.tableau import Tableau

StepGradient = Literal["frozen", "first", "differentiated"]
Scope = Literal["sample", "batch"] | Annotated[int, Field(strict=True, ge=1)]
End = Literal["clip", "dense"]


def _known(method: str) -> Tableau:
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}, expected one of {', '.join(METHODS)}")
    return METHODS[method]


class Fixed(BaseModel):
    """`num_steps` equal steps of `method` from start to end: no control, nothing to differentiate but the steps."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["fixed"] = "fixed"
    method: str = "rk4"
    num_steps: PositiveInt = 4

    @model_validator(mode="after")
    def _check(self) -> Fixed:
        _known(self.method)
        return self

    @property
    def tableau(self) -> Tableau:
        return METHODS[self.method]


class Adaptive(BaseModel):
    r"""Steps chosen from an embedded error estimate (Hairer, Norsett, Wanner 1993, II.4).

        tol   = atol + rtol max(|y_0|, |y_1|)                    elementwise
        ratio = max over the state's tensors of RMS(error / tol)  accepted when <= 1
        h    <- h * clamp(safety * ratio^(-1/order), shrink, grow)

    The RMS runs over the elements of one sample, of a group of samples or of the whole batch: see `scope`.

    Args:
        method: an embedded pair of `METHODS`.
        rtol, atol: relative and absolute tolerance, > 0.
        scope: who shares a step size. "sample": nobody, so that a sample's result does not depend on its batch-mates.
            "batch": all, as in torchdiffeq. An integer k: each k consecutive samples, which is what attacking in
            batches of k does, at the speed of one large batch.
        step_gradient: what autograd sees of the step sizes. "frozen": constants. "first": the size of the first step
            only, as in torchdiffeq 0.2. "differentiated": the whole controller, as in torchdiffeq 0.0.1: the true
            derivative of the adaptive map where accept/reject decisions do not change. With shared steps a sample's
            gradient then contains that of its batch-mates.
        end: "clip" shortens the last step to end exactly; "dense" oversteps and reads the end off the quartic through
            y_0, y_mid, y_1 and both slopes, as torchdiffeq does.
        initial: first guess of the step, from the state's norm over the slope's: "joint" takes the ratio of the
            largest norms (torchdiffeq 0.2), "tensorwise" the largest ratio of norms (torchdiffeq 0.0.1); they agree for
            states of one tensor.
        first_step: the first step itself, > 0, instead of that rule.
        max_steps: trial steps (accepted or not) after which a sample fails.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["adaptive"] = "adaptive"
    method: str = "dopri5"
    rtol: PositiveFloat = 1e-3
    atol: PositiveFloat = 1e-3
    scope: Scope = "sample"
    step_gradient: StepGradient = "frozen"
    end: End = "clip"
    initial: Literal["joint", "tensorwise"] = "joint"
    first_step: PositiveFloat | None = None
    safety: float = Field(default=0.9, gt=0, le=1)
    shrink: float = Field(default=0.2, gt=0, lt=1)
    grow: float = Field(default=10.0, gt=1)
    max_steps: PositiveInt = 1000

    @model_validator(mode="after")
    def _check(self) -> Adaptive:
        tableau = _known(self.method)
        if not tableau.adaptive:
            adaptive = ", ".join(name for name, method in METHODS.items() if method.adaptive)
            raise ValueError(f"method {self.method!r} cannot estimate its error; use Fixed, or one of {adaptive}")
        if self.end == "dense" and tableau.middle is None:
            raise ValueError(f"method {self.method!r} has no dense output; use end='clip'")
        return self

    @property
    def tableau(self) -> Tableau:
        return METHODS[self.method]


def paper(**changes: object) -> Adaptive:
    """The setting of Huang et al. 2020: dopri5 of torchdiffeq 0.0.1 at rtol = atol = 0.1, differentiated throughout.

    One step size for the whole batch, the end by dense output, the initial step by the tensorwise rule.
    `changes` override single fields: `paper(step_gradient="frozen")` is the same forward map with frozen steps.
    """
    setting: dict[str, object] = {
        "rtol": 0.1,
        "atol": 0.1,
        "scope": "batch",
        "step_gradient": "differentiated",
        "end": "dense",
        "initial": "tensorwise",
    }
    return Adaptive.model_validate(setting | changes)


def named(name: str) -> Adaptive:
    """The setting of this name: "paper".

    Raises:
        ValueError: another name.
    """
    if name != "paper":
        raise ValueError(f"got {name!r}, expected 'paper' or a table such as {{kind = 'fixed'}}")
    return paper()


def _or_name(given: object) -> object:
    return named(given) if isinstance(given, str) else given


Solver = Annotated[Fixed | Adaptive, Field(discriminator="kind"), BeforeValidator(_or_name)]
"""A field of a config: a setting, or the name of one, as in a TOML file."""
