"""Whole audits of small models, and what is compared of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sonet.attacks import Linf, Threat
from sonet.audit import Audit, Effort, audit
from sonet.audit.planted import Linear
from sonet.report.audit_record import AuditRecord

TINY = Effort(
    level="quick", images=24, steps=12, targets=2, queries=60, estimates=3, calls=3, probes=2, subset=8, restarts=1
)
X = 0.3 + 0.4 * torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(0))
TWO, THREE = Linear.random(2, 0), Linear.random(3, 1)
EPS = float(THREE.distance(X, THREE(X).argmax(1), "linf").median())
TWO_EPS = float(TWO.distance(X, TWO(X).argmax(1), "linf").median())


def audited(
    model: Any, images: Tensor = X, labels: Tensor | None = None, threat: Threat | None = None, **more: Any
) -> Audit:
    if labels is None:
        with torch.no_grad():
            labels = model(images).argmax(1)
    return audit(model, (images, labels), threat or Linf(EPS), **({"effort": TINY} | more))


def timeless(record: AuditRecord) -> dict[str, Any]:
    """Without when it was made, and what time it took."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(item) for key, item in value.items() if key not in ("seconds", "environment")}
        return [strip(item) for item in value] if isinstance(value, list) else value

    stripped: dict[str, Any] = strip(record.model_dump())
    return stripped


def findings(found: Audit) -> dict[str, Any]:
    return {each.name: each for each in found.record.findings}
