"""Published and loaded: the same network, bit for bit, of every kind; and nothing of the machine it was made on."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trained_digits import SMALL, attacked, digits, kept, seen, train

from sonet.attacks import PGD, Linf
from sonet.data import load
from sonet.models import MODELS, build
from sonet.publishing import load_published, load_trained, publish
from sonet.training import TrainConfig, load_checkpoint, load_model, save_checkpoint

STAGED = ("sonet", "soblock-resnet10", "resnet10", "stable-sonet", "convex-potential")
OPTIONS: dict[str, dict[str, Any]] = dict.fromkeys(STAGED, SMALL) | {
    "odenet": {"channels": 4, "num_blocks": 1},
    "wide-resnet": {"depth": 10, "widen": 1},
    "soblock-wide-resnet": {"depth": 10, "widen": 1},
}


def test_the_loaded_network_is_the_trained_one(run: Path, published: Path) -> None:
    images = digits().test.images[:64]
    ours, theirs = load_published(published), load_model(run)
    assert torch.equal(ours(images), theirs(images))
    assert not ours.training
    assert not any(parameter.requires_grad for parameter in ours.parameters())


def test_an_attack_on_it_finds_the_same(run: Path, published: Path) -> None:
    test = digits().test.take(20)
    found = [
        PGD(steps=3).run(load_trained(place), test.images, test.labels, Linf(0.1)) for place in (run, str(published))
    ]
    assert torch.equal(found[0].adversarial, found[1].adversarial)
    assert found[0].accuracy == found[1].accuracy


@pytest.mark.parametrize("kind", MODELS)
def test_every_network_of_the_registry(kind: str, tmp_path: Path) -> None:
    data = digits()
    model = build(kind, like=data, seed=3, **OPTIONS[kind]).eval()
    save_checkpoint(tmp_path / "run", model, {}, training=TrainConfig(), data={}, history=())
    folder = publish(tmp_path / "run", tmp_path / "out").folder
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == (kind, [type(model).__name__])
    with torch.no_grad():
        assert torch.equal(load_published(folder)(data.test.images[:4]), model(data.test.images[:4]))


def test_the_weights_are_the_bytes_of_the_run(run: Path, published: Path) -> None:
    weights = load_checkpoint(run).path / "model.safetensors"
    assert (published / "model.safetensors").read_bytes() == weights.read_bytes()


def test_what_hub_tools_look_for_in_config(run: Path, published: Path) -> None:
    config = json.loads((published / "config.json").read_text())
    assert config["library_name"] == "sonet"
    assert config["architectures"] == ["SONet"]
    assert config["input_shape"] == [1, 8, 8]
    assert config["id2label"] == {str(i): str(i) for i in range(10)}
    assert config["label2id"] == {str(i): i for i in range(10)}
    assert config["model"] == json.loads(json.dumps(load_checkpoint(run).description.model))
    assert config["model"]["solver"]["scope"] == "batch"


def test_names_of_classes_and_no_path_of_the_machine(tmp_path: Path) -> None:
    pixels, labels = np.zeros((4, 8, 8), dtype=np.uint8), np.array([0, 1, 0, 1])
    file = tmp_path / "secret-place" / "mine.npz"
    file.parent.mkdir()
    names = np.array(["yes", "no"])
    np.savez(file, x_train=pixels, y_train=labels, x_test=pixels, y_test=labels, classes=names)
    data = load(file)
    model = build("resnet10", like=data, seed=0, **SMALL)
    said = data.describe() | {"load": str(file), "data_dir": None}
    save_checkpoint(tmp_path / "run", model, {}, training=TrainConfig(), data=said, history=())
    first = publish(tmp_path / "run", tmp_path / "first").folder
    assert json.loads((first / "config.json").read_text())["id2label"] == {"0": "yes", "1": "no"}
    np.savez(file, x_train=pixels, y_train=labels, x_test=pixels + 1, y_test=labels, classes=names)
    changed = publish(tmp_path / "run", tmp_path / "changed").folder  # other images: not the data of the run
    file.unlink()
    gone = publish(tmp_path / "run", tmp_path / "gone").folder
    for folder in (changed, gone):
        assert json.loads((folder / "config.json").read_text())["id2label"] == {"0": "0", "1": "1"}
    for folder in (first, changed, gone):
        assert not [name for name, content in seen(folder).items() if b"secret-place" in content]


def test_data_of_a_known_name_that_are_the_user_s_own_stay_so(tmp_path: Path) -> None:
    """Other images than anybody gets by that name: the hub must not say so, nor where they lie."""
    pixels, labels = np.zeros((4, 8, 8), dtype=np.uint8), np.arange(4) % 2
    file = tmp_path / "secret-place" / "digits.npz"
    file.parent.mkdir()
    arrays = {"x_train": pixels, "y_train": labels, "x_test": pixels, "y_test": labels}
    for title in ("", "Digits (JPEG)"):
        np.savez(file, **arrays, **({"title": np.array(title)} if title else {}))  # type: ignore[arg-type]
        data = load("digits", data_dir=file.parent)
        assert not data.official
        model = build("resnet10", like=data, seed=0, **SMALL)
        said = data.describe() | {"load": "digits", "data_dir": str(file.parent)}
        run = tmp_path / f"run{title}"
        save_checkpoint(run, model, {}, training=TrainConfig(), data=said, history=())
        record = attacked(run, data=data.describe())
        folder = publish(run, tmp_path / f"out{title}", [kept(record, tmp_path / f"record{title}")]).folder
        assert not [name for name, content in seen(folder).items() if b"secret-place" in content]
        config = json.loads((folder / "config.json").read_text())
        assert "load" not in config["data"]
        card = (folder / "README.md").read_text()
        assert "datasets:" not in card
        assert f"name: {title or 'digits'}\n" in card
    assert load("digits").official


def test_a_publication_is_published_again_with_more_records(run: Path, published: Path, tmp_path: Path) -> None:
    record = kept(attacked(run), tmp_path / "record")
    again = publish(published, tmp_path / "again", [record])
    assert (again.folder / "model.safetensors").read_bytes() == (published / "model.safetensors").read_bytes()
    direct = publish(run, tmp_path / "direct" / "again", [record])
    assert again.card == direct.card
    assert again.config == direct.config


def test_in_place_of_an_earlier_one(run: Path, copy: Path, tmp_path: Path) -> None:
    record = kept(attacked(run), tmp_path / "record")
    publish(copy, copy, [record])
    assert "0.400" in (copy / "README.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "record"]


def test_the_newest_epoch_is_published(tmp_path: Path) -> None:
    run = train(tmp_path / "run", epochs=2)
    config = publish(run, tmp_path / "out").config
    assert config.trained.epochs == 2
    assert config.trained.test_accuracy == load_checkpoint(run).description.history[-1].test_accuracy


def test_others_may_read_what_is_published(published: Path) -> None:
    made = published.parent / "plain"
    made.mkdir()
    assert stat.S_IMODE(published.stat().st_mode) == stat.S_IMODE(made.stat().st_mode)
