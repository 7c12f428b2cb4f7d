"""The folder of an evaluation: its setting, a file for each unit of work, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sonet.report import RecordError, claim, write_whole
from sonet.types import Images

SETTING, SHARE = "setting.json", "share.json"


@dataclass(frozen=True)
class Unit:
    """What one attack made of some images, its evidence.

    places: (M,) places in the evaluated images. images: (M, C, H, W). loss: (T, M), NaN after an image stopped.
    zero_gradients: (M,) bool. queries: (M,). minimum: (M,), NaN for attacks that look inside the threat only.
    seconds: what crafting took.
    """

    places: Tensor
    images: Images
    loss: Tensor
    zero_gradients: Tensor
    queries: Tensor
    minimum: Tensor
    seconds: float


class Store:
    """Units by the name of their attack and their number; in memory only where there is no folder."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def claim(self, setting: str) -> bool:
        """Take the folder for this setting; whether it was begun already. Another one's folder is a `RecordError`.

        The first file is written before any work, so that a folder that cannot be written to is known at once.
        """
        if self.folder is None:
            return False
        begun = claim(self.folder, SETTING, setting)
        if not begun:
            write_whole(self.folder / SETTING, setting)
        return begun

    def plan(self, make: Callable[[], float]) -> float:
        """The share of the work that the budget allows, as it was found at first: a resumed run plans the same."""
        if self.folder is None:
            return make()
        file = self.folder / SHARE
        if not file.is_file():
            write_whole(file, json.dumps({"share": make()}))
        return float(json.loads(file.read_text())["share"])

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
        if file is None:
            return
        tensors = {
            "places": unit.places,
            "images": unit.images,
            "loss": unit.loss,
            "zero_gradients": unit.zero_gradients,
            "queries": unit.queries,
            "minimum": unit.minimum,
        }
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        write_whole(file, save(contiguous, metadata={"seconds": repr(unit.seconds), "attack": attack}))

    def units(self) -> list[Path]:
        """Files of all units, in the order of their names."""
        return sorted((self.folder / "units").glob("*.safetensors")) if self.folder is not None else []

    def _file(self, attack: str, number: int) -> Path | None:
        return None if self.folder is None else self.folder / "units" / f"{attack}-{number:04d}.safetensors"


def read_unit(file: Path) -> Unit:
    """A unit from its file, on the CPU."""
    try:
        with safe_open(file, "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            seconds = float((opened.metadata() or {})["seconds"])
        return Unit(**tensors, seconds=seconds)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise RecordError(
            f"{file}: expected the evidence of an attack, got a file that cannot be read ({error}). "
            "It was cut short or changed; remove it, and the same command makes it again."
        ) from None
