"""Train, measure, publish; then every command on the published folder, with the same figures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from cli_runner import Runner, answered, seen, timeless

from sonet.cli.target import TargetError, load_target, parse_target


@pytest.fixture
def published(run: Runner, trained: Path, tmp_path: Path) -> Path:
    ended = run("publish", trained / "resnet", "--out", tmp_path / "published")
    assert ended.code == 0, ended.err
    return tmp_path / "published"


def measured(record: Path) -> list[dict[str, Any]]:
    return [{key: row[key] for key in row if key != "seconds"} for row in json.loads(record.read_text())["rows"]]


def test_help_has_an_example(run: Runner) -> None:
    ended = run("publish", "--help")
    assert ended.code == 0
    assert "Example: sonet publish" in ended.out
    assert "publish" in run("--help").out


@pytest.mark.usefixtures("undrawn")
def test_published_attacked_and_published_again(run: Runner, trained: Path, published: Path, tmp_path: Path) -> None:
    """The same attack finds the same on the run and on its publication; the record of either is on the card."""
    common = ["--attack", "pgd", "--set", "steps=3", "--threat", "linf:0.1", "--data", trained / "three.npz"]
    answers = [
        timeless(answered(run("attack", place, *common, "--out", tmp_path / name, "--json"))) | {"run": ""}
        for place, name in ((trained / "resnet", "of-run"), (published, "of-published"))
    ]
    assert answers[0] == answers[1]
    rows = measured(tmp_path / "of-run" / "record.json")
    assert rows == measured(tmp_path / "of-published" / "record.json")
    for name in ("of-run", "of-published"):
        told = answered(
            run("publish", published, "--out", tmp_path / name / "card", "--record", tmp_path / name, "--json")
        )
        assert told["records"] == ["resnet10: pgd at linf:0.1"]
        card = (tmp_path / name / "card" / "README.md").read_text()
        worst = rows[-1]
        assert f"| {worst['n']} | {worst['accuracy']:.3f} | [{worst['low']:.3f}, {worst['high']:.3f}] |" in card
    assert run("verify", tmp_path / "of-published").code == 0
    assert run("verify", tmp_path / "of-run", "--run", published).code == 0


def test_the_data_of_nobody_else_must_be_named(run: Runner, trained: Path, published: Path) -> None:
    ended = run("attack", published, "--set", "steps=1", "--images", 2)
    assert ended.code == 2
    assert "was trained on three, expected a data set that is known by name" in ended.err
    assert "three.npz" not in (published / "config.json").read_text()
    assert run("attack", published, "--set", "steps=1", "--images", 2, "--data", trained / "three.npz").code == 0


def test_a_target_may_be_a_publication(published: Path, tmp_path: Path) -> None:
    assert parse_target(str(published)) == published
    with pytest.raises(TargetError, match=r"is the folder of a run, expected FILE\.py:NAME"):
        load_target(str(published))
    (tmp_path / "empty").mkdir()
    with pytest.raises(TargetError, match="got a folder without a checkpoint"):
        parse_target(str(tmp_path / "empty"))


def test_audited_and_certified(run: Runner, published: Path, trained: Path, tmp_path: Path, undrawn: None) -> None:
    """As MODEL; and what they find goes to the card."""
    data = ["--data", trained / "three.npz"]
    ended = run("audit", published, *data, "--quick", "--images", 8, "--threat", "linf:0.1", "--out", tmp_path / "a")
    assert ended.code in (0, 3, 4), ended.err
    settings = json.loads((tmp_path / "a" / "audit.json").read_text())["settings"]
    assert settings["files"].keys() == {"model.safetensors"}
    ended = run("certify", published, *data, "--attack", "none", "--images", 8, "--out", tmp_path / "c")
    assert ended.code == 0, ended.err
    ended = run("publish", published, "--out", tmp_path / "new", "--record", tmp_path / "a", "--record", tmp_path / "c")
    assert ended.code == 0, ended.err
    card = (tmp_path / "new" / "README.md").read_text()
    assert "## Audit\n\n### published at linf:0.1" in card
    assert "## Certified accuracy\n\n### published: certified against l2" in card


def test_bad_input_is_a_sentence_and_nothing_is_written(
    run: Runner, trained: Path, published: Path, tmp_path: Path, undrawn: None
) -> None:
    data = trained / "three.npz"
    attacked = run(
        *("attack", trained / "other", "--attack", "fgsm", "--data", data, "--images", 4, "--out", tmp_path / "other")
    )
    assert attacked.code == 0, attacked.err
    shutil.copytree(published, tmp_path / "cut")
    (tmp_path / "cut" / "model.safetensors").write_bytes(b"x")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "mine.txt").write_text("mine")
    good, out = trained / "resnet", tmp_path / "new"
    before = seen(tmp_path)
    for words, said in (
        (["nowhere", "--out", out], "nowhere: expected a run or checkpoint folder"),
        ([good, "--out", out, "--record", tmp_path / "other"], "is of another network"),
        ([good, "--out", out, "--record", tmp_path / "nowhere"], "expected a record"),
        ([good, "--out", out, "--record", good], "expected a record"),
        ([good, "--out", out, "--license", "My Own"], "expected an identifier of the hub"),
        ([good, "--out", tmp_path / "foreign"], "holds mine.txt"),
        ([tmp_path / "cut", "--out", out], "SHA-256 is not the one"),
    ):
        ended = run("publish", *words)
        assert ended.code == 2, ended.err
        assert said in ended.err
        assert ended.err.count("\n") == 1
        assert not ended.out
        assert seen(tmp_path) == before
    assert run("attack", tmp_path / "cut", "--data", data).code == 2
    assert run("publish", good).code == 2
