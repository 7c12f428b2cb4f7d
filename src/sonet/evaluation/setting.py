"""What an evaluation was asked to do: enough to know the same work again, and to repeat it."""

from __future__ import annotations

import hashlib
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from sonet.attacks.ensemble import Member
from sonet.attacks.threat import Norm, Threat
from sonet.types import Images, Labels


class Setting(BaseModel):
    """The content of setting.json. images_sha256: of the attacked images and labels. about: model, data, versions."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)

    schema_: Literal["sonet.evaluation/1"] = Field(default="sonet.evaluation/1", alias="schema")
    norm: Norm
    eps: float
    members: list[dict[str, Any]]
    judge_batch: int
    n: int
    images_sha256: str
    budget: float | None
    about: dict[str, Any]

    @classmethod
    def of(
        cls,
        threat: Threat,
        members: tuple[Member, ...],
        judge_batch: int,
        images: Images,
        labels: Labels,
        budget: float | None,
        about: dict[str, Any],
    ) -> Self:
        digest = hashlib.sha256(images.detach().cpu().numpy().tobytes())
        digest.update(labels.cpu().numpy().tobytes())
        return cls(
            norm=threat.norm,
            eps=threat.eps,
            members=[
                {"name": m.name, "gradients": m.gradients, "kind": type(m.attack).__name__} | m.attack.model_dump()
                for m in members
            ],
            judge_batch=judge_batch,
            n=len(images),
            images_sha256=digest.hexdigest(),
            budget=budget,
            about=about,
        )
