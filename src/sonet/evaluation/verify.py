"""`verify`: saved adversarial images judged again, in other batches and orders; what disagrees is said."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from sonet.attacks import predict
from sonet.attacks.threat import ROUNDING, Threat
from sonet.evaluation.outcome import STANDS, WRONG
from sonet.evaluation.record import ADVERSARIAL, SAMPLES
from sonet.evaluation.setting import Setting
from sonet.evaluation.store import SETTING
from sonet.report import RecordError
from sonet.types import Classifier, Images, Labels


@dataclass(frozen=True)
class Evidence:
    """What an evaluation left: its setting, the adversarial images, and the fate of each."""

    setting: Setting
    adversarial: Images
    labels: Labels
    fell_to: Tensor
    samples: dict[str, Any]

    @property
    def threat(self) -> Threat:
        return Threat(self.setting.norm, self.setting.eps)


def read_evidence(folder: Path) -> Evidence:
    """The evidence in a folder; `RecordError` where a file is missing, cut short or of another kind."""
    try:
        setting = Setting.model_validate_json((folder / SETTING).read_bytes())
        tensors = load((folder / ADVERSARIAL).read_bytes())
        samples = json.loads((folder / SAMPLES).read_bytes())
        return Evidence(setting, tensors["adversarial"], tensors["labels"], tensors["fell_to"], samples)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise RecordError(
            f"{folder}: expected the evidence of an attack ({SETTING}, {ADVERSARIAL}, {SAMPLES}), got {error}. "
            "Give the --out folder of `sonet attack`; run that again if it was cut short."
        ) from None


@dataclass(frozen=True)
class Judgement:
    """One way of judging. disagree: places whose prediction is right here and was fooled in the record, or reversed."""

    how: str
    right: int
    disagree: list[int]


@dataclass(frozen=True)
class Verification:
    """judgements: each way; outside: places of images that left box or budget, or whose label is another one."""

    n: int
    recorded: int
    judgements: list[Judgement]
    outside: list[int]

    @property
    def agrees(self) -> bool:
        return not self.outside and not any(judgement.disagree for judgement in self.judgements)


def verify(classifier: Classifier, images: Images, labels: Labels, evidence: Evidence, batch: int) -> Verification:
    """Judge every saved image in batches of `batch`, of a third, of 7 and of 1, reversed, and shuffled.

    The images that felled a sample must fool in each; those that stand, or were wrong by themselves, must not change
    either. Box and budget are measured against `images`, the clean ones, in the order of the evaluation.
    """
    if evidence.adversarial.shape != images.shape:
        raise RecordError(
            f"the evidence is of images {tuple(evidence.adversarial.shape)}, the data gives {tuple(images.shape)}: "
            "other images than were attacked. Give the data of the evaluation."
        )
    adversarial = evidence.adversarial.to(images.device)
    fell_to, threat = evidence.fell_to.to(images.device), evidence.threat
    beyond = threat.distance(adversarial, images) > threat.eps + ROUNDING * (1 + threat.eps)
    outside = ((adversarial < -ROUNDING) | (adversarial > 1 + ROUNDING)).flatten(1).any(1)
    mislabelled = evidence.labels.to(labels) != labels
    should_be_right = fell_to == STANDS
    recorded = int(should_be_right.sum())
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).to(images.device)
    places = torch.arange(len(images), device=images.device)
    ways = [
        (f"in batches of {batch}, as recorded", places, batch),
        (f"in batches of {max(1, batch // 3)}", places, max(1, batch // 3)),
        ("in batches of 7", places, 7),
        ("one at a time", places, 1),
        ("in reverse order", places.flip(0), batch),
        ("shuffled", order, batch),
    ]
    judgements = []
    for how, arrangement, size in ways:
        predictions = torch.empty_like(labels)
        predictions[arrangement] = predict(classifier, adversarial[arrangement].contiguous(), size)
        right = predictions == labels
        # An image that was wrong without attack is nobody's success or failure.
        disagree = (right != should_be_right) & (fell_to != WRONG)
        judgements.append(Judgement(how, int((right & should_be_right).sum()), disagree.nonzero().flatten().tolist()))
    return Verification(
        n=len(images),
        recorded=recorded,
        judgements=judgements,
        outside=(beyond | outside | mislabelled).nonzero().flatten().tolist(),
    )
