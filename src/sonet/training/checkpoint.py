"""Checkpoints: a folder an epoch, written whole or not at all, with weights as safetensors and the rest as JSON."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sonet.errors import explain
from sonet.models import ConfigError, build, parse_config
from sonet.training.config import TrainConfig
from sonet.training.history import History
from sonet.training.staging import settle, staged

SCHEMA = "sonet.checkpoint/1"
DESCRIPTION = "checkpoint.json"
WEIGHTS, MOMENTUM = "model.safetensors", "optimizer.safetensors"
STATE = "state.safetensors"
"""Only where training needs more to go on than what is deployed."""


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged or of another kind."""


class Description(BaseModel):
    """What is in checkpoint.json; `files` holds the SHA-256 of the others."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    format: str = Field(default=SCHEMA, alias="schema")
    model: dict[str, Any]
    training: TrainConfig
    data: dict[str, Any]
    epoch: int
    history: History
    versions: dict[str, str]
    files: dict[str, str]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read and checked: description, weights to deploy, momentum by parameter name.

    state: what training needs besides to go on, by the names that `sonet.training.keeping` gives; empty for most.
    """

    path: Path
    description: Description
    weights: dict[str, Tensor]
    momentum: dict[str, Tensor]
    state: dict[str, Tensor]


def save_checkpoint(
    run: Path,
    model: nn.Module,
    momentum: dict[str, Tensor],
    *,
    training: TrainConfig,
    data: dict[str, Any],
    history: History,
    state: dict[str, Tensor] | None = None,
) -> Path:
    """Write `run`/epoch-NNNN and remove older ones. A reader finds the old one or the new one, never half of one."""
    epoch = len(history)
    with staged(run) as folder:
        new = folder / "checkpoint"
        new.mkdir()
        contents = {WEIGHTS: model.state_dict(), MOMENTUM: momentum} | ({STATE: state} if state else {})
        for name, tensors in contents.items():
            save_file({key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}, new / name)
        description = Description(
            model=model.config.model_dump(mode="json"),  # type: ignore[union-attr,operator]
            training=training,
            data=data,
            epoch=epoch,
            history=history,
            versions={name: version(name) for name in ("torch", "sonet", "safetensors")},
            files={name: _sha256(new / name) for name in contents},
        )
        (new / DESCRIPTION).write_text(description.model_dump_json(by_alias=True, indent=1))
        for file in new.iterdir():
            settle(file)
        target = run / f"epoch-{epoch:04d}"
        if target.exists():
            shutil.rmtree(target)
        new.rename(target)
    for older in _checkpoints(run):
        if older != target:
            shutil.rmtree(older)
    return target


def _where(path: Path) -> str:
    """What to give instead of a path that holds no checkpoint."""
    inside = sorted(each for each in path.glob("*/*") if each.is_dir() and _checkpoints(each)) if path.is_dir() else []
    if inside:
        return f"Give one of the runs in it, such as {inside[0]}."
    hub = f" A network of the hub is hf://{path}." if not path.exists() and len(path.parts) == 2 else ""
    return f"Give the folder that `sonet train --out` wrote.{hub}"


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint folder, or the newest one in a run's folder. `CheckpointError` where it is not sound."""
    folder = find_checkpoint(path)
    if folder is None:
        raise CheckpointError(
            f"{path}: expected a run or checkpoint folder with {DESCRIPTION}, found none. {_where(path)}"
        )
    try:
        raw = json.loads((folder / DESCRIPTION).read_text())
        if raw.get("schema") != SCHEMA:
            raise CheckpointError(
                f"{folder}: got schema {raw.get('schema')!r}, expected {SCHEMA!r}. "
                "Read it with the version of sonet that wrote it, or train again."
            )
        description = Description.model_validate(raw)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, AttributeError) as error:
        raise CheckpointError(f"{folder / DESCRIPTION}: cannot be read as JSON ({error}); it may be cut off.") from None
    except ValidationError as error:
        raise CheckpointError(f"{folder / DESCRIPTION}: {explain(error)}") from None
    tensors: dict[str, dict[str, Tensor]] = {STATE: {}}
    for name in (WEIGHTS, MOMENTUM, *({STATE} & description.files.keys())):
        file = folder / name
        if not file.is_file() or _sha256(file) != description.files.get(name):
            raise CheckpointError(
                f"{file}: missing, cut off or changed: its SHA-256 is not the one in {DESCRIPTION}. "
                "Use an earlier copy or train again."
            )
        try:
            tensors[name] = load_file(file)
        except SafetensorError as error:
            raise CheckpointError(f"{file}: is no safetensors file ({error}).") from None
    return Checkpoint(folder, description, tensors[WEIGHTS], tensors[MOMENTUM], tensors[STATE])


def load_model(path: Path) -> nn.Module:
    """The network of a run or checkpoint folder: `load_checkpoint`, then `restore`."""
    return restore(load_checkpoint(path))


def restore(checkpoint: Checkpoint) -> nn.Module:
    """The network of a checkpoint, ready to be judged and attacked: in eval mode, its weights frozen.

    Frozen weights keep the graph of an attack to what leads to the images. `requires_grad_(True)` undoes it.
    """
    try:
        model = build(parse_config(checkpoint.description.model))
        model.load_state_dict(checkpoint.weights)
    except (ConfigError, ValidationError, RuntimeError) as error:
        why = explain(error) if isinstance(error, ValidationError) else " ".join(str(error).split())
        raise CheckpointError(
            f"{checkpoint.path}: {DESCRIPTION} describes a network that the weights do not fit: {why}. "
            "One of the two files was changed; use an earlier copy or train again."
        ) from None
    return model.eval().requires_grad_(False)


def find_checkpoint(path: Path) -> Path | None:
    """The checkpoint at or in `path`, the newest if there are several; None if there is none."""
    if (path / DESCRIPTION).is_file():
        return path
    found = _checkpoints(path)
    return found[-1] if found else None


def _checkpoints(run: Path) -> list[Path]:
    """Oldest first. Folders of other names, such as somebody's copy of one, are not ours to read or remove."""
    found = [folder for folder in run.glob("epoch-*") if re.fullmatch(r"epoch-\d{4,}", folder.name)]
    return sorted(
        (folder for folder in found if (folder / DESCRIPTION).is_file()), key=lambda folder: int(folder.name[6:])
    )


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
