"""Pooling and naming: counts are added, seeds are shown, different attacks stay apart."""

from __future__ import annotations

import pytest
from report_fixture import synthetic_record

from sonet.report import Record, Row
from sonet.report.lines import Panel, panels
from sonet.types import Proportion

PGD = "PGD-20, CE, batch 100"
BASE: dict[str, object] = {
    "model": "sonet",
    "seed": 0,
    "attack": "pgd",
    "steps": 20,
    "loss": "ce",
    "attack_batch": 100,
    "norm": "linf",
    "eps": 0.1,
    "seconds": 1.0,
}


def _row(count: int, n: int = 100, **changes: object) -> Row:
    return Row.of(Proportion(count, n), **{**BASE, **changes})  # type: ignore[arg-type]


def _panels(*rows: Row) -> list[Panel]:
    empty = synthetic_record(seeds=0).model_dump()
    return panels(Record.model_validate({**empty, "rows": rows}))


def test_two_seeds_are_pooled_by_their_counts() -> None:
    """62 + 66 of 200 = 0.64. Wilson: centre (0.64 + 3.84146/400)/1.0192073 = 0.637362, half 0.065946."""
    [panel] = _panels(_row(62, seed=0), _row(66, seed=1))
    cell = panel.lines[0].cells[0.1]
    assert cell.right == Proportion(128, 200)
    assert cell.right.interval == pytest.approx((0.571416, 0.703308), abs=2e-6)
    assert (cell.interval, cell.seeds) == ("[0.57, 0.70]", "0.62–0.66")


def test_unequal_seeds_weigh_by_their_images() -> None:
    [panel] = _panels(_row(10, 10, seed=0), _row(0, 30, seed=1))
    assert panel.lines[0].cells[0.1].accuracy == 0.25


def test_one_seed_has_no_range() -> None:
    [panel] = _panels(_row(62))
    assert panel.lines[0].cells[0.1].seeds == ""


def test_natural_accuracy_counts_a_seed_once_even_when_repeated_for_every_radius() -> None:
    plain = {"attack": "none", "steps": 0, "loss": None, "attack_batch": None, "norm": None}
    [panel] = _panels(*(_row(90, seed=s, eps=eps, **plain) for s in (0, 1) for eps in (0.1, 0.2)), _row(3))
    assert panel.natural is not None
    assert panel.natural.right == Proportion(180, 200)
    assert len(panel.lines) == 1


@pytest.mark.parametrize(
    ("change", "label"),
    [
        ({}, "PGD-20, CE, batch 100"),
        ({"steps": 60, "loss": "margin"}, "PGD-60, margin, batch 100"),
        ({"step_gradient": "first", "attack_batch": None}, "PGD-20, CE, first"),
        ({"restarts": 5, "random_start": True, "keep": "best"}, f"{PGD}, 5 restarts, random start, best iterate"),
        ({"attack": "spsa", "loss": None, "attack_batch": 1}, "SPSA-20, batch 1"),
        ({"attack": "my attack", "steps": 0, "loss": None, "attack_batch": None}, "my attack"),
    ],
)
def test_a_label_says_all_that_sets_an_attack_apart(change: dict[str, object], label: str) -> None:
    [panel] = _panels(_row(5, **change))
    assert panel.lines[0].label == label


def test_step_sizes_that_follow_the_radius_make_one_line_and_rivals_make_two() -> None:
    [panel] = _panels(_row(5, eps=0.1, step_size=0.0125), _row(5, eps=0.2, step_size=0.025))
    assert [line.label for line in panel.lines] == ["PGD-20, CE, batch 100"]
    [panel] = _panels(_row(5, step_size=0.01), _row(7, step_size=0.02))
    assert [line.label for line in panel.lines] == [
        "PGD-20, CE, batch 100, step 0.01",
        "PGD-20, CE, batch 100, step 0.02",
    ]


def test_norms_objectives_and_networks_have_panels_of_their_own() -> None:
    titles = [p.title for p in _panels(_row(5), _row(5, norm="l2", eps=0.5), _row(5, objective="trades"))]
    assert titles == ["sonet, linf", "sonet, l2", "sonet (trades), linf"]


def test_the_order_puts_differentiated_steps_first_and_gradient_free_attacks_last() -> None:
    labels = [line.label for line in panels(synthetic_record())[2].lines]
    assert labels[0] == "PGD-20, CE, differentiated, batch 100"
    assert labels[-2:] == ["PGD-20, margin, differentiated, batch 100", "SPSA-20, margin, batch 1"]


def test_reported_values_and_notes_stay_with_their_line() -> None:
    [panel] = _panels(_row(5, reported=0.2, note="a"), _row(5, seed=1, reported=0.2, note="b"))
    line = panel.lines[0]
    assert (line.cells[0.1].reported, line.notes) == ("0.20", ["a", "b"])
