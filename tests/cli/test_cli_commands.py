"""The command from outside: help that teaches, lists that a program can read, and quick answers."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_runner import Runner

import sonet.cli
from sonet import __version__
from sonet.attacks import ATTACKS
from sonet.attacks.ensemble import ENSEMBLES
from sonet.data import DATASETS
from sonet.evaluation import GRADIENTS
from sonet.experiments import plans
from sonet.models import MODELS
from sonet.solvers import METHODS
from sonet.training import TrainConfig

COMMANDS = ["reproduce", "train", "attack", "audit", "certify", "verify", "publish", "selftest", "list", "report"]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(monkeypatch, capsys)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_has_an_example(run: Runner, command: str) -> None:
    ended = run(command, "--help")
    assert ended.code == 0
    assert f"Example: sonet {command}" in ended.out
    assert not ended.err


def test_help_names_every_command_and_where_to_start(run: Runner) -> None:
    ended = run("--help")
    assert ended.code == 0
    assert all(command in ended.out for command in COMMANDS)
    assert "sonet reproduce digits --quick" in ended.out


def test_without_a_command_it_helps(run: Runner) -> None:
    ended = run()
    assert "Usage" in ended.out + ended.err
    assert "Traceback" not in ended.out + ended.err


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("models", set(MODELS)),
        ("data", set(DATASETS)),
        ("attacks", set(ATTACKS)),
        ("ensembles", set(ENSEMBLES)),
        ("training", {"training"}),
        ("gradients", set(GRADIENTS)),
        ("solvers", set(METHODS)),
        ("experiments", set(plans())),
    ],
)
def test_lists_are_json_with_every_name(run: Runner, what: str, names: set[str]) -> None:
    ended = run("list", what, "--json")
    entries = json.loads(ended.out)
    assert ended.code == 0
    assert entries.keys() - {"FILE.npz", "FOLDER"} == names
    assert all(entry["about"] for entry in entries.values())
    plain = run("list", what)
    assert all(name in plain.out for name in names)


def test_models_are_listed_with_the_options_they_take(run: Runner) -> None:
    entries = json.loads(run("list", "models", "--json").out)
    assert {"channels", "blocks", "strides", "solver", "gamma"} <= entries["sonet"]["options"].keys()
    assert "solver" not in entries["resnet10"]["options"]


def test_every_setting_of_training_is_listed(run: Runner) -> None:
    options = json.loads(run("list", "training", "--json").out)["training"]["options"]
    assert options.keys() == TrainConfig.model_fields.keys()
    assert all(options.values())
    assert options["schedule"] == "learning rate over time: one-cycle, paper or constant [default: one-cycle]"


def test_attacks_are_listed_with_every_setting_and_the_norms_they_work_in(run: Runner) -> None:
    entries = json.loads(run("list", "attacks", "--json").out)
    for name, (attack, _) in ATTACKS.items():
        assert entries[name]["options"].keys() == attack.model_fields.keys()
        assert entries[name]["about"].endswith(" and ".join(attack.norms))
    assert entries["pgd"]["options"]["steps"] == "steps of a run [default: 20]"


def test_version(run: Runner) -> None:
    ended = run("--version")
    assert (ended.code, ended.out.strip()) == (0, __version__)
    assert importlib.metadata.version("sonet") == __version__


def test_the_installed_command_answers() -> None:
    command = Path(sys.executable).with_name("sonet")
    if not command.exists():
        pytest.skip("the package is not installed beside this Python")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == __version__


def test_help_does_not_wait_for_torch() -> None:
    script = (
        "import sys; import sonet, sonet.cli; sys.argv = ['sonet', 'train', '--help']\n"
        "try: sonet.cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'accelerate', 'sklearn', 'altair', 'numpy'} & sys.modules.keys()\n"
        "print('HEAVY', sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert "HEAVY []" in done.stdout


def test_ctrl_c_says_what_to_do(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sonet.data.load", interrupted)
    ended = run("train", "sonet")
    assert ended.code == 130
    assert ended.err.strip() == "sonet: interrupted; the same command goes on from what was written."


def test_a_bug_of_ours_is_not_called_the_users_mistake(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("sonet.data.load", broken)
    with pytest.raises(ZeroDivisionError):
        run("train", "sonet")


def test_reproduce_and_report_print_the_record(run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real plan takes minutes: it is cut down to one network, one step and few images."""
    from sonet.experiments import Plan, load_plan

    whole = load_plan("digits").model_dump()
    resnet = {"name": "resnet10", "options": {"channels": 2, "blocks": [1], "strides": [2]}}
    attacks = whole["attacks"] | {
        "eps": [0.1],
        "steps": [1],
        "batches": [5],
        "spsa": {"images": 2, "steps": 1, "samples": 1},
    }
    training = {"epochs": 1, "batch_size": 100, "device": "cpu"}
    cut = whole | {"images": 5, "models": [resnet], "attacks": attacks, "training": training}
    cut |= {"objectives": {}, "ensemble": None, "audit": None}
    asked: list[dict[str, Any]] = []

    def load(name: str, **options: Any) -> Plan:
        asked.append({"name": name} | options)
        return Plan.model_validate(cut)

    monkeypatch.setattr("sonet.experiments.load_plan", load)
    monkeypatch.setattr("sonet.report.html.render", lambda record: f"page of {record.title}")  # drawing takes seconds
    monkeypatch.chdir(tmp_path)
    ended = run("reproduce", "digits", "--quick", "--workers", "1", "--seeds", "1", "--json")
    assert ended.code == 0, ended.err
    assert asked == [{"name": "digits", "quick": True, "seeds": 1}]
    record = json.loads(ended.out)
    assert record["complete"]
    assert record["command"] == "sonet reproduce digits --quick --seeds 1"
    folder = tmp_path / "runs" / "digits-quick"
    assert {path.name for path in folder.iterdir()} == {
        *("plan.json", "data.json", "cells", "models", "record.json", "report.html")
    }

    (folder / "report.html").unlink()
    again = run("report", folder)
    assert again.code == 0
    assert record["verdict"].split(":")[0] in again.out
    assert "resnet10" in again.out
    assert (folder / "report.html").read_text() == f"page of {record['title']}"
    assert json.loads(run("report", folder / "record.json", "--json").out) == record


def test_the_module_does_nothing_when_imported() -> None:
    assert sonet.cli.app.info.name == "sonet"
