"""Whether a record is of the network that is published, as far as the record can tell."""

from __future__ import annotations

import math
import shlex
from typing import Any

from pydantic import ValidationError

from sonet.models import parse_config
from sonet.publishing.config import WEIGHTS, PublicConfig
from sonet.publishing.errors import PublicationError
from sonet.report import AnyRecord, ModelCard, Record, Row
from sonet.report.planned import Audited

_REMEDY = "Make a record of this network, or publish the run that the record is of."


def check_belongs(record: AnyRecord, config: PublicConfig, where: str) -> None:
    """PublicationError unless `record` is of the network with this config, whose `files` has its weights.

    With checksums in its settings (attack, audit, certify): weights and options must be the same. Without (reproduce):
    options, seed, epochs and seconds of training, and test images.
    """
    files, model = record.settings.get("files"), record.settings.get("model")
    if isinstance(record, Record) and record.models:
        own_part(record, config, where)
        return
    if not isinstance(files, dict) or WEIGHTS not in files:
        raise PublicationError(
            f"{where}: got a record of {model or 'a network'!s}, which tells no {WEIGHTS} of a run; expected one of "
            f"this network's. {_REMEDY}"
        )
    if files != config.run_files and files[WEIGHTS] != config.files[WEIGHTS]:
        raise PublicationError(
            f"{where}: is of another network: its weights have the SHA-256 {str(files[WEIGHTS])[:12]}..., expected "
            f"{config.run_files.get(WEIGHTS, config.files[WEIGHTS])[:12]}... {_REMEDY}"
        )
    if other := _differences(model, config.model):
        raise PublicationError(f"{where}: is of the same weights under other options: {other}. {_REMEDY}")


def own_part(record: Record, config: PublicConfig, where: str) -> Record:
    """The record with the rows, the audits and the command of this network alone; whole where it is of one network.
    Errors: as `check_belongs`."""
    if not record.models:
        return record
    card = _card(record, config, where)

    def mine(entry: Row | Audited) -> bool:
        return (entry.model, entry.seed, entry.objective) == (card.model, card.seed, card.objective)

    parts = {
        "rows": [row for row in record.rows if mine(row)],
        "audits": [one for one in record.audits if mine(one)],
        "command": _only(record.command, f"{card.model}/{card.objective}"),
    }
    return record.model_copy(update=parts)


def _only(command: str, row: str) -> str:
    """A table's command, kept to one row."""
    try:
        words = shlex.split(command)
    except ValueError:  # typed by somebody else than our own commands
        return command
    for place in [i for i, word in enumerate(words) if word == "--only"][::-1]:
        del words[place : place + 2]
    return shlex.join([*words, "--only", row]) if words else ""


def _card(record: Record, config: PublicConfig, where: str) -> ModelCard:
    near = "none with these options and this seed"
    for card in record.models:
        if card.seed != config.training.seed or _differences(card.config, config.model):
            continue
        near = _other_training(record, card.epochs, card.train_seconds, config)
        if not near:
            return card
    said = ", ".join(f"{card.model} of seed {card.seed}" for card in record.models[:4])
    raise PublicationError(
        f"{where}: got a record of {said}{' and others' if len(record.models) > 4 else ''}, expected this "
        f"{config.model_type} of seed {config.training.seed}: {near}. {_REMEDY}"
    )


def _other_training(record: Record, epochs: int, seconds: float, config: PublicConfig) -> str:
    """What tells the training behind a card of `record` from this network's; empty where nothing does."""
    trained = config.trained
    if epochs != trained.epochs or not math.isclose(seconds, trained.seconds, rel_tol=1e-9):
        return (
            f"that network was trained for {epochs} epochs in {seconds:.6g} s, this one for {trained.epochs} in "
            f"{trained.seconds:.6g} s, which is another training"
        )
    images = record.data.get("test_sha256"), config.data.get("test_sha256")
    return "" if images[0] == images[1] else "its test images are others than the run's"


def _differences(theirs: Any, ours: dict[str, Any]) -> str:
    """Names of options that differ, those left out being at their defaults; empty for the same network."""
    try:
        one, other = parse_config(theirs).model_dump(), parse_config(ours).model_dump()
    except ValidationError:
        return "options that this version does not know"
    return ", ".join(key for key in one | other if one.get(key) != other.get(key))
