"""`sonet reproduce` with rows chosen: one row, then another into the same folder, and names that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_runner import Runner, write_npz

from sonet.experiments import Plan, load_plan


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever plan is asked for: one network of two objectives, on digits in the place of CIFAR-10's archives."""
    (tmp_path / "data").mkdir()
    write_npz(tmp_path / "data" / "cifar10.npz", title="Digits (grey)")

    def load(name: str, *, quick: bool = False, seeds: int | None = None) -> Plan:
        changes: dict[str, Any] = {
            "data": "cifar10",
            "images": 6,
            "training": {"epochs": 1, "batch_size": 10, "device": "cpu"},
            "adversarial": {"threat": "linf:0.1", "attack_steps": 1},
            "objectives": {"natural": {}, "madry": {"objective": "madry"}},
            "models": [{"name": "resnet10", "options": {"channels": 2, "blocks": [1], "strides": [2]}}],
            "attacks": {
                "norm": "linf",
                "eps": [0.1],
                "steps": [1],
                "step_gradients": ["frozen"],
                "batches": [6],
                "spsa": {"images": 2, "steps": 1, "samples": 1},
            },
            "paper": [{"row": "resnet10/madry", "figures": {"pgd-1 linf:0.1": 0.25}}],
        }
        plain = load_plan("digits").model_dump(exclude={"ensemble", "audit", "quick", "only"})
        return Plan.model_validate(plain | changes | {"seeds": seeds or 1})

    monkeypatch.setattr("sonet.experiments.load_plan", load)
    monkeypatch.chdir(tmp_path)


def reproduce(run: Runner, *more: str) -> Any:
    return run("reproduce", "mine", "--workers", "1", "--data-dir", "data", *more)


def test_rows_are_added_one_by_one(run: Runner, tiny: None, undrawn: None) -> None:
    first = reproduce(run, "--only", "resnet10/natural")
    assert first.code == 0, first.err
    assert "not run" in first.out
    assert "Not run: resnet10/madry." in first.out
    begun = json.loads(Path("runs/mine/record.json").read_text())
    assert begun["command"] == "sonet reproduce mine --seeds 1 --data-dir data --only resnet10/natural"
    again = reproduce(run, "--only", "madry", "--json")
    record = json.loads(again.out)
    assert record["complete"]
    assert {row["objective"] for row in record["rows"]} == {"natural", "madry"}
    assert record["command"] == "sonet reproduce mine --seeds 1 --data-dir data"  # whichever call did what
    assert record["seconds"] > begun["seconds"] > 0
    assert record["data"]["source"].startswith("Digits (grey), arrays in ")
    shown = run("report", Path("runs") / "mine")
    assert "Beside the paper" in shown.out
    assert "Not run" not in shown.out


def test_an_unknown_row_is_one_sentence_that_lists_the_rows(run: Runner, tiny: None) -> None:
    ended = reproduce(run, "--only", "sonnet")
    assert ended.code == 2
    assert "sonet: --only: no row, network or objective is called 'sonnet'; the rows are resnet10/natural" in ended.err
    assert "resnet10/madry" in ended.err
    assert len(ended.err.strip().splitlines()) == 1
    assert not Path("runs").exists()


def test_a_table_without_a_quick_form_says_what_to_do(run: Runner) -> None:
    ended = run("reproduce", "cifar10", "--quick")
    assert ended.code == 2
    assert "cifar10 has no quick form; do single rows of it with --only" in ended.err
