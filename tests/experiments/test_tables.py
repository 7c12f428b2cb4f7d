"""The tables: the paper's protocol is in them, rows can be chosen, every switch changes one thing."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from tiny_plan import NETWORK, raw_plan, tiny_plan

from sonet.experiments import Cell, Plan, PlanError, lay_out, load_plan, plans
from sonet.solvers import paper
from sonet.training import paper_training

OBJECTIVES = {"natural": {}, "trades-6": {"objective": "trades", "beta": 6.0}}
ADVERSARIAL = {"threat": "linf:0.1", "attack_steps": 2}


def table(**changes: Any) -> Plan:
    return tiny_plan("digits", objectives=OBJECTIVES, adversarial=ADVERSARIAL, **changes)


def test_every_plan_can_be_read_and_its_cells_told_apart() -> None:
    assert {"digits", "mnist", "cifar10", "cifar10-short", "cifar10-small"} <= plans().keys()
    for name in plans():
        cells = lay_out(load_plan(name))
        assert len({cell.key for cell in cells}) == len({cell.label for cell in cells}) == len(cells), name


def test_the_papers_table_is_the_papers_protocol() -> None:
    plan = load_plan("cifar10")
    natural = plan.objective("natural")
    assert natural == paper_training(augment="crop-flip")
    assert plan.solver == paper()
    for name, beta in (("trades-1", 1.0), ("trades-6", 6.0)):
        config = plan.objective(name)
        inner = (config.objective, config.beta, config.threat, config.attack_steps, config.attack_step_size)
        assert inner == ("trades", beta, "linf:0.031", 10, 0.007)
        assert config.model_copy(update=natural.model_dump(include={"epochs", "lr", "schedule"})) == config
    assert len(plan.rows) == len(plan.paper) == 8
    assert {entry.row for entry in plan.paper} == {row.name for row in plan.rows}
    assert (plan.images, max(plan.attacks.batches), plan.attacks.steps) == (10_000, 100, (20, 1000))
    balls = [(ball.norm, ball.eps, ball.step_size) for ball in plan.attacks.balls]
    assert balls == [("linf", (0.031,), 0.003), ("l2", (0.5,), 0.1)]


def test_every_figure_of_the_paper_meets_its_attack() -> None:
    """A figure whose attack no cell makes would look like a row that was not run."""
    plan = load_plan("cifar10")
    for entry in plan.paper:
        cells = [cell for cell in lay_out(plan) if cell.row == entry.row and cell.kind == "attack"]
        made = {(cell.attack, steps, cell.norm, cell.eps) for cell in cells for steps in cell.steps}
        for figure in entry.parsed:
            if figure.attack != "none":
                assert (figure.attack, figure.steps, figure.norm, figure.eps) in made


@pytest.mark.parametrize("name", ["cifar10-short", "cifar10-small"])
def test_a_shortened_table_says_what_it_changes(name: str) -> None:
    plan = load_plan(name)
    assert plan.changes
    assert all(sentence.endswith(".") for sentence in (*plan.changes, *plan.reasons))
    said = " ".join(plan.changes)
    for number in (plan.training.epochs, plan.images, *plan.attacks.steps):
        assert f" {number:,} " in said


def test_rows_are_networks_times_objectives() -> None:
    names = [row.name for row in table().rows]
    assert names == ["resnet10/natural", "resnet10/trades-6", "sonet/natural", "sonet/trades-6"]
    some = [{"name": "wide", "kind": "resnet10", "options": NETWORK, "objectives": ["trades-6"]}]
    assert [row.name for row in table(models=some).rows] == ["wide/trades-6"]
    cells = lay_out(table())
    assert {(cell.model.name, cell.objective) for cell in cells} == {tuple(name.split("/")) for name in names}


@pytest.mark.parametrize(
    ("only", "rows"),
    [
        (["sonet/natural"], {"sonet/natural"}),
        (["sonet"], {"sonet/natural", "sonet/trades-6"}),
        (["natural"], {"sonet/natural", "resnet10/natural"}),
        (["sonet/natural", "trades-6"], {"sonet/natural", "sonet/trades-6", "resnet10/trades-6"}),
        ([], {"sonet/natural", "sonet/trades-6", "resnet10/natural", "resnet10/trades-6"}),
    ],
)
def test_only_takes_rows_networks_and_objectives(only: list[str], rows: set[str]) -> None:
    assert {cell.row for cell in lay_out(table().select(only))} == rows


def test_only_takes_a_kind_for_all_its_widths() -> None:
    chosen = load_plan("cifar10").select(["sonet"]).chosen
    assert [row.name for row in chosen] == ["sonet-32/natural", "sonet-64/natural"]


def test_an_unknown_row_is_an_error_that_lists_the_rows() -> None:
    with pytest.raises(PlanError, match=r"--only: no row.* called 'sonnet'; the rows are resnet10/natural, .*sonet/tr"):
        table().select(["sonnet"])


def test_a_selection_changes_no_cell() -> None:
    whole = {cell.key for cell in lay_out(table())}
    some = {cell.key for cell in lay_out(table().select(["sonet/trades-6"]))}
    assert some < whole


def test_the_demo_is_the_natural_rows_and_quick_is_a_part_of_them() -> None:
    natural = lay_out(load_plan("digits").select(["natural"]))
    assert {cell.kind for cell in natural} == {"train", "leak", "attack"}
    assert {cell.objective for cell in lay_out(load_plan("digits", quick=True))} == {"natural"}
    with pytest.raises(PlanError, match="no quick form"):
        load_plan("cifar10", quick=True)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"objectives": {"hard": {"objective": "madry"}}}, "objective 'hard' trains by 'madry'"),
        ({"objectives": {"madry": {"objective": "madry"}}, "adversarial": {}}, "needs a threat"),
        ({"objectives": {"natural": {"epoch": 3}}}, "epoch"),
        ({"models": [{"name": "sonet", "options": NETWORK, "objectives": ["trades-1"]}]}, "called 'trades-1'"),
        ({"models": [{"name": "a/b", "kind": "sonet", "options": NETWORK}]}, "pattern"),
        ({"only": ["nobody"]}, "called 'nobody'"),
        ({"ensemble": {"name": "hard", "images": 4}}, "no ensemble is called 'hard'"),
        ({"ensemble": {"images": 4, "only": ["nobody"]}}, "called 'nobody'"),
        ({"audit": {"images": 13}}, "audit attacks 13 images"),
        ({"paper": [{"row": "sonet/no", "figures": {}}]}, "called 'sonet/no'"),
        ({"paper": [{"row": "sonet/natural", "figures": {"pgd linf:0.1": 0.5}}]}, "expected 'natural' or such as"),
        ({"paper": [{"row": "sonet/natural", "figures": {"natural": 53.0}}]}, "less than or equal to 1"),
        ({"paper": [{"row": "sonet/natural", "figures": {}}] * 2}, "paper names something twice"),
        ({"switches": {"random": True}}, "Extra inputs"),
        ({"switches": {"images": 5}}, "no multiple of batch 12"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(changes: dict[str, Any], word: str) -> None:
    setting = {"objectives": OBJECTIVES, "adversarial": ADVERSARIAL} | changes
    with pytest.raises(ValidationError, match=word):
        Plan.model_validate(raw_plan("digits", **setting))


def test_a_chunk_takes_whole_batches() -> None:
    attacks = raw_plan("digits")["attacks"]
    with pytest.raises(ValidationError, match="chunk 6 is no multiple of attack batch 12"):
        tiny_plan("digits", attacks=attacks | {"chunk": 6})


SWITCHES: dict[str, tuple[Any, dict[str, Any]]] = {
    "scope": ("sample", {"solver": {"scope": "sample"}}),
    "tolerance": (0.01, {"solver": {"rtol": 0.01, "atol": 0.01}}),
    "end": ("clip", {"solver": {"end": "clip"}}),
    "eps": ("8/255", {"eps": 8 / 255}),
    "random_start": (True, {"random_start": True}),
    "restarts": (3, {"random_start": True, "restarts": 3}),
    "nearest": ("deepfool", {"attack": "deepfool", "steps": (), "loss": None, "attack_batch": 1}),
}


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_changes_one_thing(name: str) -> None:
    value, expected = SWITCHES[name]
    plain, switched = lay_out(tiny_plan("digits")), lay_out(tiny_plan("digits", switches={name: value}))
    more = [cell for cell in switched if cell not in plain]
    assert [cell for cell in plain if cell not in switched] == []
    solver_only = name in ("scope", "tolerance", "end")
    assert [cell.model.name for cell in more] == (["sonet"] if solver_only else ["resnet10", "sonet"])
    for cell in more:
        (reference,) = [one for one in plain if _is_reference(one, cell.model.name)]
        kept = Cell.model_fields.keys() - {"steps", "pictures", "changed"}
        assert {key for key in kept if getattr(cell, key) != getattr(reference, key)} == expected.keys() - {"steps"}
        assert all(getattr(cell, key) == wanted for key, wanted in expected.items())
        assert cell.changed


def test_a_switch_that_is_the_plans_own_setting_is_no_change() -> None:
    plan = tiny_plan("digits", switches={"scope": "batch", "end": "dense"})
    assert [cell.key for cell in lay_out(plan)] == [cell.key for cell in lay_out(tiny_plan("digits"))]


def _is_reference(cell: Cell, model: str) -> bool:
    return (cell.kind, cell.model.name, cell.attack, cell.loss, cell.attack_batch) == (
        "attack", model, "pgd", "ce", 12,
    ) and cell.step_gradient in (None, "differentiated")  # fmt: skip
