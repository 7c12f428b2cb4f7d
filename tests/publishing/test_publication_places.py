"""Where a publication is looked for: folders, the hub's cache with its links, the hub itself, which tests never ask."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from trained_digits import digits

from sonet.publishing import PublicationError, is_trained, load_published, load_trained
from sonet.training import load_model

FIRST, SECOND = "a" * 40, "b" * 40


def cached(published: Path, home: Path, *revisions: str, main: str | None = None) -> Path:
    """The publication as the hub's cache keeps it: blobs by checksum, and snapshots of links to them."""
    place = home / "models--somebody--mine"
    (place / "blobs").mkdir(parents=True)
    for revision in revisions:
        snapshot = place / "snapshots" / revision
        snapshot.mkdir(parents=True)
        for file in published.iterdir():
            content = file.read_bytes()
            blob = hashlib.sha256(content).hexdigest()
            (place / "blobs" / blob).write_bytes(content)
            os.symlink(Path("..", "..", "blobs", blob), snapshot / file.name)
    if main is not None:
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text(main)
    return place


@pytest.fixture(autouse=True)
def nobody_asks_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def asked(*arguments: object, **named: object) -> None:
        raise AssertionError("a test asked the hub")

    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub, "snapshot_download", asked)


def same(path: Path | str, run: Path) -> bool:
    images = digits().test.images[:8]
    return torch.equal(load_published(path)(images), load_model(run)(images))


def test_a_snapshot_of_links(run: Path, published: Path, tmp_path: Path) -> None:
    place = cached(published, tmp_path, FIRST)
    assert same(place / "snapshots" / FIRST, run)
    assert same(place, run)
    assert is_trained(place)


def test_of_several_the_one_that_main_points_to(published: Path, tmp_path: Path, run: Path) -> None:
    place = cached(published, tmp_path, FIRST, SECOND, main=SECOND)
    (place / "snapshots" / FIRST / "config.json").unlink()  # another could not be read
    assert same(place, run)


def test_of_several_without_main_none_is_guessed(published: Path, tmp_path: Path) -> None:
    place = cached(published, tmp_path, FIRST, SECOND)
    with pytest.raises(PublicationError, match=f"or only one, got {FIRST}, {SECOND}. Give the folder of one"):
        load_published(place)


def test_a_link_to_nothing_is_a_missing_file(published: Path, tmp_path: Path) -> None:
    place = cached(published, tmp_path, FIRST)
    link = place / "snapshots" / FIRST / "model.safetensors"
    link.resolve().unlink()
    with pytest.raises(PublicationError, match=r"expected model\.safetensors, got no such file"):
        load_published(place)


@pytest.mark.parametrize(
    ("named", "revision"),
    [("hf://somebody/mine", None), ("hf://somebody/mine@v1.0", "v1.0"), (Path("hf://somebody/mine"), None)],
)
def test_the_hub_is_asked_for_what_is_named(
    run: Path, published: Path, monkeypatch: pytest.MonkeyPatch, named: Path | str, revision: str | None
) -> None:
    asked: list[tuple[Any, dict[str, Any]]] = []

    def answer(repository: str, **how: Any) -> str:
        asked.append((repository, how))
        return str(published)

    monkeypatch.setattr("huggingface_hub.snapshot_download", answer)
    assert same(named, run)
    assert asked[0][0] == "somebody/mine"
    assert asked[0][1]["revision"] == revision
    assert not [pattern for pattern in asked[0][1]["allow_patterns"] if pattern.endswith(".bin") or "*" in pattern]


def test_what_the_hub_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(repository: str, **how: Any) -> str:
        raise FileNotFoundError("404, no such repository")

    monkeypatch.setattr("huggingface_hub.snapshot_download", answer)
    with pytest.raises(PublicationError, match=r"hf://somebody/mine@x: expected .* got FileNotFoundError: 404"):
        load_published("hf://somebody/mine@x")


def test_without_huggingface_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sonet.publishing.place.find_spec", lambda name: None)
    with pytest.raises(PublicationError, match=r"is not installed\. Install it with `pip install huggingface_hub`"):
        load_published("hf://somebody/mine")
    assert not is_trained("somebody/mine")


def test_a_plain_name_is_looked_for_in_the_cache_alone(
    run: Path, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By huggingface_hub itself, on a cache of our own; not found, no server hears of it."""
    from huggingface_hub import _snapshot_download

    home = tmp_path / "cache"
    place = cached(published, home, FIRST, main=FIRST)
    how: list[dict[str, Any]] = []

    def local(repository: str, **named: Any) -> str:
        how.append(named)
        found: str = _snapshot_download.snapshot_download(repository, cache_dir=home, **named)
        return found

    monkeypatch.setattr("huggingface_hub.snapshot_download", local)
    monkeypatch.chdir(tmp_path)
    assert same("somebody/mine", run)
    assert not is_trained("somebody/else")
    assert not is_trained(Path("runs/mistyped"))
    assert all(named == {"local_files_only": True} for named in how)
    assert len(how) == 3
    (tmp_path / "somebody").mkdir()
    (tmp_path / "somebody" / "mine").mkdir()
    assert not is_trained("somebody/mine")  # a path that exists is a path
    assert len(how) == 3
    assert place.is_dir()


@pytest.mark.parametrize("text", ["nowhere", "a/b/c", "/a/b", "net.py", "some/net.py", "net.py:net", "hf://mine", ""])
def test_what_is_no_name_of_a_repository(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not is_trained(text)


def test_a_run_goes_before_the_weights_in_it(run: Path) -> None:
    """An epoch's folder holds model.safetensors, too, and is a checkpoint."""
    images = digits().test.images[:8]
    epoch = next(run.glob("epoch-*"))
    assert torch.equal(load_trained(epoch)(images), load_model(run)(images))
