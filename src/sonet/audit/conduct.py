"""Proofs of conduct: what an attack must reveal, bear or refuse."""

from __future__ import annotations

import torch

from sonet.attacks import AttackError, Threat, ThreatError
from sonet.attacks.threat import ROUNDING
from sonet.audit.allowance import debt
from sonet.audit.planted import Coupled, LeftInTraining, NaNNear, Noisy, mirrored
from sonet.audit.proof import Bench, Proof, number
from sonet.audit.radii import same

TOGETHER = 12
"""Images of the cases about batches: judged again in batches of four."""


def noise(bench: Bench) -> Proof:
    """Logits that are mostly noise: of 12 predictions in 10 classes all stay with probability 1e-12."""
    scene = bench.scene(10)
    images, labels = scene.images[:TOGETHER], scene.labels[:TOGETHER]
    result = bench.run(Noisy(scene.model, 100.0, bench.seed), images, labels, 0.05)
    return _flips(bench, "noisy logits", result.flips)


def coupling(bench: Bench) -> Proof:
    """Judged in fours, bright images are all of one class and dark ones of the other; together they are not."""
    model = bench.scene(2).model
    images = mirrored(model, TOGETHER, bench.seed + 2)
    result = bench.run(Coupled(model), images, model(images).argmax(1), 0.01)
    return _flips(bench, "coupled batch", result.flips)


def _flips(bench: Bench, case: str, flips: int) -> Proof:
    return bench.prove(
        case,
        "judging again in other batches shows it: flips > 0",
        f"{flips} flips",
        {"predictions that cannot be trusted were not revealed": flips == 0},
    )


def nan_sample(bench: Bench) -> Proof:
    """One of the images has NaN logits; pixels are 0 or 1, so that no other image comes near it."""
    scene = bench.scene(2, corners=True)
    owed = debt(bench.attack, scene, bench.norm)
    images, labels, radii = scene.alike(owed.radius, bench.images, owed.among)
    eps = float(radii.max()) * (1 + owed.tolerance)
    plain = bench.run(scene.model, images, labels, eps)
    spoilt = bench.run(NaNNear(scene.model, images[0], 0.4), images, labels, eps)
    return bench.prove(
        "one NaN sample",
        "it counts as fooled, the others are as without it",
        number(spoilt.fooled),
        {
            "the sample without an answer does not count as fooled": not bool(spoilt.fooled[0])
            or int(spoilt.clean[0]) != -1,
            "other samples' verdicts changed": not torch.equal(spoilt.fooled[1:], plain.fooled[1:]),
            "other samples' images changed": not same(spoilt.adversarial[1:], plain.adversarial[1:]),
        },
    )


def unfit(bench: Bench) -> Proof:
    """Each is refused with an `AttackError` or a `ThreatError` before any work."""
    scene = bench.scene(2)
    model, images, labels = scene.model, scene.images[:3], scene.labels[:3]
    nan, outside = images.clone(), images.clone()
    nan[1, 0, 0, 0], outside[1, 0, 0, 0] = torch.nan, 1.1
    inputs = {
        "a model in train mode": (LeftInTraining(model), images, labels, 0.1),
        "a label of no class": (model, images, labels + 2, 0.1),
        "a negative label": (model, images, labels - 2, 0.1),
        "a NaN pixel": (model, nan, labels, 0.1),
        "a pixel outside [0, 1]": (model, outside, labels, 0.1),
        "eps < 0": (model, images, labels, -0.1),
    }
    faults = {}
    for what, (classifier, given, named, eps) in inputs.items():
        try:
            bench.attack.run(classifier, given, named, Threat(bench.norm, eps))
            faults[f"{what} was accepted"] = True
        except (AttackError, ThreatError) as error:
            faults[f"{what} was refused without a word"] = not str(error)
        except Exception as error:  # any other is what this case is about
            faults[f"{what} ended in {type(error).__name__}: {error}"] = True
    wrong = sum(faults.values())
    return bench.prove("unfit input", "refused with a reason", f"{len(faults) - wrong}/{len(faults)} refused", faults)


def limits(bench: Bench) -> Proof:
    """The worst of all cases before: this one comes last."""
    return bench.prove(
        "box and budget",
        f"kept to {ROUNDING:g} in every case",
        f"{bench.beyond:.0e}",
        {"an image left the box or its budget": bench.beyond > ROUNDING},
    )
