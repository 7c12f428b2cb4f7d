"""A cell's rows against the same attack done the plain way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_plan import NETWORK, run_cell, tiny_plan, write_data
from torch import Tensor, nn

from sonet.attacks import PGD, SPSA, Linf, predict
from sonet.audit import own_gradient_share
from sonet.data import load
from sonet.experiments import Cell, Plan, lay_out
from sonet.experiments.attacking import crafting_model
from sonet.experiments.work import do_cell
from sonet.models import swap_solver, variant
from sonet.solvers import Adaptive, Fixed, paper
from sonet.training import load_model

SONET = [{"name": "sonet", "options": NETWORK | {"channels": 8}}]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cells")


@pytest.fixture(scope="module")
def plan(home: Path) -> Plan:
    # Trained until it is right more often than by guessing: else no attack makes a difference.
    training = {"epochs": 4, "batch_size": 10, "lr": 0.1, "clip": 1.0, "device": "cpu"}
    return tiny_plan(write_data(home, train=200), models=SONET, training=training)


@pytest.fixture(scope="module")
def out(plan: Plan, home: Path) -> Path:
    run_cell(lay_out(plan)[0], plan, home / "out")
    return home / "out"


def model_of(out: Path) -> nn.Module:
    return load_model(out / "models" / "sonet-natural-0")


def attacked(plan: Plan) -> tuple[Tensor, Tensor]:
    test = load(plan.data).test.take(plan.images)
    return test.images, test.labels


def cell(plan: Plan, **changes: Any) -> Cell:
    setting = {
        "kind": "attack",
        "model": plan.models[0],
        "seed": 0,
        "attack": "pgd",
        "steps": (2,),
        "loss": "margin",
        "step_gradient": "differentiated",
        "attack_batch": 12,
        "eps": 0.05,
    }
    return Cell.model_validate(setting | changes)


def test_one_long_run_passes_through_the_shorter_ones(plan: Plan, out: Path) -> None:
    together = run_cell(cell(plan, steps=(1, 3, 6), loss="ce", eps=0.2), plan, out)
    assert [row.steps for row in together] == [1, 3, 6]
    assert len({row.accuracy for row in together}) > 1  # else the test would show nothing
    for row in together:
        (alone,) = run_cell(cell(plan, steps=(row.steps,), loss="ce", eps=0.2), plan, out)
        assert (row.accuracy, row.n) == (alone.accuracy, 12)


@pytest.mark.parametrize("batch", [4, 1])
@pytest.mark.parametrize("gradient", ["differentiated", "first", "frozen"])
def test_sharing_among_k_is_attacking_in_batches_of_k(plan: Plan, out: Path, batch: int, gradient: str) -> None:
    """In float64 and after two steps the images themselves agree, where the sign of no gradient is in doubt."""
    (images, labels), model = attacked(plan), model_of(out).double()
    images = images.double()
    made = []
    for source, size in (
        (crafting_model(cell(plan, attack_batch=batch, step_gradient=gradient), plan, model), 12),
        (variant(model, step_gradient=gradient), batch),
    ):
        assert source is not None
        attack = PGD(steps=2, keep="last", batch_size=size)
        made.append(attack.run(model, images, labels, Linf(0.05), gradients_from=source, judge_batch=12))
    agree = (made[0].adversarial - made[1].adversarial).abs() < 1e-9
    assert float(agree.double().mean()) > 0.99
    assert torch.equal(made[0].predictions, made[1].predictions)


def test_a_cells_row_is_the_attack_it_names(plan: Plan, out: Path) -> None:
    images, labels = attacked(plan)
    model = model_of(out)
    (row,) = run_cell(cell(plan, attack_batch=12, loss="ce", eps=0.2), plan, out)
    result = PGD(steps=2, keep="last", batch_size=12).run(model, images, labels, Linf(0.2), judge_batch=12)
    assert row.accuracy == result.accuracy.value
    assert (row.low, row.high) == result.accuracy.interval
    assert (row.model, row.seed, row.attack, row.steps, row.loss, row.eps) == ("sonet", 0, "pgd", 2, "ce", 0.2)
    assert (row.step_gradient, row.attack_batch, row.norm, row.keep) == ("differentiated", 12, "linf", "last")
    assert row.step_size == pytest.approx(0.2 / 8)


def test_a_spsa_row_is_judged_deployed_and_crafted_alone(plan: Plan, out: Path) -> None:
    images, labels = attacked(plan)
    model = model_of(out)
    wanted = cell(plan, attack="spsa", step_gradient=None, attack_batch=1, steps=(1,), eps=0.2, images=4)
    (row,) = run_cell(wanted, plan, out)
    single = variant(model, scope="sample", step_gradient="frozen")
    attack = SPSA(steps=1, samples=2, seed=0, batch_size=12)
    result = attack.run(model, images[:4], labels[:4], Linf(0.2), gradients_from=single, judge_batch=12)
    assert (row.accuracy, row.n) == (result.accuracy.value, 4)
    assert row.step_gradient is None


def test_natural_accuracy_is_of_the_deployed_network_on_all_test_images(plan: Plan, out: Path) -> None:
    outcome = do_cell(lay_out(plan)[0], plan, out, None, lambda done, word: None)
    test = load(plan.data).test
    right = float((predict(model_of(out), test.images, plan.judge_batch) == test.labels).float().mean())
    (row,), (card,) = outcome.rows, outcome.cards
    assert (row.attack, row.eps, row.steps, row.n) == ("none", 0.0, 0, 12)
    assert row.accuracy == pytest.approx(right)
    assert card.natural == row.accuracy
    assert card.parameters == sum(parameter.numel() for parameter in model_of(out).parameters())
    assert card.solver == paper().model_dump(mode="json")
    assert card.epochs == plan.training.epochs


def test_the_leak_cell_measures_shares_and_steps(plan: Plan, out: Path) -> None:
    wanted = Cell(kind="leak", model=plan.models[0], seed=0)
    outcome = do_cell(wanted, plan, out, None, lambda done, word: None)
    images, labels = attacked(plan)
    (leak,) = outcome.leaks  # alone there is nothing to leak
    assert leak.attack_batch == 12
    torch.testing.assert_close(
        torch.tensor(leak.shares), own_gradient_share(model_of(out), images, labels), rtol=1e-4, atol=1e-5
    )
    assert [entry.block for entry in outcome.steps] == ["first", "stages.0.0", "head"]
    assert all(sum(entry.accepted.values()) == 12 for entry in outcome.steps)


@pytest.mark.parametrize("solver", [Fixed(method="euler", num_steps=2), Adaptive(rtol=0.1, atol=0.1)])
def test_networks_with_other_solvers_are_attacked_as_they_are(solver: Any, tmp_path: Path) -> None:
    """Fixed steps have no step gradient; per-sample steps are not shared however many images are attacked."""
    write_data(tmp_path)
    plan = tiny_plan(tmp_path / "few.npz", models=SONET, solver=solver.model_dump())
    run_cell(lay_out(plan)[0], plan, tmp_path)
    model = model_of(tmp_path)
    for wanted in lay_out(plan)[1:]:
        outcome = do_cell(wanted, plan, tmp_path, None, lambda done, word: None)
        if wanted.kind == "leak":
            assert all(share == pytest.approx(1, abs=1e-4) for leak in outcome.leaks for share in leak.shares)
            continue
        assert len(outcome.rows) == len(wanted.steps)
        source = crafting_model(wanted, plan, model)
        assert (source is None) == (solver.kind == "fixed")
        if source is not None and wanted.step_gradient:
            images, _ = attacked(plan)
            with swap_solver(model, step_gradient=wanted.step_gradient), torch.no_grad():
                assert torch.equal(source(images), model(images))


def test_a_cell_does_not_run_without_its_network(plan: Plan, tmp_path: Path) -> None:
    from sonet.training import CheckpointError

    with pytest.raises(CheckpointError, match="sonet-natural-0"):
        run_cell(cell(plan), plan, tmp_path)
    assert not (tmp_path / "cells").exists()
