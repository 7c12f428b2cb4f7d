"""The folder of an evaluation: its setting, a file for each unit of work, written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from sonet.evaluation.processes import Processes
from sonet.report import RecordError, claim, write_whole
from sonet.types import Images

SETTING, SHARE = "setting.json", "share.json"
_PATIENCE = 60.0
"""Seconds within which a file that one process wrote must be seen by the others; network file systems take a few."""


@dataclass(frozen=True)
class Unit:
    """What one attack made of some images, its evidence.

    places: (M,) places in the evaluated images. images: (M, C, H, W). loss: (T, M), NaN after an image stopped.
    zero_gradients: (M,) bool. queries: (M,). minimum: (M,), NaN for attacks that look inside the threat only.
    seconds: what crafting took, while `processes` were at work.
    """

    places: Tensor
    images: Images
    loss: Tensor
    zero_gradients: Tensor
    queries: Tensor
    minimum: Tensor
    seconds: float
    processes: int = 1


class Store:
    """Units by the name of their attack and their number; in memory only where there is no folder."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._ours: dict[str, str] = {}

    def claim(self, setting: str) -> bool:
        """Take the folder for this setting; whether it was begun already. Another one's folder is a `RecordError`.

        The first file is written before any work, so that a folder that cannot be written to is known at once.
        """
        if self.folder is None:
            return False
        begun = claim(self.folder, SETTING, setting)
        if not begun:
            write_whole(self.folder / SETTING, setting)
        self._ours[SETTING] = setting
        return begun

    def check_shared(self, processes: Processes) -> None:
        """`RecordError` where a process does not see what the main one writes into the folder."""
        if self.folder is None or processes.world == 1:
            return
        mark = self.folder / f".seen-by-all-{processes.decide(lambda: secrets.token_hex(6))}"
        try:
            if processes.main:
                write_whole(mark, "")
            processes.decide(lambda: None)
            until = time.monotonic() + _PATIENCE
            while not mark.is_file() and time.monotonic() < until:
                time.sleep(0.05)
                with contextlib.suppress(OSError):
                    os.listdir(self.folder)  # asks a network file system again
            blind = [rank for rank, sees in enumerate(processes.collect(mark.is_file())) if not sees]
        finally:
            if processes.main:
                mark.unlink(missing_ok=True)
        if blind:
            raise RecordError(
                f"{self.folder}: process {blind[0]} does not see within {_PATIENCE:.0f} s what the main process wrote "
                "there: not the same folder on every machine. Give an --out on a file system that all of them share."
            )

    def plan(self, make: Callable[[], float]) -> float:
        """The share of the work that the budget allows, as it was found at first: a resumed run plans the same."""
        if self.folder is None:
            return make()
        file = self.folder / SHARE
        if not file.is_file():
            write_whole(file, json.dumps({"share": make()}))
        self._ours[SHARE] = file.read_text()
        return float(json.loads(self._ours[SHARE])["share"])

    def has(self, attack: str, number: int) -> bool:
        file = self._file(attack, number)
        return file is not None and file.is_file()

    def load(self, attack: str, number: int, places: Tensor) -> Unit | None:
        """The unit if it was done before; one of other images is a `RecordError`."""
        file = self._file(attack, number)
        if file is None or not file.is_file():
            return None
        unit = read_unit(file)
        if not torch.equal(unit.places, places.cpu()):
            raise RecordError(
                f"{file} holds other images than expected: outcomes before it have changed since it was written. "
                "A model that is not deterministic cannot be resumed; give another --out."
            )
        return unit

    def save(self, attack: str, number: int, unit: Unit) -> None:
        file = self._file(attack, number)
        if file is None or self.folder is None:
            return
        for name, content in self._ours.items():
            if (self.folder / name).read_text() != content:
                raise RecordError(
                    f"{self.folder}: {name} was changed while this command was at work, by another command that took "
                    "the folder at the same moment. Nothing more is written here; give each its own --out."
                )
        write_whole(file, pack(unit, attack))

    def units(self) -> list[Path]:
        """Files of all units, in the order of their names."""
        return sorted((self.folder / "units").glob("*.safetensors")) if self.folder is not None else []

    def _file(self, attack: str, number: int) -> Path | None:
        return None if self.folder is None else self.folder / "units" / f"{attack}-{number:04d}.safetensors"


def pack(unit: Unit, attack: str) -> bytes:
    """A unit as safetensors, for a file or another process."""
    tensors = {
        "places": unit.places,
        "images": unit.images,
        "loss": unit.loss,
        "zero_gradients": unit.zero_gradients,
        "queries": unit.queries,
        "minimum": unit.minimum,
    }
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"seconds": repr(unit.seconds), "processes": str(unit.processes), "attack": attack}
    packed: bytes = save(contiguous, metadata=metadata)
    return packed


def unpack(content: bytes) -> Unit:
    """The unit that `pack` packed. Errors: SafetensorError, KeyError, TypeError, ValueError for anything else."""
    tensors = load(content)
    length = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + length])["__metadata__"]
    return Unit(**tensors, seconds=float(metadata["seconds"]), processes=int(metadata.get("processes", 1)))


def read_unit(file: Path) -> Unit:
    """A unit from its file, on the CPU."""
    try:
        return unpack(file.read_bytes())
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise RecordError(
            f"{file}: expected the evidence of an attack, got a file that cannot be read ({error}). "
            "It was cut short or changed; remove it, and the same command makes it again."
        ) from None
