"""A sound model with its images and labels, what preflight says of others, and remedies as they are told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sonet.audit.planted import SHAPE, Linear
from sonet.audit.preflight import CannotAudit, Preflight, preflight, require
from sonet.types import Classifier

N = 24
X = torch.rand(N, *SHAPE, generator=torch.Generator().manual_seed(0))
GOOD = Linear.random(3, seed=1)
Y = GOOD(X).argmax(1)


def look(classifier: Any, images: Tensor = X, labels: Tensor = Y, batch: int = 8) -> Preflight:
    return preflight(classifier, images, labels, batch=batch)


def only_blocker(found: Preflight) -> str:
    assert len(found.blockers) == 1, found.blockers
    with pytest.raises(CannotAudit):
        require(found)
    return found.blockers[0]


def only_note(found: Preflight) -> str:
    assert found.blockers == ()
    assert len(found.notes) == 1, found.notes
    return found.notes[0]


def from_sentence(sentence: str, model: Callable[..., Any]) -> Classifier:
    """What the sentence tells to write, run."""
    names: dict[str, Any] = {"model": model, "torch": torch}
    exec(sentence.split("`")[1], names)
    wrapped: Classifier = names["wrapped"]
    return wrapped
