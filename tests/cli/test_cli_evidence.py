"""Evidence from the command line: judged again, tampered with, reported, on a full disk, and after a kill."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_runner import Runner, seen, timeless
from safetensors.torch import load_file, save_file

import sonet.evaluation.store as store
from sonet.data import load

QUICK = ["--threat", "linf:0.05", "--attack", "quick", "--set", "steps=3", "--set", "queries=5"]
WAYS = ["in batches of 100, as recorded", "in batches of 33", "in batches of 7", "one at a time", "in reverse order"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("undrawn")
def test_honest_evidence_agrees(run: Runner, trained: Path) -> None:
    answer = json.loads(run("attack", trained / "resnet", *QUICK, "--out", "evidence", "--json").out)
    before = seen(Path("evidence"))
    told, asked = run("verify", "evidence"), run("verify", "evidence", "--json")
    assert told.code == asked.code == 0, told.err
    stand = round(answer["accuracy"] * 24)
    assert told.out.splitlines() == [
        f"evidence: {stand} of 24 images stand in the record, linf:0.05.",
        *(f"  judged {how}: agrees" for how in (*WAYS, "shuffled")),
    ]
    found = json.loads(asked.out)
    assert (found["agrees"], found["n"], found["recorded"], found["outside"]) == (True, 24, stand, [])
    assert found["judgements"] == [{"how": how, "right": stand, "disagree": []} for how in (*WAYS, "shuffled")]
    assert seen(Path("evidence")) == before


@pytest.mark.usefixtures("undrawn")
def test_an_image_that_was_replaced_shows(run: Runner, trained: Path) -> None:
    assert run("attack", trained / "resnet", *QUICK, "--out", "evidence").code == 0
    file = Path("evidence/adversarial.safetensors")
    honest = load_file(file)
    fell = int((honest["fell_to"] >= 0).nonzero()[0])
    clean = load(trained / "three.npz").test.images[fell]
    save_file(honest | {"adversarial": honest["adversarial"].index_put((torch.tensor(fell),), clean)}, file)
    told, asked = run("verify", "evidence"), run("verify", "evidence", "--json")
    assert told.code == asked.code == 1
    assert not told.err
    assert told.out.count(f": disagrees on 1 images: {fell}\n") == 6
    assert "depends on more than the image, or the files are not of this model and data" in told.out
    found = json.loads(asked.out)
    assert (found["agrees"], found["outside"]) == (False, [])
    assert [judgement["disagree"] for judgement in found["judgements"]] == [[fell]] * 6

    far = (clean + 0.2).clamp(0, 1)  # everywhere farther than the radius, but within the box
    save_file(honest | {"adversarial": honest["adversarial"].index_put((torch.tensor(fell),), far)}, file)
    told = run("verify", "evidence")
    assert told.code == 1
    assert f"1 images left box or budget, or have other labels: [{fell}]" in told.out


@pytest.mark.usefixtures("undrawn")
def test_evidence_against_other_data_is_judged_on_them(
    run: Runner, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sonet verify FOLDER` finds the data that the attack was given, also from another folder."""
    arrays = dict(np.load(trained / "three.npz"))
    np.savez("mirrored.npz", **(arrays | {"x_test": arrays["x_test"][:, :, ::-1]}))
    ended = run("attack", trained / "resnet", *QUICK, "--data", "mirrored.npz", "--out", "evidence", "--json")
    assert ended.code == 0, ended.err
    assert json.loads(run("attack", trained / "resnet", *QUICK, "--json").out)["natural"] > 0.5
    assert run("verify", "evidence").code == 0
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    assert run("verify", "../evidence").code == 0
    ended = run("verify", "../evidence", "--data", trained / "three.npz")
    assert (ended.code, "left box or budget" in ended.out) == (1, True)


@pytest.mark.usefixtures("undrawn")
def test_a_network_that_has_moved_is_named(run: Runner, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "resnet", "here")
    assert run("attack", "here", *QUICK, "--out", "evidence").code == 0
    Path("here").rename("there")
    ended = run("verify", "evidence")
    assert (ended.code, "here: expected a run" in ended.err) == (2, True)
    assert run("verify", "evidence", "--run", "there").code == 0
    other = run("verify", "evidence", "--run", trained / "other")
    assert (other.code, "not of this model" in other.out) == (1, True)


