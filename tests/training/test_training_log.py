"""log.csv and TensorBoard: the history, whole, once, whatever happened in between."""

from __future__ import annotations

import csv
import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from small_runs import config, digits, fingerprint, small

from sonet.training import EpochReport, TrainingError, fit, load_checkpoint
from sonet.training.log import LOG, write_log


class Stop(Exception):
    pass


def trained(run: Path | None, stop_in: int | None = None, epochs: int = 3, **more: Any) -> Any:
    def tell(report: Any) -> None:
        if report.epoch + 1 == stop_in:
            raise Stop

    try:
        return fit(
            small("resnet10"),
            digits().train.take(40),
            config(epochs=epochs, clip=0.5),
            test=digits().test.take(20),
            run=run,
            progress=tell,
            **more,
        )
    except Stop:
        return None


def rows(run: Path) -> list[dict[str, str]]:
    with (run / LOG).open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_is_the_history(tmp_path: Path) -> None:
    history = trained(tmp_path)
    found = rows(tmp_path)
    assert list(found[0]) == list(EpochReport.model_fields)
    assert len(found) == 3
    for row, report in zip(found, history, strict=True):
        for name, value in report.model_dump().items():
            if value is None:
                assert row[name] == ""
            elif isinstance(value, bool):
                assert row[name] == str(value)
            else:
                assert float(row[name]) == value
    assert 0 < float(found[0]["clipped"]) <= 1


def test_it_is_written_each_epoch_and_continued_by_a_resumed_run(tmp_path: Path) -> None:
    trained(tmp_path, stop_in=3)
    early = rows(tmp_path)
    assert [row["epoch"] for row in early] == ["1", "2"]
    trained(tmp_path)
    late = rows(tmp_path)
    assert [row["epoch"] for row in late] == ["1", "2", "3"]
    assert late[:2] == early  # their seconds included: they were not run again


@pytest.mark.parametrize("change", ["row too many", "gone", "other"])
def test_a_resumed_run_puts_right_what_a_kill_or_a_hand_left(tmp_path: Path, change: str) -> None:
    """A kill between log and checkpoint leaves an epoch in the log that will be run again."""
    trained(tmp_path, stop_in=3)
    file = tmp_path / LOG
    right = file.read_text()
    if change == "gone":
        file.unlink()
    else:
        last = right.splitlines()[-1]
        file.write_text(right + last.replace("2,", "3,", 1) + "\n" if change == "row too many" else "mine")
    trained(tmp_path, stop_in=3)
    assert file.read_text() == right


def test_a_finished_run_is_not_touched(tmp_path: Path) -> None:
    trained(tmp_path)
    (tmp_path / LOG).unlink()  # as a run from before there was a log
    before = fingerprint(tmp_path)
    trained(tmp_path)
    assert fingerprint(tmp_path) == before


def test_a_crash_while_writing_leaves_the_old_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = trained(tmp_path)

    def crash(*_: Any) -> None:
        raise OSError("disk full")

    before = fingerprint(tmp_path)
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, crash)
            with pytest.raises(OSError, match="disk full"):
                write_log(tmp_path, history[:2])
        assert fingerprint(tmp_path) == before


def test_without_a_run_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trained(None)
    assert not list(tmp_path.iterdir())


# TensorBoard


def test_without_the_package_it_is_refused_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(TrainingError, match=r"pip install 'sonet\[tensorboard\]'"):
        trained(tmp_path / "run", tensorboard=tmp_path / "board")
    assert not list(tmp_path.iterdir())


class Writer:
    """Stands for SummaryWriter."""

    made: list[Writer]

    def __init__(self, log_dir: str, purge_step: int) -> None:
        self.folder, self.purge_step, self.open = log_dir, purge_step, True
        self.scalars: dict[tuple[str, int], float] = {}
        type(self).made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        assert self.open
        assert (name, step) not in self.scalars
        self.scalars[name, step] = value

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.open = False


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Writer]:
    module = types.ModuleType("torch.utils.tensorboard")
    Writer.made = []
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return Writer.made


def test_it_gets_the_same_numbers(tmp_path: Path, made: list[Writer]) -> None:
    history = trained(tmp_path / "run", tensorboard=tmp_path / "board")
    (writer,) = made
    assert (writer.folder, writer.purge_step, writer.open) == (str(tmp_path / "board"), 1, False)
    for report in history:
        there = {name: value for (name, step), value in writer.scalars.items() if step == report.epoch}
        assert there == {
            name: value for name, value in report.model_dump(exclude={"epoch"}).items() if value is not None
        }


def test_a_resumed_or_finished_run_has_all_its_epochs_on_the_board(tmp_path: Path, made: list[Writer]) -> None:
    for stop in (2, None, None):
        trained(tmp_path / "run", stop_in=stop, tensorboard=tmp_path / "board")
    assert [writer.purge_step for writer in made] == [1, 1, 1]  # whole each time, like the table
    assert not any(writer.open for writer in made)
    assert [sorted({step for _, step in writer.scalars}) for writer in made] == [[1], [1, 2, 3], [1, 2, 3]]
    assert len(load_checkpoint(tmp_path / "run").description.history) == 3


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_itself_reads_them(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trained(tmp_path / "run", stop_in=2)  # without a board
    trained(tmp_path / "run", stop_in=3, tensorboard=tmp_path / "board")
    history = trained(tmp_path / "run", tensorboard=tmp_path / "board")
    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("loss")]
    assert found == [(report.epoch, pytest.approx(report.loss)) for report in history]
