"""An audit's charts are data: the right rows, marks and axes, and gaps where nothing was measured."""

from __future__ import annotations

from typing import Any

import pytest
import vl_convert
from audit_fixture import count, synthetic_audit
from hypothesis import given, settings
from hypothesis import strategies as st

from sonet.report import Bar, Ladder, Line, Surface
from sonet.report.audit_figures import (
    CARRIES,
    MANY,
    MEDIAN,
    ON_COLOUR,
    axis_format,
    cause_rows,
    causes,
    ladder,
    ladder_rows,
    matrix,
)
from sonet.report.audit_surface import spoken, surface
from sonet.report.palette import themed

AUDIT = synthetic_audit()


def _values(spec: dict[str, Any], layer: int) -> list[dict[str, Any]]:
    data = spec["layer"][layer].get("data") or spec["data"]
    values: list[dict[str, Any]] = data["values"]
    return values


def test_causes_start_with_the_reference_and_carry_words() -> None:
    rows = cause_rows(AUDIT.causes)
    assert [row["role"] for row in rows] == [
        "reference",
        "carries the overestimate",
        "not decided",
        "not by itself",
    ]
    assert [row["left"] for row in rows] == [0.64, 0.02, 0.04, 0.6]
    assert all(row["low"] <= row["left"] <= row["high"] for row in rows)
    assert max(len(line) for row in rows for line in row["label"].split("\n")) <= 44
    spec = causes(AUDIT.causes).to_dict()
    assert spec["layer"][0]["encoding"]["color"]["scale"]["domain"] == list(CARRIES)
    marked = _values(spec, 4)
    assert {piece["at"] for piece in marked} == {0.64}
    assert len(marked) == 4


@given(st.lists(st.text("abc ", max_size=150), min_size=1, max_size=6))
@settings(max_examples=30, deadline=None)
def test_rows_of_causes_never_overlap(settings_: list[str]) -> None:
    rows = cause_rows([Bar(factor="f", setting=text, left=count(3)) for text in settings_])
    starts = [row["start"] for row in rows] + [rows[-1]["end"]]
    for row, after in zip(rows, starts[1:], strict=True):
        label_ends = row["start"] + 4 + 15 * (row["label"].count("\n") + 1)
        assert label_ends < row["top"] < row["middle"] < row["bottom"] < after


def test_causes_without_a_reference_mark_none() -> None:
    bars = [bar for bar in AUDIT.causes if not bar.reference]
    assert len(causes(bars).to_dict()["layer"]) == len(causes(AUDIT.causes).to_dict()["layer"]) - 1


def test_the_matrix_has_a_number_in_each_cell_in_the_record_s_order() -> None:
    assert AUDIT.matrix is not None
    spec = matrix(AUDIT.matrix).to_dict()
    rows = _values(spec, 0)
    assert [(row["crafted"], row["judged"], row["left"]) for row in rows[:5]] == [
        ("own", "own", 0.64),
        ("own", "frozen steps", 0.7),
        ("own", "first step, batch 100", 0.68),
        ("own", "substitute", 0.9),
        ("frozen steps", "own", 0.02),
    ]
    cell, number = spec["layer"]
    assert cell["encoding"]["color"]["scale"]["domain"] == [0, 1]  # the same colour means the same on every page
    assert number["name"] == ON_COLOUR
    assert cell["encoding"]["x"]["sort"] is None
    assert cell["encoding"]["y"]["sort"] is None


def test_ladders_are_logarithmic_and_keep_their_gaps() -> None:
    spec = ladder(AUDIT.ladders[0]).to_dict()
    rows = _values(spec, 0)
    assert len(rows) == 16
    assert [row["y"] for row in rows if row["x"] == 1e-8] == [None, None]
    x = spec["layer"][0]["encoding"]["x"]
    assert x["scale"]["type"] == "log"
    assert x["axis"]["format"] == ".1~e"
    assert spec["layer"][0]["encoding"]["y"]["scale"] == {"domain": [0, 1]}
    colours = spec["layer"][0]["encoding"]["color"]["scale"]["range"]
    assert len(set(colours)) == 2


