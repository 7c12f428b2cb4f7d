"""Attacks go on at their last batch: killed anywhere, they end as if they had not been."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_plan import raw_plan, run_cell, tiny_plan, write_data

from sonet.experiments import Cell, Plan, lay_out, reproduce
from sonet.experiments.work import do_cell, outcome_file
from sonet.report import RecordError


class Killed(Exception):
    """Stands for a kill: nothing after it runs."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("units")


@pytest.fixture(scope="module")
def plan(home: Path) -> Plan:
    attacks = raw_plan("digits")["attacks"] | {"batches": [4, 1], "chunk": 4, "steps": [1, 3]}
    return tiny_plan(
        write_data(home), attacks=attacks, switches={"nearest": "deepfool", "restarts": 2, "scope": "sample"}
    )


@pytest.fixture(scope="module")
def trained(plan: Plan, home: Path) -> Path:
    for cell in lay_out(plan):
        if cell.kind == "train":
            run_cell(cell, plan, home / "out")
    return home / "out"


def wanted(plan: Plan, **settings: Any) -> Cell:
    return next(
        cell
        for cell in lay_out(plan)
        if cell.kind == "attack" and all(getattr(cell, key) == value for key, value in settings.items())
    )


CELLS: dict[str, dict[str, Any]] = {
    "reference": {"attack": "pgd", "steps": (1, 3)},
    "spsa": {"attack": "spsa"},
    "nearest": {"attack": "deepfool"},
    "restarts": {"restarts": 2},
    "per-sample": {"changed": "each image's own steps"},
}


def timeless(rows: Any) -> list[dict[str, Any]]:
    return [row.model_dump(exclude={"seconds"}) for row in rows]


@pytest.mark.parametrize(
    ("model", "name"),
    [
        *(("resnet10", name) for name in ("reference", "spsa", "nearest", "restarts")),
        *(("sonet", name) for name in ("reference", "spsa", "restarts", "per-sample")),
    ],
)
def test_killed_after_any_batch_it_ends_the_same(
    plan: Plan, trained: Path, tmp_path: Path, model: str, name: str
) -> None:
    cells = [c for c in lay_out(plan) if c.kind == "attack" and c.model.name == model]
    (cell, *_) = [c for c in cells if all(getattr(c, key) == value for key, value in CELLS[name].items())]
    (tmp_path / "models").symlink_to(trained / "models")
    whole = timeless(run_cell(cell, plan, tmp_path))
    outcome_file(cell, tmp_path).unlink()
    units = tmp_path / "units" / cell.key
    batches = -(-(cell.images or plan.images) // 4)
    for number in range(1, batches):

        def stop(done: float, word: str, number: int = number) -> None:
            if done > number / batches + 1e-9:
                raise Killed

        with pytest.raises(Killed):
            do_cell(cell, plan, tmp_path, None, stop)
        # A search that ends early reports only the end of its batch, after this is written.
        assert len(list(units.iterdir())) in ((number, number + 1) if name == "nearest" else (number,))
        assert not outcome_file(cell, tmp_path).exists()
    assert timeless(run_cell(cell, plan, tmp_path)) == whole
    assert not units.exists()


def test_finished_batches_are_not_made_again(plan: Plan, trained: Path, tmp_path: Path) -> None:
    cell = wanted(plan, attack="pgd", steps=(1, 3))
    (tmp_path / "models").symlink_to(trained / "models")
    told: list[float] = []

    def stop(done: float, word: str) -> None:
        told.append(done)
        if done > 2 / 3 + 1e-9:
            raise Killed

    with pytest.raises(Killed):
        do_cell(cell, plan, tmp_path, None, stop)
    assert len(told) == 2 * (3 + 1) + 1  # two batches of three steps with the end of each, and a step of the third
    again: list[float] = []
    do_cell(cell, plan, tmp_path, None, lambda done, word: again.append(done))
    assert len(again) == 2 + (3 + 1)
    assert again == sorted(again)


def test_chunks_change_no_row(plan: Plan, trained: Path, tmp_path: Path) -> None:
    """Steps are shared by each 4 images, whether 4 or 12 are crafted together."""
    together = plan.model_copy(update={"attacks": plan.attacks.model_copy(update={"chunk": 12})})
    (tmp_path / "models").symlink_to(trained / "models")
    for settings in ({"attack": "pgd", "steps": (1, 3)}, {"attack": "spsa"}):
        rows = []
        for setting in (plan, together):
            cells = [c for c in lay_out(setting) if c.kind == "attack" and c.model.name == "sonet"]
            cell = next(c for c in cells if all(getattr(c, key) == value for key, value in settings.items()))
            rows.append(timeless(run_cell(cell, setting, tmp_path)))
        assert rows[0] == rows[1]


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_a_batch_that_is_not_this_attacks_is_refused(plan: Plan, trained: Path, tmp_path: Path, damage: str) -> None:
    cell = wanted(plan, attack="pgd", steps=(1, 3))
    (tmp_path / "models").symlink_to(trained / "models")

    def stop(done: float, word: str) -> None:
        if done > 2 / 3 + 1e-9:
            raise Killed

    with pytest.raises(Killed):
        do_cell(cell, plan, tmp_path, None, stop)
    first, second = sorted((tmp_path / "units" / cell.key).iterdir())
    if damage == "cut":
        first.write_bytes(first.read_bytes()[:-9])
        expected = "cannot be read"
    else:
        second.write_bytes(first.read_bytes())
        expected = "one of others"
    with pytest.raises(RecordError, match=expected):
        run_cell(cell, plan, tmp_path)
    assert not outcome_file(cell, tmp_path).exists()


def test_a_whole_table_leaves_no_batches(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sonet.report.html.render", lambda record: "page")
    chosen = plan.select(["resnet10"])
    record = reproduce(chosen, tmp_path / "run", command="x", workers=1)
    assert record.complete
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "plan.json", "data.json", "cells", "models", "record.json", "report.html",
    }  # fmt: skip
