"""Two processes under torchrun train the same network as one, and go on after one of them died."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from process_plans import TRAININGS, network, train
from safetensors.torch import load_file
from small_runs import numbers, same, weights

from sonet.training import TrainingRefused, load_checkpoint, load_model

SHARED = """
from safetensors.torch import save_file
from small_runs import config, digits, small, weights
from sonet.solvers import paper
from sonet.training import TrainingError, fit
try:
    fit(small(solver=paper()), digits().train.take(40), config(), run=folder / "paper")
except TrainingError as error:
    (folder / f"refused-{torch.distributed.get_rank()}").write_text(str(error))
model, setting = small("resnet10"), config(objective="fast", threat="linf:0.1", alignment=0.5, watched=10, average=0.9)
fit(model, digits().train.take(40), setting, run=folder / "norms")
save_file(weights(model), folder / f"norms-{torch.distributed.get_rank()}.safetensors")
"""
SCRIPT = """
import sys
from pathlib import Path
import torch
try:
    torch.distributed.init_process_group("gloo")
except Exception as error:
    print("NO-GLOO", error)
    sys.exit(0)
sys.path.insert(0, sys.argv[1])
from process_plans import TRAININGS, train
folder = Path(sys.argv[2])
"""


def torchrun(body: str, folder: Path) -> subprocess.CompletedProcess[str]:
    script = folder / "script.py"
    script.write_text(SCRIPT + body + "\ntorch.distributed.destroy_process_group()\n")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(
        [*command, str(Path(__file__).parent), str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    if "NO-GLOO" in done.stdout:
        pytest.skip(f"gloo cannot start here: {done.stdout}")
    return done


def test_two_processes_train_what_one_trains_and_shared_steps_are_refused(tmp_path: Path) -> None:
    body = "for name in TRAININGS:\n    train(name, folder / name)\n"
    done = torchrun(body + SHARED, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in (0, 1):
        refused = (tmp_path / f"refused-{rank}").read_text()
        assert refused.startswith("step sizes are shared within a batch, and 2 processes")
    assert not (tmp_path / "paper").exists()
    # With BatchNorm, whose statistics are of a process's part, all still end with the one network that was written.
    written = weights(load_model(tmp_path / "norms"))
    assert all(same(load_file(tmp_path / f"norms-{rank}.safetensors"), written) for rank in (0, 1))
    for name in TRAININGS:
        alone, history = train(name)
        untrained = weights(network(name))
        pair = load_model(tmp_path / name)
        for key, value in weights(pair).items():
            torch.testing.assert_close(value, alone.state_dict()[key], rtol=1e-4, atol=1e-5, msg=f"{name}: {key}")
        assert not same(untrained, weights(pair))
        found = load_checkpoint(tmp_path / name).description.history
        for one, two in zip(history, found, strict=True):
            known = {"exclude": {"seconds"}, "exclude_none": True}
            assert two.model_dump(**known) == pytest.approx(one.model_dump(**known), rel=1e-4), name


@pytest.mark.parametrize("differs", ["the epochs done", "the settings", "the images"])
def test_processes_that_begin_with_other_things_are_refused(tmp_path: Path, differs: str) -> None:
    """Machines that see different folders, for example; before, the main one wrote what it made of another's epochs."""
    train("natural", tmp_path / "run-0")
    (tmp_path / "run-1").mkdir()
    wrong = {
        "the epochs done": 'train("natural", folder / f"run-{rank}")',
        "the settings": "fit(small(), images, config(lr=0.1 * (rank + 1)))",
        "the images": "fit(small(), digits().train.take(40 + rank), config())",
    }[differs]
    body = f"""
from small_runs import config, digits, small
from sonet.training import TrainingRefused, fit
rank, images = torch.distributed.get_rank(), digits().train.take(40)
try:
    {wrong}
except TrainingRefused as error:
    (folder / f"refused-{{rank}}").write_text(str(error))
torch.distributed.barrier()
"""
    done = torchrun(body, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in (0, 1):
        said = (tmp_path / f"refused-{rank}").read_text()
        assert said.startswith(f"the 2 processes do not agree on {differs}, so nothing was trained.")
    assert not list((tmp_path / "run-1").iterdir())


def test_processes_that_cannot_meet_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(TrainingRefused, match=r"2 processes were announced \(WORLD_SIZE\), and they cannot meet"):
        train("madry")


DYING = """
import os, signal
def die(report):
    if (report.epoch, report.batch) == (1, 1):
        os.kill(os.getpid(), signal.SIGKILL)
train("fast", folder / "run", die)
"""
DYING_OTHER = """
import os, signal
import sonet.training.epoch
step, count = sonet.training.epoch.Trainer._batch, []
def stumble(*given):
    count.append(1)
    if len(count) == 4 and torch.distributed.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(*given)
sonet.training.epoch.Trainer._batch = stumble
train("fast", folder / "run")
"""


@pytest.mark.parametrize("body", [DYING, DYING_OTHER], ids=["the main one", "the other one"])
def test_when_a_process_dies_the_checkpoint_stands_and_a_rerun_ends_the_same(tmp_path: Path, body: str) -> None:
    done = torchrun(body, tmp_path)
    assert done.returncode not in (0, None)
    assert "SIGKILL" in done.stderr
    run = tmp_path / "run"
    assert [folder.name for folder in run.glob("epoch-*")] == ["epoch-0001"]
    assert load_checkpoint(run).description.epoch == 1
    resumed, history = train("fast", run)  # in one process
    straight, whole = train("fast")
    for key, value in weights(resumed).items():
        torch.testing.assert_close(value, straight.state_dict()[key], rtol=1e-4, atol=1e-5, msg=key)
    assert [report["epoch"] for report in numbers(history)] == [report["epoch"] for report in numbers(whole)]