def test_a_ladder_with_zero_has_no_logarithmic_axis() -> None:
    flat = Ladder(name="a", title="a", x_title="x", y_title="y", x=[0, 1], lines=[Line(name="b", y=[-3, 40])])
    encoding = ladder(flat).to_dict()["layer"][0]["encoding"]
    assert "type" not in encoding["x"]["scale"]
    assert "domain" not in encoding["y"]["scale"]


def _many(lines: int) -> Ladder:
    curves = [Line(name=f"image {i}", y=[0, None if i else 1.0, i]) for i in range(lines)]
    return Ladder(name="a", title="a", x_title="x", y_title="y", x=[1, 2, 3], lines=curves)


def test_no_two_of_few_curves_look_the_same() -> None:
    encoding = ladder(_many(MANY)).to_dict()["layer"][0]["encoding"]
    dashes = map(tuple, encoding["strokeDash"]["scale"]["range"])
    assert len(set(zip(encoding["color"]["scale"]["range"], dashes, strict=True))) == MANY
    assert encoding["color"]["scale"]["domain"] == [f"image {i}" for i in range(MANY)]


def test_many_curves_look_alike_and_have_a_median() -> None:
    found = _many(MANY + 1)
    rows = ladder_rows(found)
    middle = [row["y"] for row in rows if row["look"] == MEDIAN]
    assert middle == [0, 1.0, 3]
    assert {row["line"] for row in rows} == {line.name for line in found.lines} | {MEDIAN}
    encoding = ladder(found).to_dict()["layer"][0]["encoding"]
    assert encoding["color"]["scale"]["domain"] == ["each of 7", MEDIAN]
    assert encoding["detail"]["field"] == "line"  # alike, but not one line


@pytest.mark.parametrize(
    ("x", "form"), [([1, 10, 100], ".3~g"), ([1e-6, 1], ".1~e"), ([0, 0.5], ".3~g"), ([1, 1e6], ".1~e"), ([], ".3~g")]
)
def test_powers_of_ten_only_where_plain_numbers_are_long(x: list[float], form: str) -> None:
    assert axis_format(x) == form


SMALL = Surface(
    index=4,
    attack=[0, 0.5, 1],
    random=[-1, 0],
    loss=[[0.1, 0.2], [0.3, 0.4], [1.5, 2.5]],
    wrong=[[False, False], [False, True], [True, True]],
)


def test_the_surface_outlines_where_the_network_is_wrong() -> None:
    spec = surface(SMALL).to_dict()
    cells, wrong, outline = _values(spec, 0), _values(spec, 1), _values(spec, 2)
    assert len(cells) == 6
    assert cells[0] | {"left": -0.25, "right": 0.25, "bottom": -1.5, "top": -0.5, "loss": 0.1} == cells[0]
    assert [(row["attack"], row["random"]) for row in wrong] == [(0.5, 0), (1, -1), (1, 0)]
    pieces = {(line["x"], line["y"], line["x2"], line["y2"]) for line in outline}
    assert pieces == {(0.25, -0.5, 0.25, 0.5), (0.25, -0.5, 0.75, -0.5), (0.75, -1.5, 0.75, -0.5)}


def test_the_surface_in_words() -> None:
    assert spoken(SMALL) == (
        "The loss runs from 0.1 to 2.5 over 6 points; the network is wrong at 3 of them, "
        "along the attack from 0.5 eps on."
    )
    right = SMALL.model_copy(update={"wrong": [[False] * 2] * 3})
    assert spoken(right).endswith("the network is right at all of them.")
    beside = SMALL.model_copy(update={"wrong": [[True, False]] + [[False] * 2] * 2})
    assert spoken(beside).endswith("wrong at 1 of them.")


def test_every_chart_is_drawn_without_a_browser() -> None:
    assert AUDIT.matrix is not None
    assert AUDIT.surface is not None
    for drawn in (
        causes(AUDIT.causes, 300),
        matrix(AUDIT.matrix, 300),
        ladder(AUDIT.ladders[0], 300),
        ladder(_many(9), 300),
        surface(AUDIT.surface, 300),
        surface(SMALL.model_copy(update={"attack": [0], "loss": [[1.0, 1.0]], "wrong": [[False, False]]}), 300),
    ):
        svg = vl_convert.vegalite_to_svg(themed(drawn).to_dict())
        assert "NaN" not in svg
        assert svg.count("<path") > 3
