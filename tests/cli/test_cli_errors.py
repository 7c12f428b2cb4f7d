"""Bad input: one sentence on stderr, the right exit code, no traceback, and nothing written."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from bad_input import BAD, FAILS, USAGE
from cli_runner import BATCH, TINY, Runner, write_npz

from sonet.cli import main

GREY = np.zeros((4, 8, 8), dtype=np.uint8)


def called(patch: pytest.MonkeyPatch, *arguments: str) -> None:
    patch.setattr(sys, "argv", ["sonet", *arguments])
    with pytest.raises(SystemExit, match="0"):
        main()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with trained runs, good and bad data and files to trip over."""
    home = tmp_path_factory.mktemp("home")
    write_npz(home / "few.npz")
    labels = np.arange(4)
    rgb = np.zeros((4, 8, 8, 3), dtype=np.uint8)
    wide = np.zeros((4, 10, 10), dtype=np.uint8)
    for name, changes in {
        "rgb": {"x_train": rgb, "y_train": labels, "x_test": rgb, "y_test": labels},
        "floats": {"x_train": np.zeros((30, 8, 8))},
        "nan": {"x_train": np.full((30, 8, 8), np.nan)},
        "labels": {"y_train": np.zeros(30)},
        "short": {"y_train": labels},
        "negative": {"y_train": np.full(30, -1)},
        "small": {"x_train": GREY[:, :1, :1], "y_train": labels, "x_test": GREY[:, :1, :1], "y_test": labels},
        "grey": {"x_train": GREY, "y_train": labels, "x_test": GREY, "y_test": labels},
        "wide": {"x_train": wide, "y_train": labels, "x_test": wide, "y_test": labels},
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
        for name, model, more in (
            ("resnet10", "resnet10", ["few.npz"]),
            ("colour", "resnet10", ["rgb.npz"]),
            ("narrow", "resnet10", ["grey.npz"]),
            ("sonet", "sonet", ["few.npz", "--set", "model.solver.kind=fixed"]),
            ("paper", "sonet", ["few.npz", "--set", "model.solver=paper"]),
        ):
            called(patch, "train", model, *TINY, *BATCH, "--epochs", "1", "--out", name, "--data", *more)
        patch.setattr("sonet.report.html.render", lambda record: "page")  # drawing takes seconds
        called(patch, "attack", "resnet10", "--attack", "fgsm", "--images", "4", "--out", "evidence")
    for name in ("cut", "bare", "nameless"):
        shutil.copytree(home / "evidence", home / f"evidence-{name}")
    images = home / "evidence-cut" / "adversarial.safetensors"
    images.write_bytes(images.read_bytes()[:-100])
    (home / "evidence-bare" / "adversarial.safetensors").unlink()
    setting = home / "evidence-nameless" / "setting.json"
    setting.write_text(json.dumps(json.loads(setting.read_text()) | {"about": {}}))
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
