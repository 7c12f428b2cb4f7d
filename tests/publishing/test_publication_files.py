"""Files that are missing, damaged, edited or of others are refused; and nothing is written by halves or over others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file
from trained_digits import attacked, kept, rewritten, seen, train

from sonet import __version__
from sonet.models import MODELS
from sonet.publishing import PublicationError, load_published, publish
from sonet.training import CheckpointError

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def reweighted(folder: Path, **changes: torch.Tensor | None) -> None:
    """Other weights under checksums that fit."""
    tensors = load_file(folder / WEIGHTS) | changes
    raw = save({name: tensor for name, tensor in tensors.items() if tensor is not None})
    (folder / WEIGHTS).write_bytes(raw)
    rewritten(folder / CONFIG, files={WEIGHTS: hashlib.sha256(raw).hexdigest()})


def some(folder: Path) -> tuple[str, torch.Tensor]:
    """The largest weight."""
    return max(load_file(folder / WEIGHTS).items(), key=lambda item: item[1].numel())


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def of(folder: Path, key: str) -> Any:
    return json.loads((folder / CONFIG).read_text())[key]


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def transposed(folder: Path) -> None:
    name, tensor = some(folder)
    reweighted(folder, **{name: tensor.flatten()})


def half(folder: Path) -> None:
    name, tensor = some(folder)
    reweighted(folder, **{name: tensor.half()})


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / CONFIG).unlink(), r"expected config\.json, got no such file"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), r"expected model\.safetensors, got no such file"),
    "a pickle alone": (pickled, r"got pytorch_model\.bin alone\. That is a pickle, which can run any code"),
    "weights cut off": (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-8]), "SHA-256 is not the one"),
    "other weights": (lambda f: save_file({"x": torch.zeros(1)}, f / WEIGHTS), "SHA-256 is not the one"),
    "config cut off": (lambda f: (f / CONFIG).write_bytes((f / CONFIG).read_bytes()[:-9]), "what does not parse"),
    "config no object": (lambda f: (f / CONFIG).write_text("[]"), 'got schema null, expected "sonet.publication/1"'),
    "config of another library": (
        lambda f: (f / CONFIG).write_text('{"model_type": "bert"}'),
        "got schema null, .* It is of another library",
    ),
    "a newer format": (
        lambda f: rewritten(f / CONFIG, schema="sonet.publication/2", sonet_version="9.1"),
        f'got schema "sonet.publication/2", .* sonet 9.1 wrote it and this is {__version__}; use that version',
    ),
    "a solver edited": (lambda f: edit(f / CONFIG, '"scope": "batch"', '"scope": "sample"'), "its digest is not that"),
    "a checksum edited": (lambda f: edit(f / CONFIG, '"digest": "', '"digest": "0'), "its digest is not that"),
    "an unknown network": (
        lambda f: rewritten(f / CONFIG, model_type="sonet-2"),
        f"got the network 'sonet-2', expected one of {', '.join(MODELS)}. Publish",
    ),
    "an unknown network of a newer version": (
        lambda f: rewritten(f / CONFIG, model_type="sonet-2", sonet_version="9.1"),
        f"'sonet-2', .* It was written by sonet 9.1, and this is {__version__}: upgrade",
    ),
    "an unknown option of a newer version": (
        lambda f: rewritten(f / CONFIG, model=of(f, "model") | {"twist": 1}, sonet_version="0.11.0"),
        "twist: Extra inputs .* written by sonet 0.11.0",
    ),
    "an unknown key": (lambda f: rewritten(f / CONFIG, torch_dtype="x"), "torch_dtype: Extra inputs"),
    "two networks named": (lambda f: rewritten(f / CONFIG, model_type="resnet10"), "model_type is 'resnet10' and"),
    "a label too few": (
        lambda f: rewritten(f / CONFIG, id2label={"0": "a"}, label2id={"a": 0}),
        "got 1 labels for a network of 10 classes",
    ),
    "labels that disagree": (lambda f: rewritten(f / CONFIG, label2id={"0": 1}), "do not name the same classes"),
    "channels that disagree": (lambda f: rewritten(f / CONFIG, input_shape=[3, 8, 8]), "input_shape has 3 channels"),
    "no safetensors": (
        lambda f: ((f / WEIGHTS).write_bytes(b"x"), rewritten(f / CONFIG, files={WEIGHTS: SHA_OF_X})),
        "got no safetensors file",
    ),
    "a weight missing": (lambda f: reweighted(f, **{some(f)[0]: None}), r"of sonet, got \d+: missing: .* float32"),
    "a weight too many": (lambda f: reweighted(f, extra=torch.zeros(2)), r"unexpected: extra \(2,\) float32"),
    "another shape": (transposed, r"other: \S+ got \(\d+,\) float32, expected \(\d+, .*\) float32"),
    "another type": (half, r"got \(.*\) float16, expected \(.*\) float32"),
}
SHA_OF_X = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"


@pytest.mark.parametrize("case", DAMAGE)
def test_what_cannot_be_read(copy: Path, case: str) -> None:
    damage, said = DAMAGE[case]
    damage(copy)
    with pytest.raises(PublicationError, match=said):
        load_published(copy)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([CONFIG, WEIGHTS]), st.data())
def test_any_byte_that_changes_is_noticed(copy: Path, published: Path, file: str, data: Any) -> None:
    """But for white space between the words of config.json, which says nothing."""
    sound = (published / file).read_bytes()
    raw = bytearray(sound)
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    assume(file == WEIGHTS or raw.split() != sound.split())
    for name in (CONFIG, WEIGHTS):
        (copy / name).write_bytes((published / name).read_bytes())
    (copy / file).write_bytes(raw)
    with pytest.raises(PublicationError):
        load_published(copy)


def test_nothing_there(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(PublicationError, match=r"expected a folder with config\.json and .*, found none"):
            load_published(place)


def test_what_is_no_run_is_not_published(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected a run or checkpoint folder"):
        publish(tmp_path / "nowhere", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def foreign(out: Path, copy: Path) -> None:
    out.mkdir()
    (out / "mine.txt").write_text("mine")


def besides(out: Path, copy: Path) -> None:
    copy.rename(out)
    (out / ".git").mkdir()
    (out / ".git" / "HEAD").write_text("mine")


def edited(out: Path, copy: Path) -> None:
    copy.rename(out)
    edit(out / "README.md", "# mine", "# mine, my own words")


def of_another_library(out: Path, copy: Path) -> None:
    out.mkdir()
    (out / CONFIG).write_text('{"model_type": "bert"}')
    (out / "README.md").write_text("mine")


def damaged(out: Path, copy: Path) -> None:
    copy.rename(out)
    (out / WEIGHTS).write_bytes(b"mine")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (foreign, "holds mine.txt, expected an empty folder or an earlier publication and nothing besides"),
        (besides, "holds .git, expected"),
        (edited, r"README\.md: was edited after it was published"),
        (of_another_library, "It is not written over: give a new folder"),
        (damaged, "SHA-256 is not the one .* It is not written over"),
        (lambda out, copy: train(out), r"holds epoch-0001\b.*, expected an empty folder"),
        (lambda out, copy: out.write_text("mine"), "is a file, expected a folder"),
    ],
)
def test_what_is_not_written_over(
    run: Path, copy: Path, tmp_path: Path, make: Callable[[Path, Path], object], said: str
) -> None:
    out = tmp_path / "out"
    make(out, copy)
    before = seen(tmp_path)
    for place in (out, out / "below") if out.is_file() else (out,):
        with pytest.raises(PublicationError, match=said):
            publish(run, place)
    assert seen(tmp_path) == before


def test_an_empty_folder_may_be_written(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    publish(run, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.mark.parametrize(
    ("module", "name", "call"),
    [
        ("os", "fsync", 1),
        ("os", "fsync", 3),
        ("pathlib", "Path.rename", 1),
        ("pathlib", "Path.rename", 2),
        ("sonet.publishing.write", "load_published", 1),
    ],
)
def test_written_whole_or_not_at_all(
    run: Path, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str, call: int
) -> None:
    """A disk that fails at any step leaves the earlier publication and no part of the new one."""
    record = kept(attacked(run), tmp_path / "record")
    place: Any = import_module(module)
    *inside, last = name.split(".")
    for part in inside:
        place = getattr(place, part)
    real, calls = getattr(place, last), 0

    def failing(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise OSError("no space left on device")
        return real(*arguments, **named)

    before = seen(tmp_path)
    monkeypatch.setattr(place, last, failing)
    with pytest.raises(OSError, match="no space left"):
        publish(run, copy, [record])
    assert seen(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "record"]
