"""Ensembles from the command line: evidence on disk, what it is, where it goes, and going on with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runner import Runner, answered, seen, timeless
from safetensors.torch import load_file

from sonet.attacks import Linf
from sonet.attacks.ensemble import quick
from sonet.cli.budget import parse_budget
from sonet.data import load
from sonet.evaluation import evaluate
from sonet.report import read
from sonet.training import load_model

pytestmark = pytest.mark.usefixtures("undrawn")
SHORT = ["--set", "steps=3", "--set", "queries=5"]
QUICK = ["--threat", "linf:0.05", "--attack", "quick", *SHORT]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_an_ensemble_is_that_of_the_library(run: Runner, trained: Path) -> None:
    test = load(trained / "three.npz").test
    members = [
        member.model_copy(
            update={"attack": member.attack.model_copy(update={"queries" if member.name == "square" else "steps": n})}
        )
        for member, n in zip(quick(), (3, 3, 3, 5), strict=True)
    ]
    model = load_model(trained / "resnet")
    found = evaluate(model, test.images, test.labels, Linf(0.05), members)
    answer = answered(run("attack", trained / "resnet", *QUICK, "--out", "evidence", "--json"))
    assert 2 <= found.accuracy.count <= 16  # some stand, some fall, some are wrong by themselves
    assert 12 <= found.natural.count < 24
    assert {
        "run": str(trained / "resnet"),
        "attack": "quick",
        "threat": "linf:0.05",
        "gradients": "own",
        "n": 24,
        "natural": found.natural.value,
        "accuracy": found.accuracy.value,
        "low": found.accuracy.interval[0],
        "high": found.accuracy.interval[1],
        "accuracy_elsewhere": found.accuracy_elsewhere.value,
        "flips": 0,
        "coupled": False,
        "random": False,
        "queries": found.queries,
        "out": "evidence",
        "unfinished": [],
    }.items() <= answer.items()
    for number, (attack, attempt) in enumerate(zip(answer["attacks"], found.attempts, strict=True)):
        assert attack["name"] == attempt.member.name
        assert attack["settings"] == attempt.member.attack.model_dump(mode="json")
        assert attack["tried"] == int(attempt.tried.sum())
        assert attack["fell"] == int((found.fell_to == number).sum())
        assert attack["standing"] == attempt.standing
        assert attack["queries"] == int(attempt.queries.sum())
    kept = load_file("evidence/adversarial.safetensors")
    assert torch.equal(kept["adversarial"], found.adversarial)
    assert torch.equal(kept["fell_to"], found.fell_to)
    assert torch.equal(kept["labels"], test.labels)


def test_files_table_and_verdict(run: Runner, trained: Path) -> None:
    ended = run("attack", trained / "resnet", *QUICK, "--batch-size", 9)
    assert ended.code == 0, ended.err
    assert "Forecast: at most" in ended.err
    folder = Path("runs/resnet-quick-linf-0.05")
    assert f"Next: sonet verify {folder}" in ended.out
    samples = json.loads((folder / "samples.json").read_text())
    fates = samples["fell_to"]
    table = {
        line.split()[0]: line.split()[1:] for line in ended.out.splitlines() if line[:5] in ("pgd  ", "apgd-", "squar")
    }
    assert list(table) == ["pgd", "apgd-ce", "apgd-dlr", "square"]
    stand, units = 24 - fates.count("wrong without attack"), []
    for name, (tried, fell, standing, queries, _) in table.items():
        assert int(tried) == stand == sum(samples["attacks"][name]["tried"])
        assert int(fell) == fates.count(name)
        stand -= int(fell)
        assert int(standing) == stand
        assert int(queries) == sum(samples["attacks"][name]["queries"])
        units += [f"units/{name}-{number:04d}.safetensors" for number in range(-(-int(tried) // 9))]
    assert stand == fates.count("stands")
    assert f"{stand} of 24 images stand under every attack at linf:0.05" in ended.out
    files = {"adversarial.safetensors", "samples.json", "setting.json", "record.json", "report.html", *units}
    assert seen(folder).keys() == files
    record = read(folder)
    assert record.verdict in ended.out
    assert record.complete
    assert record.command == f"sonet attack {trained / 'resnet'} {' '.join(QUICK)} --batch-size 9"


def test_one_attack_writes_nothing_unless_asked_to(run: Runner, trained: Path) -> None:
    assert answered(run("attack", trained / "resnet", "--attack", "fgsm", "--json"))["out"] is None
    assert not list(Path().iterdir())
    assert run("attack", trained / "resnet", "--attack", "fgsm", "--out", "evidence").code == 0
    assert "units/fgsm-0000.safetensors" in seen(Path("evidence"))


def test_the_record_says_how_it_was_attacked(run: Runner, trained: Path) -> None:
    options = ("--set", "random_start=true", "--seed", 3, "--batch-size", 8, "--judge-batch", 4, "--out", "evidence")
    run("attack", trained / "resnet", "--threat", "linf:0.05", "--set", "steps=1", "--images", 8, *options)
    said = json.loads(Path("evidence/record.json").read_text())["settings"]
    assert {"attack": "pgd", "seed": 3, "batch_size": 8, "judge_batch": 4, "budget": None}.items() <= said.items()


def test_a_run_named_by_a_dot_gives_the_folder_its_name(
    run: Runner, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained / "resnet", "mine")
    monkeypatch.chdir("mine")
    answer = answered(run("attack", ".", *QUICK, "--images", 2, "--json"))
    assert answer["out"] == "runs/mine-quick-linf-0.05"


def test_the_same_command_goes_on_without_doing_anything_twice(
    run: Runner, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["attack", trained / "resnet", *QUICK, "--batch-size", 9, "--out", "evidence", "--json"]
    first = answered(run(*words))
    before = seen(Path("evidence"))

    def never(*_: Any) -> None:
        raise AssertionError("crafted twice")

    with monkeypatch.context() as patch:
        patch.setattr("sonet.evaluation.run.Run._craft", never)
        ended = run(*words)
    assert "Going on from what was written earlier." in ended.err
    assert timeless(answered(ended)) == timeless(first)
    after = seen(Path("evidence"))
    for name, content in before.items():
        if name.startswith("units") or name == "setting.json":
            assert after[name] == content
    for name in ("adversarial.safetensors", "samples.json"):
        assert after[name][1] == before[name][1]

    units = sorted(name for name in before if name.startswith("units"))
    for name in units[1::2]:  # as if it had been stopped before they were made
        (Path("evidence") / name).unlink()
    assert timeless(answered(run(*words))) == timeless(first)
    assert sorted(name for name in seen(Path("evidence")) if name.startswith("units")) == units
    assert seen(Path("evidence"))["adversarial.safetensors"][1] == before["adversarial.safetensors"][1]


@pytest.mark.parametrize(
    "other",
    [
        ["--threat", "linf:0.06"],
        ["--set", "steps=4"],
        ["--seed", "1"],
        ["--images", "23"],
        ["--judge-batch", "7"],
        ["--batch-size", "7"],
        ["--budget", "9s"],
        ["--attack", "standard"],
    ],
    ids=" ".join,
)
def test_another_setting_in_the_same_folder_is_refused(run: Runner, trained: Path, other: list[str]) -> None:
    words = ["attack", trained / "resnet", *QUICK, "--out", "evidence"]
    assert run(*words).code == 0
    before = seen(Path("evidence"))
    ended = run(*words, *other)
    assert ended.code == 2
    assert ended.err.startswith("sonet: evidence holds another experiment (its setting.json differs")
    assert len(ended.err.strip().splitlines()) == 1
    assert not ended.out
    assert seen(Path("evidence")) == before


def test_another_network_in_the_same_folder_is_refused(run: Runner, trained: Path) -> None:
    assert run("attack", trained / "resnet", *QUICK, "--out", "evidence").code == 0
    ended = run("attack", trained / "other", *QUICK, "--out", "evidence")
    assert (ended.code, "another experiment" in ended.err) == (2, True)


def test_settings_reach_the_members_that_have_them(run: Runner, trained: Path) -> None:
    words = ["--set", "steps=2", "--set", "queries=4", "--set", "loss=margin", "--set", "momentum=0"]
    ended = run("attack", trained / "resnet", "--attack", "quick", *words, "--out", "refused")
    assert (ended.code, "no attack of quick has a setting 'momentum'" in ended.err) == (2, True)
    assert not Path("refused").exists()
    words = [*words[:-2], "--set", "p_init=0.5", "--batch-size", 11, "--seed", 3, "--images", 4]
    answer = answered(run("attack", trained / "resnet", "--attack", "quick", *words, "--json"))
    given = {attack["name"]: attack["settings"] for attack in answer["attacks"]}
    assert {name: settings.get("steps") for name, settings in given.items()} == {
        "pgd": 2,
        "apgd-ce": 2,
        "apgd-dlr": 2,
        "square": None,
    }
    assert (given["square"]["queries"], given["square"]["p_init"]) == (4, 0.5)
    for settings in given.values():
        assert (settings["loss"], settings["batch_size"], settings["seed"]) == ("margin", 11, 3)
        assert settings["stop_when_fooled"]  # as the ensemble has it, for PGD against its own default


def test_a_budget_is_kept_and_told(run: Runner, trained: Path) -> None:
    words = ["--attack", "quick", *SHORT, "--threat", "linf:0.001", "--images", 4, "--budget", "1.2s"]
    ended = run("attack", trained / "resnet", *words, "--json")
    answer = answered(ended)
    assert "Budget: 1 s." in ended.err
    assert answer["seconds"] < 4
    names = [attack["name"] for attack in answer["attacks"]]
    assert names[:6] == ["pgd", "apgd-ce", "apgd-dlr", "square", "apgd-ce-round-2", "apgd-dlr-round-2"]
    assert json.loads((Path(answer["out"]) / "setting.json").read_text())["budget"] == 1.2


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90.0), ("10m", 600.0), ("2h", 7200.0), ("1.5h", 5400.0), ("7", 7.0), (" 3 M ", 180.0)],
)
def test_budgets(text: str, seconds: float) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize(
    "text", ["0", "0s", "0.0h", "-5", "soon", "", "1d", "10m 5s", "nan", "inf", "1e3", "m", "1,5h"]
)
def test_budgets_that_are_none(run: Runner, trained: Path, text: str) -> None:
    ended = run("attack", trained / "resnet", *QUICK, f"--budget={text}")
    assert ended.code == 2
    assert ended.err == f"sonet: --budget: got {text!r}, expected a time above zero such as 90s, 10m or 2h.\n"
    assert not list(Path().iterdir())
