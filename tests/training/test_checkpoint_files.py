"""Checkpoints on disk: whole or not at all, and never trusted."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import EULER, config, digits, fingerprint, same, small, weights

from sonet.training import CheckpointError, find_checkpoint, fit, load_checkpoint, load_model, save_checkpoint


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("checkpoints") / "run"
    fit(small(), digits().train.take(40), config(), run=run, data={"name": "digits", "shape": [1, 8, 8]})
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_round_trip(trained: Path) -> None:
    model = small()
    fit(model, digits().train.take(40), config())
    checkpoint = load_checkpoint(trained)
    assert same(checkpoint.weights, weights(model))
    assert checkpoint.momentum.keys() == dict(model.named_parameters()).keys()
    assert checkpoint.description.training == config()
    assert checkpoint.description.data == {"name": "digits", "shape": [1, 8, 8]}
    loaded = load_model(trained)
    assert loaded.config == model.config
    images = digits().test.take(5).images
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))


def test_a_loaded_model_is_in_eval_mode_with_frozen_weights(trained: Path) -> None:
    model = load_model(trained)
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_run_and_its_checkpoint_are_the_same(trained: Path) -> None:
    assert find_checkpoint(trained) == find_checkpoint(trained / "epoch-0002") == trained / "epoch-0002"


def test_older_epochs_are_removed_and_copies_are_not(trained: Path, tmp_path: Path) -> None:
    assert sorted(path.name for path in trained.iterdir()) == ["epoch-0002", "log.csv"]
    model = small()
    history = load_checkpoint(trained).description.history
    arguments: dict[str, Any] = {"training": config(), "data": {}}
    save_checkpoint(tmp_path, model, {}, history=history[:1], **arguments)
    shutil.copytree(tmp_path / "epoch-0001", tmp_path / "epoch-0001-mine")
    (tmp_path / "epoch-notes").mkdir()
    save_checkpoint(tmp_path, model, {}, history=history, **arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-0001-mine", "epoch-0002", "epoch-notes"]
    assert find_checkpoint(tmp_path) == tmp_path / "epoch-0002"


def test_epochs_are_ordered_as_numbers(trained: Path, tmp_path: Path) -> None:
    for name in ("epoch-9999", "epoch-10000"):
        shutil.copytree(trained / "epoch-0002", tmp_path / name)
    assert find_checkpoint(tmp_path) == tmp_path / "epoch-10000"


def _cut(name: str, share: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(share * len(content))])

    return damage


def _describe(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        file = folder / "checkpoint.json"
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    return damage


def _flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def _resign(folder: Path) -> None:
    """Make checkpoint.json vouch for the weights as they are now."""
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    _describe(lambda content: content["files"].update({"model.safetensors": digest}))(folder)


def _other_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["head.field.bias_y"] = weights.pop(next(iter(weights)))
    save_file(weights, folder / "model.safetensors")
    _resign(folder)


def _no_safetensors(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 100)
    _resign(folder)


DAMAGE: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "weights cut off": (_cut("model.safetensors", 0.7), "cut off", "train again"),
    "weights empty": (_cut("model.safetensors", 0), "cut off", "train again"),
    "one bit of the weights": (_flip_a_bit, "changed", "train again"),
    "momentum cut off": (_cut("optimizer.safetensors", 0.5), "cut off", "train again"),
    "weights missing": (lambda folder: (folder / "model.safetensors").unlink(), "missing", "train again"),
    "momentum missing": (lambda folder: (folder / "optimizer.safetensors").unlink(), "missing", "train again"),
    "description missing": (
        lambda folder: (folder / "checkpoint.json").unlink(),
        "expected a run or checkpoint folder",
        "sonet train --out",
    ),
    "description cut off": (_cut("checkpoint.json", 0.5), "cannot be read as JSON", "cut off"),
    "description empty": (_cut("checkpoint.json", 0), "cannot be read as JSON", "cut off"),
    "description a list": (
        lambda folder: (folder / "checkpoint.json").write_text("[1]"),
        "cannot be read as JSON",
        "cut off",
    ),
    "description not text": (
        lambda folder: (folder / "checkpoint.json").write_bytes(b"\xff\xfe{}"),
        "cannot be read as JSON",
        "cut off",
    ),
    "another schema": (
        _describe(lambda content: content.update(schema="sonet.checkpoint/2")),
        "got schema 'sonet.checkpoint/2', expected 'sonet.checkpoint/1'",
        "train again",
    ),
    "no schema": (_describe(lambda content: content.pop("schema")), "got schema None", "train again"),
    "unknown key": (_describe(lambda content: content.update(extra=1)), "extra", "not permitted"),
    "no hashes": (_describe(lambda content: content.update(files={})), "SHA-256", "train again"),
    "bad training config": (
        _describe(lambda content: content["training"].update(lr=-1)),
        "training.lr",
        "greater than 0",
    ),
    "another network": (
        _describe(lambda content: content["model"].update(channels=6)),
        "size mismatch",
        "earlier copy",
    ),
    "unknown network": (_describe(lambda content: content["model"].update(kind="sonnet")), "sonnet", "earlier copy"),
    "unknown option": (_describe(lambda content: content["model"].update(width=1)), "width", "earlier copy"),
    "weights of other names": (_other_weights, "Missing key", "earlier copy"),
    "no safetensors though signed": (_no_safetensors, "is no safetensors file", "model.safetensors"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_an_error_that_says_what_to_do(run: Path, case: str) -> None:
    damage, what, remedy = DAMAGE[case]
    damage(run / "epoch-0002")
    before = fingerprint(run)
    with pytest.raises(CheckpointError) as caught:
        load_model(run)
    message = str(caught.value)
    assert what in message
    assert remedy in message
    assert "\n" not in message
    assert str(run) in message
    assert fingerprint(run) == before


def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(CheckpointError, match=r"found none\. Give the folder that `sonet train --out` wrote"):
            load_model(path)


class _Trap:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.file),))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("protocol", ["pickle", "torch"])
def test_a_pickle_is_not_executed(run: Path, tmp_path: Path, signed: bool, protocol: str) -> None:
    trap, file = tmp_path / "sprung", run / "epoch-0002" / "model.safetensors"
    if protocol == "pickle":
        file.write_bytes(pickle.dumps(_Trap(trap)))
    else:
        torch.save(_Trap(trap), file)
    if signed:
        _resign(run / "epoch-0002")
    with pytest.raises(CheckpointError, match="no safetensors" if signed else "SHA-256"):
        load_model(run)
    assert not trap.exists()


@pytest.mark.parametrize(
    ("home", "name"), [(os, "fsync"), (Path, "rename"), (Path, "write_text")], ids=["fsync", "rename", "write"]
)
def test_a_crash_while_writing_leaves_the_old_checkpoint(
    run: Path, home: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = load_checkpoint(run)
    before = fingerprint(run)

    def crash(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    history = old.description.history
    longer = (*history, history[-1].model_copy(update={"epoch": 3}))
    with monkeypatch.context() as patch:
        patch.setattr(home, name, crash)
        with pytest.raises(OSError, match="disk full"):
            save_checkpoint(run, small(seed=5), {}, training=config(), data={}, history=longer)
    assert fingerprint(run) == before
    assert same(load_checkpoint(run).weights, old.weights)
    save_checkpoint(run, small(seed=5), {}, training=config(), data={}, history=longer)
    assert same(load_checkpoint(run).weights, weights(small(seed=5)))


def test_the_solver_travels_with_the_checkpoint(trained: Path) -> None:
    assert load_model(trained).config.solver == EULER


def test_a_path_without_checkpoint_leads_to_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="A network of the hub is hf://org/name"):
        load_checkpoint(Path("org/name"))
    run = tmp_path / "models" / "resnet10-natural-0"
    fit(small("resnet10"), digits().train.take(40), config(epochs=1), run=run)
    with pytest.raises(CheckpointError, match=r"one of the runs in it, such as .*models/resnet10-natural-0\."):
        load_checkpoint(tmp_path)
