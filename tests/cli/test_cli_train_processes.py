"""`sonet train` that dies or is stopped, alone and under torchrun: one sentence, and the same command goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from cli_runner import Runner

from sonet.job import STOPPED
from sonet.training import load_checkpoint

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")
DYING = """
import os, signal, sys
from sonet.training.epoch import Trainer
batch, seen = Trainer._batch, []

def die(self, *rest):
    seen.append(1)
    if len(seen) > 3 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return batch(self, *rest)

Trainer._batch = die
from sonet.cli import main
main()
"""
"""The command; its second process dies in the second epoch."""
WORDS: list[Any] = ["train", "resnet10", "--limit-train", 60, "--epochs", 3, "--set", "model.channels=4"]
WORDS += ["--set", "training.batch_size=20", "--set", "training.device=cpu", "--out", "run"]


def test_the_others_say_that_one_has_died_and_the_command_goes_on(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    Path("dying.py").write_text(DYING)
    job = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "dying.py"]
    done = subprocess.run([*job, *map(str, WORDS)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    (sentence,) = (line for line in done.stderr.splitlines() if line.startswith("sonet: "))
    assert "the same command" in sentence
    assert "goes on from" in sentence
    assert done.stderr.count("Traceback") == 1  # torchrun's own
    assert load_checkpoint(tmp_path / "run").description.epoch == 1
    again = run(*WORDS)
    assert again.code == 0, again.err
    assert "after 3 epochs" in again.out


def test_a_stopped_training_says_so_and_leaves_what_is_whole(tmp_path: Path) -> None:
    endless = [*WORDS[:-1], tmp_path / "run", "--epochs", 10000]
    command = [sys.executable, "-m", "sonet", *map(str, endless)]
    job = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 90
    while not list(tmp_path.glob("run/epoch-*/checkpoint.json")):
        assert job.poll() is None, "it ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    _, errors = job.communicate(timeout=60)
    assert job.returncode == STOPPED
    assert "sonet: stopped by SIGTERM; the same command goes on from what was written." in errors
    assert "Traceback" not in errors
    left = [path.name for path in (tmp_path / "run").iterdir()]
    assert not [name for name in left if name.endswith(".tmp")]
    assert load_checkpoint(tmp_path / "run").description.epoch >= 1
