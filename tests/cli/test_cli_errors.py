"""Bad input: one sentence on stderr, the right exit code, no traceback, and nothing written."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runner import BATCH, TINY, Runner, write_npz

from sonet.cli import main

GREY = np.zeros((4, 8, 8), dtype=np.uint8)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with trained runs, good and bad data and files to trip over."""
    home = tmp_path_factory.mktemp("home")
    write_npz(home / "few.npz")
    labels = np.arange(4)
    rgb = np.zeros((4, 8, 8, 3), dtype=np.uint8)
    for name, changes in {
        "rgb": {"x_train": rgb, "y_train": labels, "x_test": rgb, "y_test": labels},
        "floats": {"x_train": np.zeros((30, 8, 8))},
        "nan": {"x_train": np.full((30, 8, 8), np.nan)},
        "labels": {"y_train": np.zeros(30)},
        "short": {"y_train": labels},
        "negative": {"y_train": np.full(30, -1)},
        "small": {"x_train": GREY[:, :1, :1], "y_train": labels, "x_test": GREY[:, :1, :1], "y_test": labels},
        "empty": {"x_train": GREY[:0], "y_train": labels[:0]},
        "more": {"y_test": np.full(30, 11), "y_train": np.full(30, 11)},
    }.items():
        write_npz(home / f"{name}.npz", **changes)
    np.savez(home / "missing.npz", x_train=GREY)
    (home / "cut.npz").write_bytes((home / "few.npz").read_bytes()[:500])
    (home / "text.npz").write_text("no zip")
    (home / "typo.toml").write_text("[model]\nchanels = 2\n")
    (home / "typo-training.toml").write_text("[training]\nepoch = 2\n")
    (home / "table.toml").write_text("[models]\nchannels = 2\n")
    (home / "broken.toml").write_text("[model\n")
    (home / "binary.toml").write_bytes(b"\xff\xfe\x00")
    (home / "file").write_text("mine")
    (home / "foreign").mkdir()
    (home / "foreign" / "mine.txt").write_text("mine")
    (home / "bad-record").mkdir()
    (home / "bad-record" / "record.json").write_text("{")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        for model, more in (("resnet10", []), ("sonet", ["--set", "model.solver.kind=fixed"])):
            words = ["train", model, *TINY, *more, *BATCH, "--data", "few.npz", "--epochs", "1", "--out", model]
            patch.setattr(sys, "argv", ["sonet", *words])
            with pytest.raises(SystemExit, match="0"):
                main()
    for name, damage in (("cut", b"{"), ("other", b'{"schema": "else"}')):
        shutil.copytree(home / "resnet10", home / name)
        (home / name / "epoch-0001" / "checkpoint.json").write_bytes(damage)
    shutil.copytree(home / "resnet10", home / "weightless")
    weights = home / "weightless" / "epoch-0001" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    return home


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runner:
    monkeypatch.chdir(home)
    return Runner(monkeypatch, capsys)


def train(*more: Any, model: str = "sonet", data: str = "few.npz", tiny: bool = True) -> list[Any]:
    return ["train", model, *(TINY if tiny else []), *BATCH, "--data", data, "--epochs", 1, *more]


def attack(*more: Any, run: str = "resnet10") -> list[Any]:
    return ["attack", run, "--steps", 1, "--images", 2, *more]


