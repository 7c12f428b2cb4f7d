"""Interrupted training goes on to the same weights; what belongs to another run is refused."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import config, digits, fingerprint, numbers, same, small, weights

from sonet.training import CheckpointError, fit, load_checkpoint, load_model

SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from small_runs import config, digits, small
from sonet.training import fit

def tell(report):
    print(report.epoch, report.batch, flush=True)
    time.sleep(0.05)

fit(small("resnet10"), digits().train.take(100), config(epochs=3, augment="crop-flip"), run=Path(sys.argv[2]),
    progress=tell)
"""


def train(run: Path | None = None, name: str = "resnet10", n: int = 100, **changes: Any) -> Any:
    model = small(name)
    setting = config(**({"epochs": 3, "augment": "crop-flip"} | changes))
    return model, fit(model, digits().train.take(n), setting, run=run)


def test_killed_and_resumed_is_the_same_as_straight_through(tmp_path: Path) -> None:
    run, batch = tmp_path / "run", random.randrange(5)
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(run)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    for line in child.stdout:
        if line.split() == ["1", str(batch)]:
            child.kill()
            break
    assert child.wait() == -9
    child.stdout.close()
    assert [folder.name for folder in run.glob("epoch-*")] == ["epoch-0001"], f"killed at batch {batch}"
    resumed, history = train(run)
    straight, whole = train(tmp_path / "straight")
    assert same(weights(resumed), weights(straight)), f"killed at batch {batch}"
    assert numbers(history) == numbers(whole)
    one, other = load_checkpoint(run), load_checkpoint(tmp_path / "straight")
    assert same(one.weights, other.weights)
    assert same(one.momentum, other.momentum)
    assert one.momentum  # so that the comparison says something


def _stopped(run: Path, **changes: Any) -> None:
    """A run interrupted in its second epoch."""

    class Stop(Exception):
        pass

    def stop(report: Any) -> None:
        if report.epoch == 1:
            raise Stop

    with pytest.raises(Stop):
        fit(small(), digits().train.take(40), config(**changes), run=run, progress=stop)


def test_what_a_killed_writer_left_does_no_harm(tmp_path: Path) -> None:
    _stopped(tmp_path)
    (tmp_path / ".writing-abc" / "checkpoint").mkdir(parents=True)
    (tmp_path / ".writing-abc" / "checkpoint" / "checkpoint.json").write_text("{")
    shutil.copytree(tmp_path / "epoch-0001", tmp_path / "epoch-0002")  # killed while it was removed: no description
    (tmp_path / "epoch-0002" / "checkpoint.json").unlink()
    model = small()
    fit(model, digits().train.take(40), config(), run=tmp_path)
    straight = small()
    fit(straight, digits().train.take(40), config())
    assert same(weights(model), weights(straight))
    assert same(weights(load_model(tmp_path)), weights(straight))


@pytest.mark.parametrize(
    ("other", "word"),
    [
        ({"lr": 0.2}, "training config"),
        ({"epochs": 3}, "training config"),
        ({"seed": 1}, "training config"),
        ({"network": "resnet10"}, "another network"),
        ({"data": {"name": "others"}}, "other data .name"),
    ],
)
def test_another_runs_checkpoint_is_refused_and_untouched(tmp_path: Path, other: dict[str, Any], word: str) -> None:
    train_split = digits().train.take(40)
    fit(small(), train_split, config(), run=tmp_path, data={"name": "digits"})
    before, model = fingerprint(tmp_path), small(other.pop("network", "sonet"))
    untrained, data = weights(model), other.pop("data", {"name": "digits"})
    with pytest.raises(CheckpointError, match=word) as caught:
        fit(model, train_split, config(**other), run=tmp_path, data=data)
    assert "another folder" in str(caught.value)
    assert fingerprint(tmp_path) == before
    assert same(weights(model), untrained)


def test_a_finished_run_is_only_read(tmp_path: Path) -> None:
    first, history = train(tmp_path, "sonet", 40)
    before = fingerprint(tmp_path)
    batches: list[Any] = []
    again = small()
    repeated = fit(
        again, digits().train.take(40), config(epochs=3, augment="crop-flip"), run=tmp_path, progress=batches.append
    )
    assert not batches
    assert repeated == history
    assert same(weights(again), weights(first))
    assert fingerprint(tmp_path) == before


def test_without_momentum(tmp_path: Path) -> None:
    _stopped(tmp_path, momentum=0.0)
    model, straight = small(), small()
    fit(model, digits().train.take(40), config(momentum=0.0), run=tmp_path)
    fit(straight, digits().train.take(40), config(momentum=0.0))
    assert same(weights(model), weights(straight))


def test_a_damaged_checkpoint_stops_the_run_before_it_trains(tmp_path: Path) -> None:
    _stopped(tmp_path)
    (tmp_path / "epoch-0001" / "model.safetensors").write_bytes(b"")
    before = fingerprint(tmp_path)
    with pytest.raises(CheckpointError, match="SHA-256"):
        fit(small(), digits().train.take(40), config(), run=tmp_path)
    assert fingerprint(tmp_path) == before


def test_a_file_as_folder_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    batches: list[Any] = []
    with pytest.raises(CheckpointError, match="is a file"):
        fit(small(), digits().train.take(40), config(), run=tmp_path / "file", progress=batches.append)
    with pytest.raises(NotADirectoryError):
        fit(small(), digits().train.take(40), config(), run=tmp_path / "file" / "run", progress=batches.append)
    assert not batches
    assert (tmp_path / "file").read_text() == "mine"


def test_history_in_the_checkpoint_is_the_one_returned(tmp_path: Path) -> None:
    _, history = train(tmp_path, "sonet", 40)
    assert load_checkpoint(tmp_path).description.history == history
    written = json.loads((tmp_path / "epoch-0003" / "checkpoint.json").read_text())
    assert written["epoch"] == 3
    assert written["versions"]["torch"] == torch.__version__
