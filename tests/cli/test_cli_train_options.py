"""`sonet train` with one step, averaged weights, budgets and logs: what it says, what it leaves, what it refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_runner import BATCH, TINY, Runner, write_npz
from torch import nn

from sonet.training import load_checkpoint
from sonet.training.collapse import Watch

FAST = ["--objective", "fast", "--threat", "linf:0.1"]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(monkeypatch, capsys)


@pytest.fixture
def words(tmp_path: Path) -> list[Any]:
    return ["train", "resnet10", *TINY, *BATCH, "--data", write_npz(tmp_path / "few.npz"), "--out", tmp_path / "run"]


def test_settings_reach_the_checkpoint_and_the_table(run: Runner, words: list[Any], tmp_path: Path) -> None:
    more = [f"training.{name}" for name in ("alignment=0.2", "average=0.9", "accumulate=2", "watched=7")]
    ended = run(*words, *FAST, "--epochs", 2, *(word for setting in more for word in ("--set", setting)), "--json")
    assert ended.code == 0, ended.err
    training = load_checkpoint(tmp_path / "run").description.training
    assert (training.objective, training.alignment, training.average) == ("fast", 0.2, 0.9)
    assert (training.accumulate, training.watched) == (2, 7)
    history = json.loads(ended.out)["history"]
    assert [epoch["epoch"] for epoch in history] == [1, 2]
    assert all(0 <= epoch["watched_pgd"] <= 1 for epoch in history)
    assert len((tmp_path / "run" / "log.csv").read_text().splitlines()) == 3


def test_a_training_that_stopped_says_so(
    run: Runner, words: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    falls = iter([(0.5, 0.5), (0.9, 0.1)])

    def judge(self: Watch, model: nn.Module) -> tuple[float, float]:
        return next(falls)

    monkeypatch.setattr(Watch, "judge", judge)
    ended = run(*words, *FAST, "--epochs", 5)
    assert ended.code == 0, ended.err
    told = " ".join(ended.out.split())
    kept = load_checkpoint(tmp_path / "run").description.history[0].test_accuracy
    assert f"test accuracy {kept:.4f} on 30 images after 1 epoch" in told
    assert "Stopped in epoch 2 of 5: accuracy under PGD on the watched images fell from 0.50 to 0.10" in told
    assert "epoch 1 was kept" in told


def test_a_budget_that_is_exceeded_is_a_sentence(run: Runner, words: list[Any]) -> None:
    words[1] = "sonet"
    ended = run(*words, "--epochs", 2, "--set", "model.solver=paper", "--set", "training.nfe_budget=5")
    assert ended.code == 0, ended.err
    assert ended.err.count("sonet: ") == 0
    assert ended.err.count("warning: epoch 1 needed") == 1
    assert "more than nfe_budget 5" in ended.err
    assert ".py:" not in ended.err


def test_tensorboard_without_the_package_says_how_to_get_it(
    run: Runner, words: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    ended = run(*words, "--epochs", 1, "--tensorboard")
    assert ended.code == 2
    assert "pip install 'sonet[tensorboard]'" in ended.err
    assert "Traceback" not in ended.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (["--objective", "fast"], "objective 'fast' trains against a radius and needs a threat, got none"),
        ([*FAST, "--set", "training.attack_steps=3"], "got 3 with 'fast', which takes one step"),
        (["--set", "training.alignment=0.2"], "alignment is of objective 'fast'"),
        (["--set", "training.average=1"], "training.average: Input should be less than 1"),
        (["--set", "training.accumulate=6"], "give batch_size >= 12, or fewer parts"),
        (["--set", "training.kinetic=1"], "kinetic is of networks with ODE blocks, got 1 with ResNet"),
        (["--set", "training.nfe_budget=9"], "nfe_budget is of networks with ODE blocks"),
    ],
)
def test_what_does_not_fit_is_refused(
    run: Runner, words: list[Any], tmp_path: Path, given: list[str], word: str
) -> None:
    ended = run(*words, *given)
    assert ended.code == 2
    assert word.removeprefix("training.") in " ".join(ended.err.split())
    assert "Traceback" not in ended.err
    assert not (tmp_path / "run").exists()