BAD: dict[str, tuple[list[Any], str]] = {
    # attack: the run
    "missing run": (attack(run="nowhere"), "nowhere: expected a run or checkpoint folder"),
    "run is a file": (attack(run="file"), "file: expected a run or checkpoint folder"),
    "truncated checkpoint": (attack(run="cut"), "cannot be read as JSON"),
    "other schema": (attack(run="other"), "got schema 'else'"),
    "truncated weights": (attack(run="weightless"), "SHA-256"),
    # attack: the threat
    "eps < 0": (attack("--threat", "linf:-0.1"), "eps: got -0.1, expected a finite number >= 0"),
    "no eps": (attack("--threat", "linf"), "threat: got 'linf', expected NORM:EPS"),
    "norm l1": (attack("--threat", "l1:0.1"), "norm: got 'l1', expected linf or l2"),
    "eps nan": (attack("--threat", "linf:nan"), "eps: got nan"),
    "eps inf": (attack("--threat", "l2:inf"), "eps: got inf"),
    "eps words": (attack("--threat", "linf:small"), "eps: got 'small'"),
    "eps over 0": (attack("--threat", "linf:8/0"), "eps: got '8/0'"),
    # attack: its settings
    "step size 0": (attack("--step-size", 0), "step_size: Input should be greater than 0"),
    "step size nan": (attack("--step-size", "nan"), "step_size: Input should be a finite number"),
    "restarts without start": (attack("--restarts", 2), "restarts without random_start"),
    "spsa with restarts": (attack("--attack", "spsa", "--restarts", 2), "spsa has no --random-start"),
    "too many images": (attack("--images", 31), "expected a limit between 1 and 30"),
    "scope without blocks": (attack("--scope", "batch"), "this one has none"),
    "step gradient of fixed steps": (attack("--step-gradient", "frozen", run="sonet"), "no setting 'step_gradient'"),
    "scope of fixed steps": (attack("--scope", "batch", run="sonet"), "no setting 'scope'"),
    # attack: other data
    "unknown data": (attack("--data", "digit"), "Unknown data 'digit' (did you mean 'digits'?)"),
    "other channels": (attack("--data", "rgb.npz"), "images with 3 channels, and the network takes 1"),
    "other size": (attack("--data", "small.npz", run="sonet"), "1 x 1 pixels, which this network cannot take"),
    "more classes": (attack("--data", "more.npz"), "the largest label"),
    # train: names and settings
    "unknown model": (train(model="sonnet"), "no network is called 'sonnet'"),
    "typo in --set": (train("--set", "model.chanels=2"), "no option 'chanels'. Did you mean 'channels'?"),
    "typo in training": (train("--set", "training.epoch=2"), "epoch: Extra inputs"),
    "typo in solver": (train("--set", "model.solver.rtoll=2"), "rtoll"),
    "no such solver": (train("--set", "model.solver=papers"), "model.solver: got 'papers'"),
    "no such method": (train("--set", "model.solver.method=rk5"), "unknown method 'rk5'"),
    "set without =": (train("--set", "model.channels"), "--set: got 'model.channels'"),
    "set of no section": (train("--set", "channels=2"), "--set: got 'channels=2'"),
    "set of a command line option": (train("--set", "model.seed=2"), "model.seed: is no setting"),
    "set of the name": (train("--set", "model.name=sonet"), "model.name: is no setting"),
    "set of the data": (train("--set", "model.classes=2"), "model.classes: is no setting"),
    "negative channels": (train("--set", "model.channels=-1"), "channels: Input should be greater than 0"),
    "channels with a table": (train("--set", "model.channels.x=1"), "channels: Input should be a valid integer"),
    "solver of a resnet": (train("--set", "model.solver=paper", model="resnet10"), "no option 'solver'"),
    "lr negative": (train("--lr", -1), "lr: Input should be greater than 0"),
    "lr inf": (train("--lr", "inf"), "lr: Input should be a finite number"),
    "depth": (train("--set", "model.depth=11", model="wide-resnet", tiny=False), "depth must be 6n + 4"),
    # train: the config file
    "config with a typo": (train("--config", "typo.toml"), "no option 'chanels'"),
    "config with a typo in training": (train("--config", "typo-training.toml"), "epoch: Extra inputs"),
    "config with another table": (train("--config", "table.toml"), "got [models], expected the tables"),
    "config missing": (train("--config", "no.toml"), "no.toml: there is no such file"),
    "config not TOML": (train("--config", "broken.toml"), "broken.toml: is not TOML"),
    "config not text": (train("--config", "binary.toml"), "binary.toml: is not TOML"),
    "config a folder": (train("--config", "foreign"), "foreign: cannot be read"),
    # train: data
    "no such data": (train(data="imagenet"), "Unknown data 'imagenet'"),
    "no such npz": (train(data="no.npz"), "no.npz: no such file"),
    "npz of floats": (train(data="floats.npz"), "floats.npz"),
    "npz with NaN": (train(data="nan.npz"), "nan.npz"),
    "npz with float labels": (train(data="labels.npz"), "labels.npz"),
    "npz with too few labels": (train(data="short.npz"), "short.npz"),
    "npz with negative labels": (train(data="negative.npz"), "-1"),
    "npz without images": (train(data="empty.npz"), "empty"),
    "npz with keys missing": (train(data="missing.npz"), "Without"),
    "npz cut off": (train(data="cut.npz"), "cut.npz"),
    "no npz": (train(data="text.npz"), "text.npz"),
    "data that is text": (train(data="file"), "file of another kind"),
    "folder without images": (train(data="foreign"), "foreign"),
    "images too small": (train(data="small.npz"), "1 x 1 pixels, which this network cannot take"),
    "more than there are": (train("--limit-train", 31), "expected a limit between 1 and 30"),
    "data_dir with a path": (train("--data-dir", "foreign"), "data_dir"),
    # train: where to
    "out is a file": (train("--out", "file"), "file is a file, expected a folder"),
    "out of another run": (train("--out", "resnet10"), "another network or training config"),
    "out damaged": (train("--out", "cut"), "cannot be read as JSON"),
    # reproduce and report
    "unknown experiment": (["reproduce", "digit"], "no experiment is called 'digit'"),
    "foreign folder": (["reproduce", "digits", "--out", "foreign"], "foreign is not empty"),
    "reproduce into a file": (["reproduce", "digits", "--out", "file"], "file is a file"),
    "no record": (["report", "foreign"], "record.json"),
    "broken record": (["report", "bad-record"], "expected JSON"),
    "no run to report": (["report", "nowhere"], "nowhere"),
}

