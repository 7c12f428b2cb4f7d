"""`torchrun ... -m sonet attack`: the record of one process; bad input, a death and a signal, each one sentence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from cli_runner import Runner, answered, seen, timeless

pytestmark = [
    pytest.mark.usefixtures("undrawn"),
    pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo"),
]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
QUICK = ["--threat", "linf:0.05", "--attack", "quick", "--set", "steps=3", "--set", "queries=5", "--batch-size", "5"]

SLOW = """
import os, signal, sys, time
from pathlib import Path
import sonet.report.html as html
from sonet.cli import main
from sonet.evaluation.run import Run

html.render = lambda record: "a page"
real, deadly = Run._craft, sys.argv.pop(1) == "deadly"

def craft(self, name, *rest):
    if deadly and os.environ["RANK"] == "1" and name == "apgd-ce":
        os.kill(os.getpid(), signal.SIGKILL)
    for _ in range(1 if deadly else 100):
        time.sleep(0.05)
    return real(self, name, *rest)

Run._craft = craft
main()
"""
"""The command, slow at its units; "deadly", it kills the second process at its first unit of the second attack."""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def ended(*words: Any) -> subprocess.CompletedProcess[str]:
    command = [*TORCHRUN, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def said(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("sonet: ")]


def record(folder: str) -> Any:
    content = json.loads((Path(folder) / "record.json").read_text())
    del content["command"], content["environment"]["created"], content["environment"]["commit"]
    return timeless(content)


def test_steps_shared_by_a_batch_give_the_record_of_one_process(run: Runner, trained: Path) -> None:
    words = ["attack", trained / "paper", *QUICK, "--json", "--out"]
    done = ended("-m", "sonet", *words, "shared")
    assert done.returncode == 0, done.stderr[-3000:]
    alone = answered(run(*words, "alone"))
    assert alone["coupled"]
    assert timeless(json.loads(done.stdout)) == timeless(alone)  # one answer, of the main process
    assert record("shared") == record("alone")
    ours, theirs = seen(Path("shared")), seen(Path("alone"))
    assert ours.keys() == theirs.keys()
    for name in ("adversarial.safetensors", "samples.json", "setting.json"):
        assert ours[name][1] == theirs[name][1]


def test_a_death_keeps_what_was_made_and_one_process_goes_on(run: Runner, trained: Path) -> None:
    Path("slow.py").write_text(SLOW)
    words = ["attack", trained / "resnet", *QUICK, "--json", "--out"]
    done = ended("slow.py", "deadly", *words, "killed")
    assert done.returncode != 0
    assert not done.stdout
    (sentence,) = said(done.stderr)
    assert "goes on from" in sentence
    assert "exitcode  : -9" in done.stderr
    assert done.stderr.count("Traceback") == 1  # torchrun's own
    before = seen(Path("killed"))
    assert "units/pgd-0001.safetensors" in before  # of the one that died
    assert "record.json" not in before
    assert timeless(answered(run(*words, "killed"))) == timeless(answered(run(*words, "whole")))
    assert record("killed") == record("whole")
    after = seen(Path("killed"))
    assert {name: after[name] for name in before} == before


def test_a_stopped_job_says_so_once(trained: Path) -> None:
    Path("slow.py").write_text(SLOW)
    words = ["slow.py", "alive", "attack", trained / "resnet", *QUICK, "--out", "stopped"]
    job = subprocess.Popen([*TORCHRUN, *map(str, words)], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 90
    while not Path("stopped/setting.json").exists():
        assert job.poll() is None, "it ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    _, errors = job.communicate(timeout=60)
    assert job.returncode != 0
    assert [line[:25] for line in said(errors)] == ["sonet: stopped by SIGTERM"]
    assert errors.count("Traceback") == 1  # torchrun's own
    assert not list(Path("stopped").rglob("*.tmp"))


def test_bad_input_is_one_sentence_of_all_together(trained: Path) -> None:
    done = ended("-m", "sonet", "attack", trained / "resnet", "--threat", "linf:much")
    assert done.returncode != 0
    assert len(said(done.stderr)) == 1
    assert "got 'much', expected a number" in said(done.stderr)[0]
    assert done.stderr.count("Traceback") == 1  # torchrun's own
    assert "exitcode  : 2" in done.stderr


def test_other_commands_are_refused(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for command in (["audit", "somewhere"], ["verify", "somewhere"], ["list", "models"]):
        found = run(*command)
        assert found.code == 2
        assert f"{command[0]} runs in one process, got WORLD_SIZE=2" in " ".join(found.err.replace("│", " ").split())
    assert run("--version").code == 0


def test_as_a_module_it_is_the_command() -> None:
    words = [sys.executable, "-m", "sonet", "--version"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True, env=dict(os.environ))
    from sonet import __version__

    assert done.stdout.strip() == __version__
