"""Publishing: a folder in the hub's layout, written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from sonet import __version__
from sonet.publishing.belongs import check_belongs
from sonet.publishing.card import render_card
from sonet.publishing.config import CARD, CONFIG, WEIGHTS, PublicConfig, describe
from sonet.publishing.errors import PublicationError
from sonet.publishing.publication import load_published, read_publication
from sonet.publishing.trained import read_trained, restore_trained
from sonet.report import AnyRecord, read_any
from sonet.training import Checkpoint

FILES = (WEIGHTS, CONFIG, CARD)


@dataclass(frozen=True)
class Published:
    """What was written: the folder, its config, its card, and the records that the card's figures are from."""

    folder: Path
    config: PublicConfig
    card: str
    records: tuple[AnyRecord, ...]


def publish(
    trained: Path | str,
    out: Path | str,
    records: Sequence[Path | str] = (),
    *,
    name: str | None = None,
    license: str | None = None,
) -> Published:
    """Write model.safetensors, config.json and the card README.md of a run, or of a publication, into the folder `out`.

    records: paths of record.json, audit.json, certificate.json or their folders; each must be of this network.
    name: of the card (default: the folder's). license: an identifier of the hub; the card names none without it.

    Errors: PublicationError for a record of another network or one given twice, and for an `out` that holds anything
    but an earlier publication as it was written; CheckpointError and RecordError for what cannot be read. `out` is
    then as it was.
    """
    out = Path(os.path.abspath(out))
    _check_free(out)
    found = read_trained(trained)
    model = restore_trained(found)
    weights = _serialized(model.state_dict())
    config = describe(found, type(model).__name__) if isinstance(found, Checkpoint) else found.description
    files = {WEIGHTS: hashlib.sha256(weights).hexdigest()}
    config = config.model_copy(update={"files": files, "sonet_version": __version__, "digest": ""})
    read = _read(records, config)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    card = render_card(config, read, name=name or out.name, parameters=parameters, license=license)
    config = config.model_copy(update={"card": hashlib.sha256(card.encode()).hexdigest()})
    _write(out, {WEIGHTS: weights, CONFIG: config.text().encode(), CARD: card.encode()})
    return Published(out, config, card, read)


def _serialized(state: dict[str, Tensor]) -> bytes:
    """As a checkpoint's weights: the same tensors are the same bytes, whoever wrote them."""
    raw: bytes = save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()})
    return raw


def _read(paths: Sequence[Path | str], config: PublicConfig) -> tuple[AnyRecord, ...]:
    read: list[AnyRecord] = []
    for path in paths:
        record = read_any(path)
        if record in read:
            raise PublicationError(
                f"{path}: got a record that was given before, expected each once, or its figures would stand twice. "
                "Leave one out."
            )
        check_belongs(record, config, str(path))
        read.append(record)
    return tuple(read)


def _check_free(out: Path) -> None:
    """PublicationError unless `out` can be made, is empty, or is a publication that can be made again."""
    there = next(place for place in (out, *out.parents) if place.exists())
    if not there.is_dir():
        raise PublicationError(f"{there}: is a file, expected a folder for the publication; give another one.")
    entries = sorted(entry.name for entry in out.iterdir()) if out.is_dir() else []
    if not entries:
        return
    foreign = [name for name in entries if name not in FILES]
    if CONFIG not in entries or foreign:
        raise PublicationError(
            f"{out}: holds {', '.join((foreign or entries)[:3])}, expected an empty folder or an earlier publication "
            "and nothing besides, because its place is taken by the new one. Give a new folder."
        )
    try:
        earlier = read_publication(out)
    except PublicationError as error:  # somebody else's config.json, or a damaged one of ours
        raise PublicationError(f"{error} It is not written over: give a new folder.") from None
    card = out / CARD
    if card.is_file() and hashlib.sha256(card.read_bytes()).hexdigest() != earlier.description.card:
        raise PublicationError(
            f"{card}: was edited after it was published, expected it as it was written, because the new card takes its "
            "place. Move it away, or give a new folder."
        )


def _write(out: Path, files: dict[str, bytes]) -> None:
    """The files under another name beside `out`, read back, then renamed to it; an earlier publication goes last."""
    out.parent.mkdir(parents=True, exist_ok=True)
    mark = secrets.token_hex(6)
    new, old = (out.parent / f".{out.name}.{mark}.{state}" for state in ("new", "old"))
    new.mkdir()
    try:
        for name, content in files.items():
            with open(new / name, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        load_published(new)
        if out.exists():
            out.rename(old)
        try:
            new.rename(out)
        except BaseException:
            if old.exists():
                old.rename(out)
            raise
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    if old.exists():
        shutil.rmtree(old)
