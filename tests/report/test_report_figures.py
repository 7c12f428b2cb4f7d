"""Charts are data: the right rows, encodings and orders."""

from __future__ import annotations

from typing import Any

import pytest
from report_fixture import RADII, synthetic_record

from sonet.report import Leak, StepHistogram, figure_png, figure_svg
from sonet.report.figures import bar_rows, bars, curves, overview
from sonet.report.lines import panels
from sonet.report.palette import COLOURS
from sonet.report.ridges import leak_rows, leaks, step_rows, steps

RECORD = synthetic_record()
SONET = panels(RECORD)[2]


def _data(chart: Any, layer: int) -> list[dict[str, Any]]:
    spec = chart.to_dict()
    data = spec["layer"][layer].get("data") or spec["data"]
    values: list[dict[str, Any]] = data["values"]
    return values


def test_bars_show_the_largest_radius_weakest_attack_first() -> None:
    rows = _data(bars(SONET), 0)
    assert len(rows) == 1 + 13
    assert rows[0]["attack"] == "no attack"
    accuracies = [row["accuracy"] for row in rows[1:]]
    assert accuracies == sorted(accuracies, reverse=True)
    assert {row["eps"] for row in rows[1:]} == {max(RADII)}
    assert rows[1] | {"accuracy": 0.64, "images": 200, "seeds": "0.62–0.66"} == rows[1]
    spec = bars(SONET).to_dict()
    assert spec["width"] == "container"
    assert spec["layer"][0]["encoding"]["y"]["sort"] == [row["attack"] for row in rows]
    assert spec["layer"][0]["encoding"]["x"]["scale"]["domain"] == [0, 1]
    assert {layer["mark"]["type"] for layer in spec["layer"]} == {"bar", "rule", "text"}


def test_masking_stands_apart() -> None:
    left = {row["attack"]: float(str(row["accuracy"])) for row in bar_rows(SONET)}
    others = ("PGD-20, CE, frozen, batch 100", "PGD-20, CE, differentiated, batch 1", "SPSA-20, margin, batch 1")
    assert left["PGD-20, CE, differentiated, batch 100"] - max(left[name] for name in others) > 0.5


def test_curves_start_at_natural_accuracy_and_have_a_band() -> None:
    rows = _data(curves(SONET), 1)
    assert len(rows) == 13 * (1 + len(RADII))
    assert all(row["low"] <= row["accuracy"] <= row["high"] for row in rows)
    starts = {row["accuracy"] for row in rows if row["eps"] == 0}
    assert starts == {(355 + 354) / 718}
    spec = curves(SONET).to_dict()
    assert [layer["mark"]["type"] for layer in spec["layer"]] == ["area", "line", "point"]
    assert spec["params"][0]["bind"] == "legend"
    domain = spec["layer"][1]["encoding"]["color"]["scale"]["domain"]
    looks = zip(
        spec["layer"][1]["encoding"]["color"]["scale"]["range"],
        map(tuple, spec["layer"][1]["encoding"]["strokeDash"]["scale"]["range"]),
        strict=True,
    )
    assert len(set(looks)) == len(domain) == 13  # no two lines look the same


def test_steps_pool_seeds_and_scale_each_block() -> None:
    one = StepHistogram(model="m", seed=0, block="a", accepted={2: 10}, mean_evaluations=10)
    two = StepHistogram(model="m", seed=1, block="a", accepted={2: 10, 3: 20}, mean_evaluations=20)
    drawn, labels = step_rows([one, two])
    assert [(row["steps"], row["count"], row["share"]) for row in drawn] == [(2, 20, 0.5), (3, 20, 0.5)]
    assert labels == [{"row": 0, "label": "a: 17.5 evaluations a sample"}]  # (10 * 10 + 30 * 20) / 40
    spec = steps(RECORD, "sonet").to_dict()
    assert spec["layer"][1]["encoding"]["y"]["scale"]["domain"] == [4, 0]
    assert len(_data(steps(RECORD, "sonet"), 2)) == 4


def test_leaks_are_binned_by_their_logarithm() -> None:
    leak = Leak(model="m", seed=0, attack_batch=10, step_gradient="first", shares=[1.0, 0.9, 0.1, 0.011, 0.0])
    drawn, labels = leak_rows([leak])
    assert [row["count"] for row in drawn] == [1, 1, 1, 2]
    assert drawn[0]["left"] == pytest.approx(1e-4)
    assert drawn[1]["left"] == pytest.approx(0.01)
    assert drawn[2]["left"] == pytest.approx(0.1)
    assert drawn[-1]["right"] == 1.0
    assert sum(float(row["share"]) for row in drawn) == pytest.approx(1)
    assert labels[0]["label"] == "batch 10, first: median 10 %"
    assert leaks(RECORD, "sonet").to_dict()["layer"][1]["encoding"]["x"]["scale"]["type"] == "log"
    assert [row["label"].split(",")[0] for row in _data(leaks(RECORD, "sonet"), 2)] == [
        "batch 100",
        "batch 10",
        "batch 1",
    ]


def test_the_overview_has_a_chart_for_each_network_and_one_key() -> None:
    spec = overview(RECORD).to_dict()
    assert [chart["title"] for chart in spec["hconcat"]] == [
        "resnet10, eps 0.2",
        "soblock-resnet10, eps 0.2",
        "sonet, eps 0.2",
    ]
    assert len(spec["hconcat"][0]["layer"][0]["encoding"]["color"]["scale"]["domain"]) == 6


def test_the_overview_becomes_files_without_a_browser() -> None:
    assert figure_png(RECORD, scale=1).startswith(b"\x89PNG")
    svg = figure_svg(RECORD)
    assert svg.startswith("<svg")
    assert "PGD-20, CE, differentiated, batch 100" in svg


def test_a_record_without_rows_has_nothing_to_draw() -> None:
    with pytest.raises(ValueError, match="expected a record with rows"):
        figure_png(synthetic_record(seeds=0))


@pytest.mark.parametrize("page", ["#ffffff", "#14171c"])
def test_colours_stand_out_on_both_pages(page: str) -> None:
    """WCAG 2.1: at least 3:1 for parts of charts."""

    def luminance(colour: str) -> float:
        levels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in levels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for colour in COLOURS.values():
        dark, light = sorted((luminance(colour), luminance(page)))
        assert (light + 0.05) / (dark + 0.05) >= 3, colour
