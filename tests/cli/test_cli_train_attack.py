"""Train, go on, attack: from the command line to numbers that the library gives too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runner import BATCH, TINY, Runner, write_npz

from sonet.attacks import PGD, Linf, predict
from sonet.cli.settings import read_settings
from sonet.data import load
from sonet.solvers import Fixed, paper
from sonet.training import load_checkpoint, load_model
from sonet.types import Proportion


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(monkeypatch, capsys)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_npz(tmp_path / "few.npz")


def test_train_then_attack(run: Runner, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trained = run(
        *("train", "sonet", *TINY, *BATCH, "--set", "model.solver=paper", "--data", data.name),
        *("--epochs", 1, "--lr", 0.05, "--seed", 3, "--out", "run", "--json"),
    )
    assert trained.code == 0, trained.err
    answer = json.loads(trained.out)
    assert answer["run"] == "run"
    assert [epoch["epoch"] for epoch in answer["history"]] == [1]
    description = load_checkpoint(tmp_path / "run").description
    assert description.model["solver"] == paper().model_dump()
    assert (description.training.lr, description.training.seed, description.training.batch_size) == (0.05, 3, 10)
    assert description.data["n_train"] == 30

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # the run knows its data from any folder
    common: list[Any] = ["attack", "../run", "--threat", "linf:0.1", "--set", "steps=2", "--images", 10, "--json"]
    plain, frozen = (run(*common, *more) for more in ([], ["--step-gradient", "frozen", "--scope", "sample"]))
    assert plain.code == frozen.code == 0, plain.err + frozen.err
    left = json.loads(plain.out)
    assert {
        "run": "../run",
        "attack": "pgd",
        "threat": "linf:0.1",
        "step_gradient": None,
        "scope": None,
        "transfer_from": [],
        "gradients": "own",
        "attack_batch": 100,
        "n": 10,
        "seed": 0,
        "out": None,
        "unfinished": [],
    }.items() <= left.items()
    test = load(data).test.take(10)
    result = PGD(steps=2).run(load_model(tmp_path / "run"), test.images, test.labels, Linf(0.1))
    assert left["natural"] == result.natural.value > 0
    assert left["coupled"]  # steps shared by a batch: all images are attacked, also those wrong by themselves
    assert left["queries"] == result.queries
    right = ~result.fooled & (result.clean == test.labels)
    assert left["accuracy"] == int(right.sum()) / 10
    assert (left["low"], left["high"]) == Proportion(int(right.sum()), 10).interval
    attacked = (result.clean == test.labels).view(-1, 1, 1, 1)  # what was wrong by itself is kept as it is
    kept = torch.where(attacked, result.adversarial, test.images)
    together, elsewhere = (predict(load_model(tmp_path / "run").eval(), kept, size) for size in (10, 3))
    assert left["accuracy_elsewhere"] == int((elsewhere == test.labels).sum()) / 10
    assert left["flips"] == int((together != elsewhere).sum())
    assert [attack["settings"] for attack in left["attacks"]] == [PGD(steps=2).model_dump(mode="json")]
    described = ["--step-gradient", "frozen", "--scope", "sample", "--out", "kept"]
    for time in ("first", "again"):  # the folder holds how the gradients were described, and knows it again
        kept_run = run(*common, *described)
        assert kept_run.code == 0, (time, kept_run.err)
        assert json.loads(kept_run.out)["accuracy"] == json.loads(frozen.out)["accuracy"]
    record = json.loads((tmp_path / "elsewhere" / "kept" / "record.json").read_text())
    assert (record["settings"]["step_gradient"], record["settings"]["scope"]) == ("frozen", "sample")
    assert json.loads(frozen.out)["step_gradient"] == "frozen"
    assert json.loads(frozen.out)["scope"] == "sample"
    assert json.loads(frozen.out)["gradients"] == "as-given"

    spsa = json.loads(run(*common, "--attack", "spsa", "--set", "samples=2").out)
    assert spsa["attack"] == "spsa"
    assert [spsa["attacks"][0]["settings"][key] for key in ("steps", "samples")] == [2, 2]
    told = run(*common[:-1])
    assert told.out.startswith("pgd, linf:0.1: ")
    assert "of 10 images stand under every attack at linf:0.1: " in told.out.replace("\n", " ")


def test_an_interrupted_run_goes_on(run: Runner, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["train", "resnet10", *TINY, *BATCH, "--data", data, "--epochs", 2, "--json", "--out"]
    straight = json.loads(run(*words, tmp_path / "straight").out)
    with monkeypatch.context() as patch:
        import sonet.cli.progress

        def interrupt(self: Any, batch: Any) -> None:
            if batch.epoch == 1:
                raise KeyboardInterrupt

        patch.setattr(sonet.cli.progress.TrainWatch, "__call__", interrupt)
        assert run(*words, tmp_path / "cut").code == 130
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == ["epoch-0001", "log.csv"]
    resumed = json.loads(run(*words, tmp_path / "cut").out)
    for epoch in (*straight["history"], *resumed["history"]):
        epoch.pop("seconds")
    assert resumed["history"] == straight["history"]


def test_a_run_on_other_images_is_not_continued(run: Runner, data: Path, tmp_path: Path) -> None:
    words = ["train", "resnet10", *TINY, *BATCH, "--data", data, "--epochs", 1, "--out", tmp_path / "run"]
    assert run(*words).code == 0
    ended = run(*words, "--limit-train", 20)
    assert ended.code == 2
    assert "other data" in ended.err


def test_an_adversarial_objective_reaches_checkpoint_and_record(run: Runner, data: Path, tmp_path: Path) -> None:
    given = ["--objective", "trades", "--threat", "linf:0.1", "--beta", 2, "--set", "training.attack_steps=2"]
    trained = run(
        *("train", "resnet10", *TINY, *BATCH, "--data", data, "--epochs", 1, "--out", tmp_path / "run", *given)
    )
    assert trained.code == 0, trained.err
    assert "trained with trades at linf:0.1: test accuracy" in trained.out
    training = load_checkpoint(tmp_path / "run").description.training
    assert (training.objective, training.threat, training.beta) == ("trades", "linf:0.1", 2.0)
    assert training.attack_steps == 2
    attacked = run(
        *("attack", tmp_path / "run", "--threat", "linf:0.1", "--attack", "pgd", "--set", "steps=1"),
        *("--images", 5, "--out", tmp_path / "attacked"),
    )
    assert attacked.code == 0, attacked.err
    rows = json.loads((tmp_path / "attacked" / "record.json").read_text())["rows"]
    assert {row["objective"] for row in rows} == {"trades"}


def test_settings_from_a_file_and_overrides(run: Runner, data: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        '[model]\nchannels = 2\nblocks = [1]\nstrides = [2]\nsolver = { rtol = 0.5, method = "bosh3" }\n'
        '[training]\nepochs = 3\nbatch_size = 15\nschedule = "constant"\ndevice = "cpu"\n'
    )
    ended = run(
        *("train", "sonet", "--config", file, "--data", data, "--out", tmp_path / "run"),
        *("--set", "model.solver.num_steps=2", "--set", "model.solver.method=euler"),
        *("--set", "model.solver.kind=fixed", "--set", "training.epochs=1"),
    )
    assert ended.code == 0, ended.err
    assert "Next: sonet attack" in ended.out
    description = load_checkpoint(tmp_path / "run").description
    assert description.model["solver"] == Fixed(method="euler", num_steps=2).model_dump()
    assert (description.training.epochs, description.training.batch_size) == (1, 15)
    assert description.training.schedule == "constant"


PAPER = paper().model_dump()


@pytest.mark.parametrize(
    ("overrides", "solver"),
    [
        (["model.solver=paper"], PAPER),
        (['model.solver="paper"'], PAPER),
        (["model.solver=paper", "model.solver.rtol=0.01"], PAPER | {"rtol": 0.01}),
        (["model.solver.rtol=0.01", "model.solver=paper"], PAPER | {"rtol": 0.01}),
        (["model.solver.rtol=0.01"], {"kind": "adaptive", "rtol": 0.01}),
        (["model.solver.kind=fixed"], {"kind": "fixed"}),
        (["model.solver.num_steps=7", "model.solver.kind=fixed"], {"kind": "fixed", "num_steps": 7}),
        (["model.solver=paper", "model.solver.kind=fixed"], {"kind": "fixed"}),
        (["model.solver={kind='fixed', num_steps=2}"], {"kind": "fixed", "num_steps": 2}),
    ],
)
def test_overrides_of_the_solver(overrides: list[str], solver: dict[str, Any]) -> None:
    assert read_settings(None, overrides) == {"model": {"solver": solver}, "training": {}}


def test_values_are_toml_or_text() -> None:
    given = read_settings(
        None,
        ["model.blocks=[1, 2]", "model.norm=false", "model.gamma = 0.5", "training.schedule=paper", "training.lr=1e-3"],
    )
    assert given == {
        "model": {"blocks": [1, 2], "norm": False, "gamma": 0.5},
        "training": {"schedule": "paper", "lr": 1e-3},
    }
