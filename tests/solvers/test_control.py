"""Settings: validated, frozen, and the same after a trip through JSON."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from sonet.solvers import METHODS, Adaptive, Fixed, Solver, named, paper

SOLVER: TypeAdapter[Fixed | Adaptive] = TypeAdapter(Solver)


@pytest.mark.parametrize("kind", [Fixed, Adaptive])
def test_unknown_methods_are_refused_with_the_known_ones(kind: type[Fixed] | type[Adaptive]) -> None:
    with pytest.raises(ValidationError, match=r"unknown method 'dopri8', expected one of euler, .*tsit5"):
        kind(method="dopri8")


@pytest.mark.parametrize("method", [name for name, tableau in METHODS.items() if not tableau.adaptive])
def test_methods_without_an_error_estimate_are_not_adaptive(method: str) -> None:
    with pytest.raises(ValidationError, match="use Fixed, or one of adaptive_heun, bosh3, dopri5, tsit5"):
        Adaptive(method=method)
    assert Fixed(method=method).tableau is METHODS[method]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rtol", -1e-3),
        ("rtol", 0.0),
        ("atol", -1.0),
        ("atol", 0.0),
        ("rtol", float("nan")),
        ("atol", float("inf")),
        ("scope", "samples"),
        ("scope", 0),
        ("scope", -2),
        ("step_gradient", "none"),
        ("end", "exact"),
        ("initial", "hairer"),
        ("first_step", 0.0),
        ("first_step", -0.1),
        ("safety", 0.0),
        ("safety", 1.1),
        ("shrink", 0.0),
        ("shrink", 1.0),
        ("grow", 1.0),
        ("max_steps", 0),
        ("kind", "fixed"),
        ("tol", 1e-3),  # unknown keys are errors, not ignored
        ("steps", "frozen"),
    ],
)
def test_adaptive_refuses(key: str, value: object) -> None:
    with pytest.raises(ValidationError, match=key):
        Adaptive.model_validate({key: value})


@pytest.mark.parametrize(("key", "value"), [("num_steps", 0), ("num_steps", 2.5), ("rtol", 0.1), ("kind", "adaptive")])
def test_fixed_refuses(key: str, value: object) -> None:
    with pytest.raises(ValidationError, match=key):
        Fixed.model_validate({key: value})


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Adaptive().rtol = 0.5  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        Fixed().num_steps = 7  # type: ignore[misc]
    assert hash(Adaptive(rtol=0.5)) == hash(Adaptive(rtol=0.5))


def test_defaults_do_not_mask() -> None:
    """Per sample, frozen, clipped: the setting in which a sample's result and gradient are its own."""
    default = Adaptive()
    assert (default.scope, default.step_gradient, default.end) == ("sample", "frozen", "clip")
    assert (default.method, default.rtol, default.atol) == ("dopri5", 1e-3, 1e-3)


@pytest.mark.parametrize(
    "solver",
    [
        Fixed(),
        Fixed(method="tsit5", num_steps=17),
        Adaptive(),
        Adaptive(scope=7, step_gradient="first", end="dense", first_step=0.25, max_steps=3),
        Adaptive(scope="batch", method="bosh3", rtol=1e-300, atol=0.1 + 0.2),
        paper(),
    ],
    ids=str,
)
def test_json_round_trip(solver: Fixed | Adaptive) -> None:
    again = SOLVER.validate_json(SOLVER.dump_json(solver))
    assert type(again) is type(solver)
    assert again == solver
    assert SOLVER.validate_python(solver.model_dump()) == solver


def test_json_of_unknown_kinds_and_keys_is_refused() -> None:
    for text in ('{"kind": "adams"}', '{"method": "rk4"}', '{"kind": "fixed", "rtol": 0.1}'):
        with pytest.raises(ValidationError):
            SOLVER.validate_json(text)


def test_paper() -> None:
    assert paper().model_dump() == {
        "kind": "adaptive",
        "method": "dopri5",
        "rtol": 0.1,
        "atol": 0.1,
        "scope": "batch",
        "step_gradient": "differentiated",
        "end": "dense",
        "initial": "tensorwise",
        "first_step": None,
        "safety": 0.9,
        "shrink": 0.2,
        "grow": 10.0,
        "max_steps": 1000,
    }


def test_a_field_of_a_config_takes_the_name() -> None:
    assert SOLVER.validate_python("paper") == paper() == named("paper")
    assert SOLVER.validate_python({"kind": "fixed"}) == Fixed()
    with pytest.raises(ValidationError, match="got 'papers', expected 'paper'"):
        SOLVER.validate_python("papers")


def test_papers_fields_can_be_switched_one_at_a_time() -> None:
    changed = paper(step_gradient="frozen")
    assert changed.step_gradient == "frozen"
    assert changed.model_copy(update={"step_gradient": "differentiated"}) == paper()
    assert paper(method="bosh3", rtol=0.01).method == "bosh3"
    with pytest.raises(ValidationError, match="tolerance"):
        paper(tolerance=0.1)
    with pytest.raises(ValidationError, match="use Fixed"):
        paper(method="euler")
