"""The history as a table in the run's folder, and for TensorBoard."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Any

from sonet.training.errors import TrainingRefused
from sonet.training.history import EpochReport, History
from sonet.training.staging import settle, staged

LOG = "log.csv"


def write_log(run: Path, history: History) -> Path:
    """Write `run`/log.csv whole: a row an epoch, columns the fields of `EpochReport`, empty where there is no value.

    It is always made from the whole history, so that it cannot disagree with the checkpoint. A file that holds this
    already is left alone.
    """
    text = io.StringIO()
    table = csv.DictWriter(text, fieldnames=list(EpochReport.model_fields), lineterminator="\n")
    table.writeheader()
    table.writerows(epoch.model_dump() for epoch in history)
    target = run / LOG
    if target.is_file() and target.read_bytes() == text.getvalue().encode():
        return target
    with staged(run) as folder:
        file = folder / LOG
        file.write_bytes(text.getvalue().encode())
        settle(file)
        os.replace(file, target)
    return target


class Board:
    """The numbers of each epoch as scalars for TensorBoard, in `folder`; the epoch, from 1, is the step.

    history: the epochs there are. Like log.csv the board is made from them, whoever asks for it and when; TensorBoard
    forgets what an earlier call had added. Errors: TrainingRefused without the package tensorboard.
    """

    def __init__(self, folder: Path, history: History) -> None:
        self._writer: Any = _writer()(log_dir=str(folder), purge_step=1)
        for epoch in history:
            self.add(epoch)

    def add(self, epoch: EpochReport) -> None:
        for name, value in epoch.model_dump(exclude={"epoch"}).items():
            if value is not None:
                self._writer.add_scalar(name, float(value), epoch.epoch)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def need_tensorboard() -> None:
    """TrainingRefused where the package is missing: before training, not after an epoch of it."""
    _writer()


def _writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise TrainingRefused(
            f"logs for TensorBoard need the package tensorboard, which cannot be imported ({error}). "
            "Install it with pip install 'sonet[tensorboard]', or leave the option out: log.csv has the same numbers."
        ) from None
    return SummaryWriter
