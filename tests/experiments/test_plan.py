"""Plans: what they accept, what they refuse, and that they lay out every cell once."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
from pydantic import ValidationError
from tiny_plan import NETWORK, raw_plan, tiny_plan

from sonet.experiments import Cell, Plan, PlanError, cost, lay_out, load_plan, plans
from sonet.experiments.plan import _merge
from sonet.solvers import Fixed, paper

ADAPTIVE = ("sonet", "soblock-resnet10")


def test_the_digits_plan_is_the_papers_solver_and_settings() -> None:
    plan = load_plan("digits")
    assert plan.solver == paper()
    assert plan.images == plan.judge_batch == max(plan.attacks.batches) == 100
    assert {model.name for model in plan.models} == {"resnet10", *ADAPTIVE}
    assert "digits" in plans()
    assert plans()["digits"] == plan.title


def test_quick_changes_what_it_names_and_nothing_else() -> None:
    whole, quick = load_plan("digits").model_dump(), load_plan("digits", quick=True).model_dump()
    assert quick["quick"], "the test needs a plan with a quick form"
    changed = {key for key in whole if whole[key] != quick[key]}
    assert changed == quick["quick"].keys()
    for section, values in quick["quick"].items():
        if isinstance(values, dict):
            kept = whole[section].keys() - values.keys()
            assert all(whole[section][key] == quick[section][key] for key in kept)


def test_merging_goes_into_tables_and_replaces_the_rest() -> None:
    base = {"a": 1, "b": {"c": [1, 2], "d": 3}, "e": {"f": 1}}
    assert _merge(base, {"b": {"c": [9]}, "e": 2, "g": 5}) == {"a": 1, "b": {"c": [9], "d": 3}, "e": 2, "g": 5}
    assert base == {"a": 1, "b": {"c": [1, 2], "d": 3}, "e": {"f": 1}}


def test_seeds_and_unknown_names() -> None:
    assert load_plan("digits", seeds=7).seeds == 7
    with pytest.raises(PlanError, match=r"no experiment is called 'digit', expected one of .*digits"):
        load_plan("digit")
    with pytest.raises(ValidationError):
        load_plan("digits", seeds=0)


def _changed(path: str, value: Any) -> dict[str, Any]:
    plan = raw_plan("digits")
    *inner, last = path.split(".")
    place: Any = plan
    for key in inner:
        place = place[int(key) if key.isdigit() else key]
    place[last] = value
    return plan


@pytest.mark.parametrize(
    ("path", "value", "word"),
    [
        ("attacks.epss", [0.1], "Extra inputs"),
        ("attack", {}, "Extra inputs"),
        ("training.epoch", 3, "Extra inputs"),
        ("models.0.options", NETWORK | {"channel": 2}, "no option 'channel'"),
        ("models.0.name", "resnet", "no network is called 'resnet'"),
        ("models.1.options", NETWORK | {"solver": paper().model_dump()}, "solver of its own"),
        ("models.1.name", "resnet10", "twice"),
        ("attacks.batches", [12, 5], "attack batch 5 does not divide the 12 attacked images"),
        ("attacks.batches", [], "at least 1"),
        ("attacks.batches", [12, 12], "twice"),
        ("attacks.steps", [2, 2], "twice"),
        ("attacks.steps", [0], "greater than 0"),
        ("attacks.eps", [0.1, 0.1], "twice"),
        ("attacks.eps", [-0.1], "finite number >= 0"),
        ("attacks.eps", [0], "greater than 0"),
        ("attacks.eps", [float("inf")], "finite"),
        ("attacks.norm", "l1", "linf"),
        ("attacks.step_gradients", ["free"], "frozen"),
        ("attacks.spsa.images", 13, "spsa attacks 13 images"),
        ("solver.rtol", -1, "greater than 0"),
        ("solver.scope", 4, "scope 4"),
        ("solver", "papers", "got 'papers', expected 'paper' or a table"),
        ("seeds", 0, "greater than 0"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(path: str, value: Any, word: str) -> None:
    with pytest.raises(ValidationError, match=word):
        Plan.model_validate(_changed(path, value))


def attacks_on(cells: list[Cell], model: str, **wanted: Any) -> list[Cell]:
    return [
        cell
        for cell in cells
        if (cell.kind, cell.model.name) == ("attack", model)
        and all(getattr(cell, key) == value for key, value in wanted.items())
    ]


def test_every_combination_is_laid_out_once() -> None:
    plan = load_plan("digits", seeds=2).select(["natural"])
    cells = lay_out(plan)
    assert len({cell.key for cell in cells}) == len(cells)
    seeds, radii, attacks = range(2), plan.attacks.eps, plan.attacks
    for model, seed in itertools.product(("resnet10", *ADAPTIVE), seeds):
        assert Counter(c.kind for c in cells if (c.model.name, c.seed) == (model, seed) and c.kind != "attack") == (
            {"train": 1, "leak": 1} if model in ADAPTIVE else {"train": 1}
        )
    for model, seed, eps in itertools.product(ADAPTIVE, seeds, radii):
        here: dict[str, Any] = {"seed": seed, "eps": eps}
        for gradient, batch in itertools.product(attacks.step_gradients, attacks.batches):
            found = attacks_on(
                cells, model, **here, attack="pgd", loss="ce", step_gradient=gradient, attack_batch=batch
            )
            whole = (gradient, batch) == ("differentiated", 100)
            assert [cell.steps for cell in found] == [(20, 60, 200) if whole else (20,)]
        margin = attacks_on(cells, model, **here, attack="pgd", loss="margin")
        assert [(c.step_gradient, c.attack_batch, c.steps) for c in margin] == [("differentiated", 100, (20,))]
        spsa = attacks_on(cells, model, **here, attack="spsa")
        assert [(c.step_gradient, c.attack_batch, c.loss) for c in spsa] == [(None, 1, "margin")]
        assert len(attacks_on(cells, model, **here)) == 3 * 3 + 2


def test_a_network_without_a_solver_has_no_cells_about_one() -> None:
    plan = load_plan("digits").select(["natural"])
    cells = lay_out(plan)
    mine = attacks_on(cells, "resnet10")
    assert {cell.step_gradient for cell in mine} == {None}
    for eps in plan.attacks.eps:
        here = attacks_on(cells, "resnet10", eps=eps)
        assert [(c.attack, c.loss, c.steps) for c in here] == [
            ("pgd", "ce", (20, 60, 200)),
            ("pgd", "margin", (20,)),
            ("spsa", "margin", (20,)),
        ]
    assert not [cell for cell in cells if cell.kind == "leak" and cell.model.name == "resnet10"]


def test_fixed_steps_are_no_steps_to_differentiate() -> None:
    plan = tiny_plan("digits", solver=Fixed(method="euler", num_steps=1).model_dump())
    assert {(cell.kind, cell.step_gradient) for cell in lay_out(plan)} == {("train", None), ("attack", None)}


def test_costs_are_positive_and_labels_tell_cells_apart() -> None:
    plan = load_plan("digits", seeds=2)
    cells = lay_out(plan)
    assert all(cost(cell, plan) > 0 for cell in cells)
    assert len({cell.label for cell in cells}) == len(cells)


def test_pictures_are_taken_at_the_largest_radius_once_for_each_network() -> None:
    cells = [cell for cell in lay_out(load_plan("digits")) if cell.pictures]
    assert sorted((cell.row, cell.eps) for cell in cells) == sorted((row.name, 0.2) for row in load_plan("digits").rows)
