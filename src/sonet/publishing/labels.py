"""Names of a run's classes, from its data where they are at hand; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sonet.data import DATASETS, DataError, load
from sonet.data.sources import SOURCES


def named(data: dict[str, Any]) -> str | None:
    """The name by which `sonet.data.load` gets these data on any machine; None for data of the user's own."""
    name = data.get("load") or data.get("name")
    return str(name) if name in DATASETS and data.get("official") else None


def class_names(data: dict[str, Any], classes: int) -> tuple[str, ...]:
    """Of `classes` classes the names, or their numbers where the data are not at hand or are others by now."""
    name = named(data)
    names = SOURCES[name].classes if name in SOURCES else _read(data) if name is None else ()
    return names if len(names) == classes else tuple(str(number) for number in range(classes))


def _read(data: dict[str, Any]) -> tuple[str, ...]:
    """From the path that the run wrote down; the test images there must still be those of the run."""
    place, folder = data.get("load"), data.get("data_dir")
    file = Path(folder) / f"{place}.npz" if place in DATASETS and folder else Path(place) if place else None
    if file is None or not file.exists():
        return ()
    try:
        found = load(str(place), data_dir=folder if place in DATASETS else None)
    except (DataError, OSError):
        return ()
    return found.classes if found.describe()["test_sha256"] == data.get("test_sha256") else ()
