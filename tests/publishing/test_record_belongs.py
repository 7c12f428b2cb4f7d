"""A record of another network is refused, and the sentence says what differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from trained_digits import about, attacked, audited, certified, digits, kept, reproduced, train

from sonet.publishing import PublicationError, publish
from sonet.report import RecordError


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("others") / "other", seed=1)


@pytest.mark.parametrize("make", [attacked, audited, certified])
def test_of_other_weights(run: Path, other: Path, tmp_path: Path, make: Any) -> None:
    record = kept(make(other), tmp_path / "record")
    with pytest.raises(PublicationError, match=r"another network: its weights have the SHA-256 \w{12}\.\.\., exp"):
        publish(run, tmp_path / "out", [record])
    assert [path.name for path in tmp_path.iterdir()] == ["record"]


def test_of_the_same_weights_under_another_solver(run: Path, tmp_path: Path) -> None:
    known = about(run)
    solver = known["model"]["solver"] | {"step_gradient": "frozen"}
    record = kept(attacked(run, settings=known | {"model": known["model"] | {"solver": solver}}), tmp_path / "record")
    with pytest.raises(PublicationError, match="same weights under other options: solver"):
        publish(run, tmp_path / "out", [record])


@pytest.mark.parametrize("settings", [{}, {"model": "net.py:net", "files": {"net.py": "ab"}}, {"files": None}])
def test_of_nobody_s_weights(run: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    record = kept(audited(run, settings=settings), tmp_path / "record")
    with pytest.raises(PublicationError, match=r"tells no model\.safetensors of a run"):
        publish(run, tmp_path / "out", [record])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train_seconds": 1.0}, r"trained for 1 epochs in 1 s, this one for 1 in .* another training"),
        ({"epochs": 2}, "trained for 2 epochs"),
        ({"seed": 1}, "got a record of resnet10 of seed 1, sonet of seed 1, expected this sonet of seed 0: none with"),
        ({"config": {"kind": "resnet10"}}, "none with these options and this seed"),
        ({"config": {"kind": "of tomorrow"}}, "none with these options and this seed"),
    ],
)
def test_of_an_experiment_without_it(run: Path, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    record = kept(reproduced(run, **changes), tmp_path / "record")
    with pytest.raises(PublicationError, match=said):
        publish(run, tmp_path / "out", [record])


def test_of_an_experiment_on_other_images(run: Path, tmp_path: Path) -> None:
    record = reproduced(run).model_copy(update={"data": digits().describe() | {"test_sha256": "ab"}})
    with pytest.raises(PublicationError, match="test images are others"):
        publish(run, tmp_path / "out", [kept(record, tmp_path / "record")])


def test_what_is_no_record(run: Path, tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text("{")
    with pytest.raises(RecordError, match="expected JSON"):
        publish(run, tmp_path / "out", [tmp_path])
    assert not (tmp_path / "out").exists()


def test_what_belongs_to_the_run_belongs_to_its_publication(run: Path, published: Path, tmp_path: Path) -> None:
    records = [
        kept(make(run), tmp_path / str(number))
        for number, make in enumerate((attacked, audited, certified, reproduced))
    ]
    assert len(publish(published, tmp_path / "out", records).records) == 4