USAGE: dict[str, tuple[list[Any], str]] = {
    "steps 0": (["attack", "resnet10", "--steps", 0], "--steps"),
    "images 0": (["attack", "resnet10", "--images", 0], "--images"),
    "batch size 0": (attack("--batch-size", 0), "--batch-size"),
    "unknown attack": (attack("--attack", "cw"), "cw"),
    "unknown loss": (attack("--loss", "l2"), "--loss"),
    "epochs 0": (["train", "sonet", "--epochs", 0], "--epochs"),
    "lr a word": (train("--lr", "high"), "--lr"),
    "seed negative": (train("--seed", -1), "--seed"),
    "seed too large": (train("--seed", 2**64), "--seed"),
    "seeds 0": (["reproduce", "digits", "--seeds", 0], "--seeds"),
    "unknown option": (train("--epoch", 2), "--epoch"),
    "unknown command": (["attak"], "attak"),
    "unknown list": (["list", "model"], "model"),
    "no model": (["train"], "MODEL"),
}

FAILS: dict[str, tuple[list[Any], str]] = {
    "out below a file": (train("--out", "file/run"), "file/run"),
    "diverges": (train("--lr", "1e30", model="resnet10", data="few.npz"), "Lower the learning rate"),
}


def everything(home: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(home.rglob("*"))}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(run: Runner, home: Path, case: str) -> None:
    arguments, word = BAD[case]
    before = everything(home)
    ended = run(*arguments)
    lines = ended.err.strip().split("\n")
    assert ended.code == 2, ended.err
    assert len(lines) == 1, ended.err
    assert lines[0].startswith("sonet: ")
    assert word in lines[0]
    assert "Traceback" not in ended.err
    assert not ended.out
    assert everything(home) == before


@pytest.mark.parametrize("case", USAGE)
def test_bad_usage(run: Runner, home: Path, case: str) -> None:
    arguments, word = USAGE[case]
    before = everything(home)
    ended = run(*arguments)
    assert ended.code == 2
    assert "Usage: sonet" in ended.err
    assert word in ended.err
    assert "Traceback" not in ended.err
    assert everything(home) == before


@pytest.mark.parametrize("case", FAILS)
def test_work_that_fails(run: Runner, home: Path, case: str, tmp_path: Path) -> None:
    arguments, word = FAILS[case]
    more = [] if "--out" in arguments else ["--out", tmp_path / "run"]
    before = everything(home)
    ended = run(*arguments, *more)
    lines = ended.err.strip().split("\n")
    assert ended.code == 1, ended.err
    assert len(lines) == 1, ended.err
    assert lines[0].startswith("sonet: ")
    assert word in lines[0]
    assert everything(home) == before
    assert not list(tmp_path.rglob("epoch-*"))


def test_names_that_rich_would_colour_or_replace_are_printed_as_given(run: Runner) -> None:
    assert "[bold]x:smile:" in run("attack", "[bold]x:smile:").err
