"""The record of a certificate: bounds along the network, certified radii, and the worst attack beside them."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from sonet.report.audit_record import Count
from sonet.report.environment import Environment
from sonet.report.record import Norm
from sonet.report.schema import Entry, JsonObject

CERTIFICATE_SCHEMA: Literal["sonet.certificate/1"] = "sonet.certificate/1"


class BoundRow(Entry):
    """A layer: product of all Lipschitz constants up to it, and what rounding may have moved by then (l_2)."""

    name: str
    kind: str
    gain: float = Field(ge=0)
    error: float = Field(ge=0)


class BlockRow(Entry):
    """A block by itself; None is not covered. `measured` and `pairs` come from below, the others are bounds."""

    name: str
    kind: str
    kernel_norm: float | None = None
    logarithmic: float | None = None
    flow: float | None = None
    step: float | None = None
    block: float | None = None
    measured: float
    pairs: float
    field: float | None = None
    why: str = ""


class CurvePoint(Entry):
    """Of the images: certified at this radius, and left by the attacks there; `attacked` is None where none was run."""

    eps: float = Field(ge=0)
    certified: Count
    attacked: Count | None = None
    seconds: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.attacked is not None and self.certified.count > self.attacked.count:
            raise ValueError(
                f"expected certified <= attacked, got {self.certified.count} and {self.attacked.count} of "
                f"{self.certified.n} at {self.eps:g}. A certified image that falls disproves the certificate."
            )
        return self


class Certified(Entry):
    """One image: its label, the radius certified (-1: wrong without any change), the nearest attack that fooled it."""

    index: int = Field(ge=0)
    label: int = Field(ge=0)
    radius: float
    fell_at: float | None = None
    fell_to: str = ""

    @model_validator(mode="after")
    def _holds(self) -> Self:
        if self.fell_at is not None and self.fell_at < self.radius:
            raise ValueError(
                f"image {self.index} is certified up to {self.radius:g} and fell at {self.fell_at:g}: "
                "the certificate is wrong."
            )
        return self


class CertificateRecord(Entry):
    """All that `sonet certify` found. gap: the largest Lipschitz constant of a difference of two logits.

    error: by how much rounding may change a computed difference of logits; counted twice in every radius. float64: how
    far differences of logits in float32 are from those in float64, which must be below it.
    """

    schema_: Literal["sonet.certificate/1"] = Field(default=CERTIFICATE_SCHEMA, alias="schema")
    title: str
    summary: str
    model: str
    norm: Norm
    attack: str
    command: str
    data: JsonObject
    settings: JsonObject
    environment: Environment
    natural: Count
    gap: float = Field(ge=0)
    error: float = Field(ge=0)
    float64: float = Field(ge=0)
    layers: list[BoundRow]
    blocks: list[BlockRow]
    curve: list[CurvePoint]
    images: list[Certified]
    seconds: float = Field(ge=0)