def test_the_report_is_drawn_from_the_record(run: Runner, trained: Path) -> None:
    """With the real page, which takes seconds."""
    assert run("attack", trained / "resnet", *QUICK, "--out", "evidence").code == 0
    page = Path("evidence/report.html").read_bytes()
    record = json.loads(Path("evidence/record.json").read_text())
    Path("evidence/report.html").unlink()
    again = run("report", "evidence")
    assert again.code == 0, again.err
    assert all(name in again.out for name in ("PGD-3", "APGD-DLR-3", "Square-5", "worst case of all"))
    assert record["verdict"].split(":")[0] in again.out.replace("\n", " ")
    assert Path("evidence/report.html").read_bytes() == page
    text = page.decode()
    assert record["title"] in text
    assert "--set steps=3" in text
    assert record["title"] == "resnet10: quick at linf:0.05"
    assert json.loads(run("report", "evidence", "--json").out) == record


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("room", [0, 1, 3])
def test_a_full_disk_is_one_sentence_and_loses_nothing(
    run: Runner, trained: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    words = ["attack", trained / "resnet", *QUICK, "--batch-size", 9, "--json", "--out"]
    whole = json.loads(run(*words, "whole").out)
    real, written = store.write_whole, 0

    def full(path: Path, content: Any) -> Path:
        nonlocal written
        if written == room:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        written += 1
        return real(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_whole", full)
        ended = run(*words, "evidence")
    assert ended.code == 1
    said = [line for line in ended.err.splitlines() if line.startswith("sonet: ")]
    assert len(said) == 1
    assert "No space left on device" in said[0]
    assert ended.err.splitlines()[-1] == said[0]
    assert "Traceback" not in ended.err
    assert not ended.out
    before = seen(Path("evidence"))
    assert len(before) == room
    assert timeless(json.loads(run(*words, "evidence").out)) == timeless(whole)
    after = seen(Path("evidence"))
    assert {name: after[name] for name in before} == before
    assert after["samples.json"][1] == seen(Path("whole"))["samples.json"][1]


def test_a_folder_that_cannot_be_written_is_known_before_any_work(
    run: Runner, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, content: Any) -> Path:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    def never(*_: Any) -> None:
        raise AssertionError("crafted")

    monkeypatch.setattr(store, "write_whole", refuse)
    monkeypatch.setattr("sonet.evaluation.run.Run._craft", never)
    ended = run("attack", trained / "resnet", *QUICK, "--out", "evidence")
    assert ended.code == 1
    assert ended.err == "sonet: [Errno 13] Permission denied: 'evidence/setting.json'\n"


SLOW = """
import time
import sonet.evaluation.store as store
from sonet.cli import main

real = store.write_whole

def slow(path, content):
    real(path, content)
    time.sleep(0.1)

store.write_whole = slow
main()
"""
"""The command with a pause after each file, so that a kill finds it in the middle."""


@pytest.mark.usefixtures("undrawn")
def test_killed_it_goes_on_to_the_same_answer(run: Runner, trained: Path) -> None:
    words = ["attack", trained / "resnet", *QUICK, "--batch-size", 4, "--json", "--out"]
    whole = json.loads(run(*words, "whole").out)
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *map(str, words), "killed"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not list(Path("killed").glob("units/*.safetensors")):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=10) == -signal.SIGKILL
    before = seen(Path("killed"))
    assert "record.json" not in before
    ended = run("verify", "killed")
    assert (ended.code, "run that again if it was cut short" in ended.err) == (2, True)
    answer = json.loads(run(*words, "killed").out)
    assert timeless(answer) == timeless(whole)
    after, expected = seen(Path("killed")), seen(Path("whole"))
    assert {name: after[name] for name in before} == before
    assert {name for name in after if not name.endswith(".tmp")} == expected.keys()
    assert 0 < sum(name.startswith("units") for name in before) < sum(name.startswith("units") for name in after)
    for name in ("setting.json", "adversarial.safetensors", "samples.json"):
        assert after[name][1] == expected[name][1]
    assert run("verify", "killed").code == 0
