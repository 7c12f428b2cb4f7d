"""Methods check themselves, and what they promise beyond that check is true."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sonet.solvers import METHODS, Tableau

FIELDS = ("c", "a", "b", "error", "middle")


def places(tableau: Tableau) -> list[tuple[str, tuple[int, ...]]]:
    """Every coefficient of a method: its field and its place there."""
    found: list[tuple[str, tuple[int, ...]]] = []
    for name in FIELDS:
        values = getattr(tableau, name) or ()
        for i, value in enumerate(values):
            found += [(name, (i, j)) for j in range(len(value))] if isinstance(value, tuple) else [(name, (i,))]
    return found


def changed(tableau: Tableau, name: str, place: tuple[int, ...], by: float) -> None:
    """Build the method with one coefficient moved."""
    values = [list(row) if isinstance(row, tuple) else row for row in getattr(tableau, name)]
    if len(place) == 2:
        values[place[0]][place[1]] += by
    else:
        values[place[0]] += by
    frozen = tuple(tuple(row) if isinstance(row, list) else row for row in values)
    dataclasses.replace(tableau, **{name: frozen})


ALL = [(method, name, place) for method, tableau in METHODS.items() for name, place in places(tableau)]


def test_names_and_numbers_of_coefficients() -> None:
    assert set(METHODS) == {
        "euler", "midpoint", "heun", "rk4", "rk4_38", "adaptive_heun", "bosh3", "dopri5", "tsit5",
    }  # fmt: skip
    assert all(name == tableau.name for name, tableau in METHODS.items())
    assert len([place for place in ALL if place[0] == "dopri5"]) == 7 + 21 + 7 + 7 + 7


@pytest.mark.parametrize("method", METHODS)
def test_every_method_builds_again(method: str) -> None:
    assert dataclasses.replace(METHODS[method]) == METHODS[method]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("by", [1e-9, -1e-5, 0.1, 1.0, math.nan, math.inf])
def test_any_one_wrong_coefficient_is_refused(method: str, by: float) -> None:
    for name, place in places(METHODS[method]):
        with pytest.raises(ValueError, match=rf"^{method}: "):
            changed(METHODS[method], name, place, by)


@given(st.sampled_from(ALL), st.floats(1e-9, 1e3), st.sampled_from([-1, 1]))
def test_any_wrong_coefficient_is_refused_by_any_amount(
    spot: tuple[str, str, tuple[int, ...]], size: float, sign: int
) -> None:
    method, name, place = spot
    with pytest.raises(ValueError, match=f"^{method}: "):
        changed(METHODS[method], name, place, sign * size)


def test_wrong_shapes_and_orders_are_refused() -> None:
    heun = METHODS["adaptive_heun"]
    for change in (
        {"c": (0.0,)},
        {"a": ()},
        {"a": ((0.5, 0.5),)},
        {"error": (0.0,)},
        {"middle": (0.5,)},
        {"order": 3},
        {"a": ((1.0,), (0.0, 1.0))},
    ):
        with pytest.raises(ValueError, match=r"^adaptive_heun: "):
            dataclasses.replace(heun, **change)
    with pytest.raises(ValueError, match="nothing"):
        Tableau("nothing", 1, c=(), a=(), b=(), source="")


def test_first_same_as_last_is_derived() -> None:
    fsal = {name for name, tableau in METHODS.items() if tableau.fsal}
    assert fsal == {"dopri5", "tsit5", "bosh3"}
    assert not METHODS["adaptive_heun"].fsal  # whatever torchdiffeq does with its last stage


def test_which_methods_estimate_their_error() -> None:
    pairs = {name for name, tableau in METHODS.items() if tableau.adaptive}
    assert pairs == {"adaptive_heun", "bosh3", "dopri5", "tsit5"}
    assert all(METHODS[name].middle is not None for name in pairs)


def moment(weights: tuple[float, ...], tableau: Tableau, q: int) -> float:
    return sum(w * c ** (q - 1) for w, c in zip(weights, tableau.c, strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_weights_integrate_polynomials_up_to_the_order(method: str) -> None:
    tableau = METHODS[method]
    for q in range(1, tableau.order + 1):
        assert moment(tableau.b, tableau, q) == pytest.approx(1 / q, abs=1e-14)


@pytest.mark.parametrize(("method", "tolerance"), [("dopri5", 1e-14), ("tsit5", 1e-14)])
@pytest.mark.parametrize("q", [1, 2, 3, 4])
def test_middle_integrates_cubics_over_half_the_step(method: str, tolerance: float, q: int) -> None:
    tableau = METHODS[method]
    assert tableau.middle is not None
    assert moment(tableau.middle, tableau, q) == pytest.approx(0.5**q / q, abs=tolerance)


def matvec(tableau: Tableau, values: list[float]) -> list[float]:
    """A v, with the row of zeros of the first stage."""
    return [0.0] + [sum(a * v for a, v in zip(row, values, strict=False)) for row in tableau.a]


def tree_conditions(tableau: Tableau) -> dict[str, tuple[list[float], float, int]]:
    """All rooted trees with up to four nodes: the stage vector, what its weighted sum must be, the order."""
    c = list(tableau.c)
    square = [x * x for x in c]
    cube = [x**3 for x in c]
    inner = matvec(tableau, c)
    return {
        "1": ([1.0] * len(c), 1.0, 1),
        "c": (c, 1 / 2, 2),
        "c^2": (square, 1 / 3, 3),
        "Ac": (inner, 1 / 6, 3),
        "c^3": (cube, 1 / 4, 4),
        "c Ac": ([x * y for x, y in zip(c, inner, strict=True)], 1 / 8, 4),
        "A c^2": (matvec(tableau, square), 1 / 12, 4),
        "A A c": (matvec(tableau, inner), 1 / 24, 4),
    }


@pytest.mark.parametrize("method", METHODS)
def test_weights_meet_butchers_conditions_up_to_order_four(method: str) -> None:
    """Also for fields that are not pure quadratures, which the tableau does not check of itself."""
    tableau = METHODS[method]
    for name, (vector, target, order) in tree_conditions(tableau).items():
        if order <= tableau.order:
            assert sum(b * v for b, v in zip(tableau.b, vector, strict=True)) == pytest.approx(target, abs=1e-14), name


@pytest.mark.parametrize("method", ["dopri5", "tsit5"])
def test_middle_is_of_order_four(method: str) -> None:
    tableau = METHODS[method]
    assert tableau.middle is not None
    for name, (vector, target, order) in tree_conditions(tableau).items():
        got = sum(m * v for m, v in zip(tableau.middle, vector, strict=True))
        assert got == pytest.approx(target * 0.5**order, abs=1e-14), name


@pytest.mark.parametrize("method", ["adaptive_heun", "bosh3", "dopri5", "tsit5"])
def test_embedded_method_is_of_one_order_less(method: str) -> None:
    tableau = METHODS[method]
    assert tableau.error is not None
    embedded = tuple(b - e for b, e in zip(tableau.b, tableau.error, strict=True))
    for q in range(1, tableau.order):
        assert moment(embedded, tableau, q) == pytest.approx(1 / q, abs=1e-14)
    for name, (vector, target, order) in tree_conditions(tableau).items():
        if order < tableau.order:
            assert sum(b * v for b, v in zip(embedded, vector, strict=True)) == pytest.approx(target, abs=1e-14), name
    # Of the full order the estimate would be zero to leading order, and the controller blind.
    leading = [abs(sum(e * v for e, v in zip(tableau.error, vector, strict=True)))
               for vector, _, order in tree_conditions(tableau).values() if order == tableau.order]  # fmt: skip
    if leading:
        assert max(leading) > 1e-3
