"""A publication read and checked, and the network that it is of. JSON and safetensors; nothing is unpickled."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from sonet import __version__
from sonet.errors import explain
from sonet.models import MODELS, build, parse_config
from sonet.publishing.config import CONFIG, SCHEMA, WEIGHTS, PublicConfig, digest
from sonet.publishing.errors import PublicationError
from sonet.publishing.place import PICKLE, find_publication

_SHOWN = 3


@dataclass(frozen=True)
class Publication:
    """config.json and the weights by name. `description` answers to the names that a checkpoint's does."""

    path: Path
    description: PublicConfig
    weights: dict[str, Tensor]


def load_published(path: Path | str) -> nn.Module:
    """The network of a publication, in eval mode, its weights frozen; see `find_publication` for what may be named.

    Errors: PublicationError where there is none, or where its files are missing, damaged, changed, of an unknown
    network or version, or do not fit each other.
    """
    return restore_published(read_publication(path))


def read_publication(path: Path | str) -> Publication:
    """The files of a publication, checked against their checksums. Errors: as `load_published`."""
    folder = find_publication(path)
    if folder is None:
        raise PublicationError(
            f"{path}: expected a folder with {CONFIG} and {WEIGHTS}, found none. Give the folder that `sonet publish` "
            "wrote, or hf://ORG/NAME for one of the Hugging Face hub."
        )
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            pickled = (folder / PICKLE).is_file() and name == WEIGHTS
            raise PublicationError(
                f"{folder}: expected {name}, got {f'{PICKLE} alone' if pickled else 'no such file'}. "
                + (
                    "That is a pickle, which can run any code when it is read, and is not read here; ask for "
                    "safetensors, or publish the run with `sonet publish`."
                    if pickled
                    else "Download the whole folder again, or publish the run with `sonet publish`."
                )
            )
    description = _described(folder / CONFIG)
    raw = (folder / WEIGHTS).read_bytes()
    if hashlib.sha256(raw).hexdigest() != description.files.get(WEIGHTS):
        raise PublicationError(
            f"{folder / WEIGHTS}: its SHA-256 is not the one in {CONFIG}, expected the weights that were published. "
            "The file was cut off or changed; download it again, or publish the run again."
        )
    try:
        return Publication(folder, description, load(raw))
    except SafetensorError as error:
        raise PublicationError(
            f"{folder / WEIGHTS}: got no safetensors file ({error}), expected one. Publish the run again."
        ) from None


def restore_published(publication: Publication) -> nn.Module:
    """The network with the publication's weights, in eval mode and frozen. Errors: PublicationError if they misfit."""
    model = build(parse_config(publication.description.model))
    own, given = model.state_dict(), publication.weights
    if misfit := _misfit(own, given):
        raise PublicationError(
            f"{publication.path / WEIGHTS}: expected the {len(own)} tensors of {publication.description.model_type}, "
            f"got {len(given)}: {misfit}. {CONFIG} describes another network than the one these weights are of; "
            "publish the run again."
        )
    model.load_state_dict(given)
    return model.eval().requires_grad_(False)


def _described(file: Path) -> PublicConfig:
    try:
        content: Any = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise PublicationError(
            f"{file}: expected JSON, got what does not parse ({error}); it may be cut off. Download it again."
        ) from None
    found = content.get("schema") if isinstance(content, dict) else None
    if found != SCHEMA:
        raise PublicationError(f"{file}: {_other_schema(found, content)}")
    if content.get("digest") != digest(content):
        raise PublicationError(
            f"{file}: its digest is not that of its content, expected it as it was published. It was edited, and the "
            "card's figures are of the network as it was; take an undamaged copy, or publish the run again."
        )
    writer = str(content.get("sonet_version"))
    newer = f" It was written by sonet {writer}, and this is {__version__}: upgrade." if _newer(writer) else ""
    kind = content.get("model_type")
    if kind not in MODELS:
        raise PublicationError(
            f"{file}: got the network {kind!r}, expected one of {', '.join(MODELS)}.{newer or ' Publish it again.'}"
        )
    try:
        config = PublicConfig.model_validate(content)
        parse_config(config.model)
    except ValidationError as error:
        raise PublicationError(
            f"{file}: does not fit {SCHEMA}: {explain(error)}.{newer or ' Publish the run again.'}"
        ) from None
    return config


def _other_schema(found: object, content: Any) -> str:
    said = f'got schema {json.dumps(found)}, expected "{SCHEMA}". '
    if isinstance(found, str) and found.startswith(SCHEMA.partition("/")[0] + "/"):
        return said + f"sonet {content.get('sonet_version')} wrote it and this is {__version__}; use that version."
    return said + "It is of another library; only folders that `sonet publish` wrote can be read."


def _newer(version: str) -> bool:
    """Whether a version is later than this one, by its numbers."""
    theirs, ours = ([int(part) for part in re.findall(r"\d+", text)] for text in (version, __version__))
    return theirs > ours


def _misfit(own: dict[str, Tensor], given: dict[str, Tensor]) -> str:
    """How names, shapes and types differ; empty where they do not."""

    def look(tensor: Tensor) -> str:
        return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"

    parts = {
        "missing": [f"{name} {look(own[name])}" for name in own if name not in given],
        "unexpected": [f"{name} {look(given[name])}" for name in given if name not in own],
        "other": [
            f"{name} got {look(given[name])}, expected {look(own[name])}"
            for name in own
            if name in given and look(given[name]) != look(own[name])
        ],
    }
    return "; ".join(
        f"{what}: {', '.join(names[:_SHOWN])}" + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        for what, names in parts.items()
        if names
    )
