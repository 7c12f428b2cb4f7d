"""config.json of a publication: the network, its inputs and labels, its training, and checksums."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from sonet import __version__
from sonet.data import IDENTITY
from sonet.publishing.labels import class_names, named
from sonet.training import Checkpoint, TrainConfig, deployed

SCHEMA: Literal["sonet.publication/1"] = "sonet.publication/1"
"""Name and version of the format; a change that old readers would misread gets a new number."""
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
_PUBLIC = ("name", "title", "official", "split_rule", *IDENTITY)
"""Of the description of the data what is the same on every machine."""


class _Part(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True, protected_namespaces=()
    )


class Trained(_Part):
    """Epochs done and their seconds; loss and accuracies in [0, 1] of the one whose weights these are."""

    epochs: int = Field(ge=0)
    seconds: float = Field(ge=0)
    loss: float | None
    train_accuracy: float | None = Field(ge=0, le=1)
    test_accuracy: float | None = Field(ge=0, le=1)


class PublicConfig(_Part):
    """What config.json says. architectures, model_type: class and registry name of the network, as hub tools read them.

    model: the registry's options, its solver among them. input_shape: (C, H, W); H and W are None where the run does
    not say. run_files: SHA-256 of the run's files, by which records of the run are known. files: SHA-256 of the
    weights; card: of README.md as written. digest: SHA-256 of all the rest, see `digest`.
    """

    format: Literal["sonet.publication/1"] = Field(default=SCHEMA, alias="schema")
    library_name: Literal["sonet"] = "sonet"
    sonet_version: str = __version__
    architectures: tuple[str]
    model_type: str
    model: dict[str, Any]
    input_shape: tuple[PositiveInt, PositiveInt | None, PositiveInt | None]
    id2label: dict[str, str]
    label2id: dict[str, int]
    data: dict[str, Any]
    training: TrainConfig
    trained: Trained
    run_files: dict[str, str]
    files: dict[str, str]
    card: str
    digest: str = ""

    @model_validator(mode="after")
    def _one_story(self) -> Self:
        """What is said twice, for hub tools, must be said alike."""
        if self.model_type != self.model.get("kind"):
            raise ValueError(f"model_type is {self.model_type!r} and model.kind {self.model.get('kind')!r}")
        if [str(number) for number in range(len(self.id2label))] != list(self.id2label):
            raise ValueError(f"id2label numbers classes {list(self.id2label)[:5]}, expected 0, 1, 2 and so on")
        if {name: int(number) for number, name in self.id2label.items()} != self.label2id:
            raise ValueError("id2label and label2id do not name the same classes")
        if len(self.id2label) != self.model.get("classes"):
            raise ValueError(f"got {len(self.id2label)} labels for a network of {self.model.get('classes')} classes")
        if self.input_shape[0] != self.model.get("in_channels"):
            raise ValueError(
                f"input_shape has {self.input_shape[0]} channels, the network {self.model.get('in_channels')}"
            )
        return self

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.id2label.values())

    def text(self) -> str:
        """config.json, with its digest."""
        content = self.model_dump(mode="json", by_alias=True)
        return json.dumps(content | {"digest": digest(content)}, indent=1, ensure_ascii=False) + "\n"


def digest(content: dict[str, Any]) -> str:
    """SHA-256 of the content without its own digest: JSON with sorted keys, no spaces, UTF-8."""
    rest = {key: value for key, value in content.items() if key != "digest"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def describe(checkpoint: Checkpoint, architecture: str) -> PublicConfig:
    """What is made public of a checkpoint; weights and card, and so their checksums, come later.

    Of the data no path: only what is the same on every machine.
    """
    said = checkpoint.description
    last = deployed(said.history) if said.history else None
    names = class_names(said.data, said.model["classes"])
    load = named(said.data)
    shape = said.data.get("shape") or [said.model["in_channels"], *said.model.get("image_size", (None, None))]
    data = {key: said.data[key] for key in _PUBLIC if key in said.data}
    if load is not None:
        data |= {"load": load, "source": said.data.get("source", "")}
    return PublicConfig(
        architectures=(architecture,),
        model_type=said.model["kind"],
        model=said.model,
        input_shape=tuple(shape),
        id2label={str(number): name for number, name in enumerate(names)},
        label2id={name: number for number, name in enumerate(names)},
        data=data,
        training=said.training,
        trained=Trained(
            epochs=said.epoch,
            seconds=sum(epoch.seconds for epoch in said.history),
            loss=last.loss if last else None,
            train_accuracy=last.train_accuracy if last else None,
            test_accuracy=last.test_accuracy if last else None,
        ),
        run_files=said.files,
        files={},
        card="",
    )
