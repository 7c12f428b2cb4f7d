"""Several processes share an evaluation: the outcome is that of one, however they end and whoever goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from shared_work import SIZE, flat, work
from small_models import Coupled, Net
from torchrun import HERE, environment, torchrun

from sonet.attacks import AttackError
from sonet.attacks.ensemble import Member
from sonet.attacks.pgd import PGD
from sonet.evaluation import ALONE, joined
from sonet.evaluation.forecast import Pace
from sonet.evaluation.store import SETTING, Store, pack, unpack
from sonet.job import STOPPED, JobError
from sonet.report import RecordError

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")
WORK = HERE / "shared_work.py"


def same(told: Path, alone: dict[str, torch.Tensor]) -> None:
    found = load_file(told)
    assert found.keys() == alone.keys()
    for name, tensor in alone.items():
        assert torch.equal(found[name].nan_to_num(-9), tensor.nan_to_num(-9)), name


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    ended = torchrun(2, WORK, "all", folder)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return folder


@pytest.mark.parametrize(("name", "model"), [("memory", Net), ("net", Net), ("coupled", Coupled)])
def test_every_process_has_the_outcome_of_one(done: Path, name: str, model: type[Net]) -> None:
    alone = flat(work(model(), ALONE))
    assert bool(alone["coupled"]) == (model is Coupled)
    assert 0 < int((alone["fell_to"] >= 0).sum()) < len(alone["labels"])
    for rank in (0, 1):
        same(done / f"{name}-{rank}.safetensors", alone)


def test_both_processes_made_units_and_a_third_finds_nothing_to_do(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    units = sorted((done / "net" / "units").iterdir())
    assert {unpack(file.read_bytes()).processes for file in units} == {2}
    assert sum(file.name.startswith("pgd-") for file in units) == -(-24 // SIZE)
    assert {file.name for file in (done / "net").iterdir()} == {SETTING, "units"}

    def never(*_: Any) -> None:
        raise AssertionError("crafted twice")

    monkeypatch.setattr("sonet.evaluation.run.Run._craft", never)
    same(done / "net-0.safetensors", flat(work(Net(), ALONE, out=done / "net")))


def test_only_the_main_process_is_heard_and_all_agree_on_what_is_cut_short(done: Path) -> None:
    main, other = (json.loads((done / f"answers-{rank}.json").read_text()) for rank in (0, 1))
    assert main["heard"] > 0
    assert other["heard"] == 0
    assert main["cut"] == other["cut"]
    assert main["cut"][0] == ["square"]


def test_other_work_and_a_folder_that_is_not_shared_are_refused_in_all(done: Path) -> None:
    for rank in (0, 1):
        answers = json.loads((done / f"answers-{rank}.json").read_text())
        assert "process 1 does not see within" in answers["unshared"]
        assert "file system that all of them share" in answers["unshared"]
        assert answers["other"].startswith("process 1 of 2 has another setting, model, data")
    assert not list((done / "disk-of-machine-0").glob(".seen*"))
    assert not (done / "disk-of-machine-1").exists()


def test_a_process_that_is_killed_costs_its_unit_and_any_number_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    ended = torchrun(2, WORK, "die", out, 40)
    assert ended.returncode != 0
    assert "rank      : 1 (local_rank: 1)\n  exitcode  : -9" in ended.stderr  # torchrun names who died
    # The other one lost it while waiting, or was stopped by torchrun first.
    assert "ProcessLost: process 0 of 2 lost the others" in ended.stderr or f"exitcode  : {STOPPED}" in ended.stderr
    before = {file.name: file.read_bytes() for file in (out / "units").iterdir()}
    assert before
    assert not list(tmp_path.rglob("*.tmp"))
    shutil.copytree(out, tmp_path / "again" / "run")
    alone = flat(work(Net(), ALONE))
    same_again = flat(work(Net(), ALONE, out=out))
    assert all(torch.equal(same_again[name].nan_to_num(-9), tensor.nan_to_num(-9)) for name, tensor in alone.items())
    ended = torchrun(2, WORK, "finish", tmp_path / "again" / "run")
    assert ended.returncode == 0, ended.stderr[-3000:]
    for rank in (0, 1):
        same(tmp_path / "again" / f"finished-{rank}.safetensors", alone)
    for folder in (out, tmp_path / "again" / "run"):
        after = {file.name: file.read_bytes() for file in (folder / "units").iterdir()}
        assert {name: after[name] for name in before} == before
        assert len(after) > len(before)


def test_two_commands_in_one_folder_at_once_end_alike(tmp_path: Path) -> None:
    words = [sys.executable, str(WORK), "finish", str(tmp_path / "run")]
    both = [subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
    same(tmp_path / "finished-0.safetensors", flat(work(Net(), ALONE)))
    same(tmp_path / "finished-0.safetensors", flat(work(Net(), ALONE, out=tmp_path / "run")))


def test_a_folder_taken_by_another_command_meanwhile_is_left_alone(done: Path, tmp_path: Path) -> None:
    unit = unpack(next((done / "net" / "units").iterdir()).read_bytes())
    store = Store(tmp_path / "run")
    assert store.claim("mine") is False
    store.save("pgd", 0, unit)
    (tmp_path / "run" / SETTING).write_text("another's")
    with pytest.raises(RecordError, match="changed while this command was at work"):
        store.save("pgd", 1, unit)
    assert [file.name for file in (tmp_path / "run" / "units").iterdir()] == ["pgd-0000.safetensors"]


def test_a_unit_comes_through_memory_as_it_was(done: Path) -> None:
    for file in (done / "net" / "units").iterdir():
        unit = unpack(file.read_bytes())
        again = unpack(pack(unit, "any"))
        assert (again.seconds, again.processes) == (unit.seconds, 2)
        for name in ("places", "images", "loss", "zero_gradients", "queries", "minimum"):
            assert torch.equal(getattr(again, name).nan_to_num(-9), getattr(unit, name).nan_to_num(-9))


def test_a_forecast_is_that_of_the_busiest_process() -> None:
    ten_units = [Member(name="pgd", attack=PGD(steps=1, batch_size=100))]
    alone = Pace(both=1.0, forward=0.0).forecast(ten_units, 1000)
    assert alone == 1000 * ten_units[0].attack.price[0]
    for processes, rounds in ((2, 5), (4, 3), (10, 1), (16, 1)):
        assert Pace(1.0, 0.0, processes).forecast(ten_units, 1000) == alone * rounds / 10
    assert Pace(1.0, 0.0, 4).forecast(ten_units, 30) == alone * 30 / 1000  # less than a unit


def test_sigterm_ends_as_ctrl_c_does_and_only_while_at_work() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stop, joined():
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.value.code == STOPPED == 143
    assert signal.getsignal(signal.SIGTERM) is before
    with joined() as processes:
        assert processes is ALONE
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("given", "said"),
    [("none", "expected the number of processes"), ("0", "expected the number"), ("2", "they cannot meet")],
)
def test_a_launcher_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch, given: str, said: str) -> None:
    monkeypatch.setenv("WORLD_SIZE", given)
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises((AttackError, JobError), match=said), joined():
        pass
