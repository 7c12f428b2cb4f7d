"""Where an attack's gradients come from, chosen on the command line, against the library's own figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runner import Runner, answered
from safetensors.torch import load_file

from sonet.attacks import PGD, Average, Backpropagation, Guided, Linf, predict
from sonet.data import load
from sonet.models import variant
from sonet.report import read
from sonet.training import load_model

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("paper", ["frozen", "alone", "finer", "jittered", "states"]),
        ("fixed", ["finer", "jittered", "states"]),
        ("resnet", []),
    ],
)
def test_the_ensemble_for_odes_tries_each_gradient(run: Runner, trained: Path, name: str, first: list[str]) -> None:
    words = ["--attack", "ode", "--set", "steps=1", "--set", "queries=2", "--images", 3, "--threat", "linf:0.01"]
    answer = answered(run("attack", trained / name, *words, "--json"))
    assert [(attack["name"], attack["gradients"]) for attack in answer["attacks"]] == [
        *((f"apgd-{gradients}", gradients) for gradients in first),
        *((name, "own") for name in ("apgd-ce", "apgd-t", "fab", "square")),
    ]
    rows = read(Path(answer["out"])).rows
    assert [row.note.rpartition("gradients: ")[2] for row in rows if "gradients" in row.note] == first


def right(result: Any, labels: torch.Tensor) -> float:
    return float(((result.clean == labels) & ~result.fooled).double().mean())


STEPS = ["--threat", "linf:0.05", "--set", "steps=2", "--json"]


def test_frozen_gradients_craft_and_the_deployed_network_judges(run: Runner, trained: Path) -> None:
    model, test = load_model(trained / "paper"), load(trained / "three.npz").test
    frozen = Backpropagation(variant(model, scope="sample", step_gradient="frozen"))
    result = PGD(steps=2).run(model, test.images, test.labels, Linf(0.05), gradients_from=frozen)
    own = PGD(steps=2).run(model, test.images, test.labels, Linf(0.05))
    assert not torch.equal(result.adversarial, own.adversarial)
    answer = answered(run("attack", trained / "paper", *STEPS, "--gradients", "frozen", "--out", "evidence"))
    assert answer["coupled"]
    assert (answer["gradients"], answer["attacks"][0]["gradients"]) == ("frozen", "frozen")
    assert answer["natural"] == result.natural.value > answer["accuracy"] == right(result, test.labels)
    assert answer["queries"] == result.queries
    crafted = load_file("evidence/units/pgd-0000.safetensors")["images"]
    assert torch.equal(crafted, result.adversarial)
    kept = load_file("evidence/adversarial.safetensors")["adversarial"]
    attacked = (result.clean == test.labels).view(-1, 1, 1, 1)  # what was wrong by itself is kept as it is
    assert torch.equal(kept, torch.where(attacked, crafted, test.images))
    assert answer["flips"] == int((predict(model, kept, 24) != predict(model, kept, 8)).sum())


def test_judged_one_at_a_time_batch_mates_play_no_part(run: Runner, trained: Path) -> None:
    model, test = load_model(trained / "paper"), load(trained / "three.npz").test
    alone = variant(model, scope="sample")
    result = PGD(steps=2).run(alone, test.images, test.labels, Linf(0.05), judge_batch=1)
    answer = answered(run("attack", trained / "paper", *STEPS, "--judge-batch", 1, "--out", "evidence"))
    assert (answer["coupled"], answer["flips"]) == (False, 0)
    assert answer["natural"] == result.natural.value > answer["accuracy"] == right(result, test.labels)
    assert answer["queries"] == int(result.queries_each[result.clean == test.labels].sum())
    assert run("verify", "evidence").code == 0


@pytest.mark.parametrize(
    ("name", "others"), [("resnet", ["other"]), ("resnet", ["other", "fixed"]), ("paper", ["fixed"])]
)
def test_gradients_of_other_runs(run: Runner, trained: Path, name: str, others: list[str]) -> None:
    """The network itself says when it is fooled; with batch-wide steps, each image on its own."""
    model, test = load_model(trained / name), load(trained / "three.npz").test
    there = Average(tuple(Backpropagation(load_model(trained / other)) for other in others))
    own = variant(model, scope="sample", step_gradient="frozen") if name == "paper" else model
    tried = (predict(model.eval(), test.images, 100) == test.labels) | (name == "paper")
    result = PGD(steps=2).run(
        model, test.images[tried], test.labels[tried], Linf(0.05), gradients_from=Guided(there, Backpropagation(own))
    )
    words = [word for other in others for word in ("--transfer-from", trained / other)]
    answer = answered(run("attack", trained / name, *STEPS, *words, "--out", "evidence"))
    assert answer["transfer_from"] == [str(trained / other) for other in others]
    assert (answer["gradients"], answer["attacks"][0]["gradients"]) == ("as-given", "as-given")
    assert answer["coupled"] == (name == "paper")
    assert answer["accuracy"] == int((~result.fooled & (result.clean == test.labels[tried])).sum()) / 24
    assert answer["queries"] == result.queries
    unit = load_file("evidence/units/pgd-0000.safetensors")
    assert torch.equal(unit["places"], tried.nonzero().squeeze(1))
    assert torch.equal(unit["images"], result.adversarial)
    assert torch.equal(unit["loss"], result.loss)
    plain = answered(run("attack", trained / name, *STEPS))
    assert (plain["gradients"], plain["transfer_from"]) == ("own", [])
    assert plain["queries"] < answer["queries"]  # its own logits are asked for besides
