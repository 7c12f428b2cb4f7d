"""Audits made by code: a full, believable one of a masked network, and one with everything optional missing."""

from __future__ import annotations

import math

import numpy as np
from report_fixture import THREE

from sonet.report import (
    AuditRecord,
    Bar,
    Count,
    Environment,
    Finding,
    Ladder,
    Line,
    Matrix,
    Outcome,
    Picture,
    Stage,
    Surface,
)
from sonet.types import Proportion

SUMMARY = (
    "62 of 100 images stand under PGD on the network's own gradient and fall to other attacks within the same radius. "
    "That gradient follows the solver's step sizes, which the batch shares; with step sizes taken as given the same "
    "attack leaves 0.02."
)
SOURCES = ["own", "frozen steps", "first step, batch 100", "substitute"]


def count(right: int, n: int = 100) -> Count:
    return Count.of(Proportion(right, n))


def minimal_audit(**changes: object) -> AuditRecord:
    values: dict[str, object] = {
        "title": "Audit of a small network",
        "verdict": "inconclusive",
        "summary": "Too few images to say anything.",
        "decisive": [],
        "next_command": "sonet audit run --images 200",
        "threat": "linf, eps 0.1",
        "model": "small",
        "data": {},
        "settings": {},
        "command": "sonet audit run",
        "environment": _environment(),
        "natural": count(5, 5),
        "plain": count(3, 5),
        "worst": count(2, 5),
        "overestimate": count(1, 5),
        "seconds": 1.5,
    }
    return AuditRecord.model_validate({**values, **changes})


def synthetic_audit(**changes: object) -> AuditRecord:
    values: dict[str, object] = {
        "title": "Audit of sonet on digits",
        "verdict": "masked",
        "summary": SUMMARY,
        "decisive": ["plain-and-worst", "step-sizes"],
        "next_command": "sonet attack runs/digits/models/sonet-0.safetensors --attack pgd --gradient frozen --eps 0.2",
        "threat": "linf, eps 0.2",
        "model": "sonet, seed 0",
        "data": {"name": "digits", "n_test": 359, "shape": [1, 8, 8]},
        "settings": {"images": 100, "budget": "10 min", "solver": {"method": "dopri5", "rtol": 0.1}},
        "command": "sonet audit runs/digits/models/sonet-0.safetensors --eps 0.2 --out runs/audit",
        "environment": _environment(),
        "natural": count(99),
        "plain": count(64),
        "worst": count(2),
        "overestimate": count(62),
        "findings": _findings(),
        "stages": _stages(),
        "causes": _causes(),
        "cause": "The step sizes carry it: taken as given, they leave the same attack 0.02.",
        "matrix": Matrix(
            crafted=SOURCES,
            judged=SOURCES,
            left=[[0.64, 0.7, 0.68, 0.9], [0.02, 0.01, 0.02, 0.66], [0.15, 0.16, 0.14, 0.7], [0.5, 0.48, 0.52, 0.0]],
            n=100,
        ),
        "ladders": _ladders(),
        "surface": _surface(),
        "outcomes": [_outcome(i) for i in range(100)],
        "pictures": [_picture(i) for i in (1, 0, 70)],
        "not_run": {"substitute-transfer": "the budget of 10 min was used up", "query-attack": "left out by --quick"},
        "seconds": 541.8,
    }
    return AuditRecord.model_validate({**values, **changes})


def _environment() -> Environment:
    return Environment(
        versions={"python": "3.11.7", "torch": "2.13.0", "sonet": "0.1.0"},
        device="cpu",
        threads=2,
        commit="1a2b3c4",
        platform="Linux-6.1-x86_64",
        created="2025-01-31T12:00:00+00:00",
    )


def _findings() -> list[Finding]:
    wide = {"n": 100, "seconds": 12.5, "passes": 40_000}
    return [
        _finding("same-answer", "answers", "Answers are the same every time", False, "decisive", value=0.0, **wide),
        _finding("batch-mates", "answers", "Answers depend on batch-mates", True, "warning", value=0.03, **wide),
        _finding("finite-difference", "gradient", "Slopes agree with finite differences", True, "warning", value=0.12),
        _finding("zero-gradient", "gradient", "Gradients are exactly zero", False, "warning", value=0.01, **wide),
        _finding("step-sizes", "solver", "The gradient follows the step sizes", True, "decisive", value=0.62, **wide),
        _finding("fixed-steps", "solver", "The same network with fixed steps", None, "note"),
        _finding(
            "plain-and-worst",
            "attack",
            "Plain attacks leave far more than others",
            True,
            "decisive",
            value=0.62,
            low=0.52,
            high=0.71,
            threshold=0.05,
            **wide,
        ),
        _finding("large-radius", "attack", "A large radius leaves nothing", False, "decisive", value=0.0, **wide),
        _finding("more-steps", "attack", "More steps leave less", None, "note"),
    ]


def _finding(name: str, family: str, title: str, raised: bool | None, bears: str, **more: object) -> Finding:
    return Finding.model_validate(
        {
            "name": name,
            "family": family,
            "title": title,
            "raised": raised,
            "bears": bears,
            "measured": f"{title}: measured on the images of this audit."
            if raised is not None
            else "Does not apply: the network takes fixed steps.",
            "unit": "of the images" if "value" in more else "",
            "raised_if": "the share is above the threshold, with its whole interval.",
            "means": "Attacks along this gradient do not go where the loss is higher, and so they fail.",
            "remedy": "Attack with the step sizes taken as given, and quote what is left then.",
            "source": "Athalye et al. 2018, arXiv:1802.00420",
            **more,
        }
    )


def _stages() -> list[Stage]:
    told = [
        ("PGD-20, CE", "differentiated, batch 100", True, 99, 35),
        ("APGD-100, CE", "differentiated, batch 100", True, 64, 0),
        ("PGD-20, CE", "frozen, batch 100", False, 64, 60),
        ("APGD-100, margin", "frozen, batch 100", False, 4, 2),
        ("Square-1000", "none", False, 2, 0),
    ]
    return [
        Stage(
            name=name,
            gradient=gradient,
            plain=plain,
            tried=tried,
            fell=fell,
            standing=tried - fell,
            seconds=3.2 * tried,
            passes=100 * tried,
        )
        for name, gradient, plain, tried, fell in told
    ]


def _causes() -> list[Bar]:
    return [
        Bar(factor="step sizes", setting="taken as given (frozen)", left=count(2), carries=True),
        Bar(factor="nothing", setting="PGD-20, CE, differentiated, 100 images", left=count(64), reference=True),
        Bar(
            factor="batch", setting="one image at a time, so that no image shares its steps with another", left=count(4)
        ),
        Bar(factor="loss", setting="margin in place of cross-entropy", left=count(60), carries=False, note="20 steps"),
    ]


def _ladders() -> list[Ladder]:
    lengths = [10.0**-k for k in range(8, 0, -1)]
    return [
        Ladder(
            name="finite-difference",
            title="Slope against finite difference",
            x_title="length of the difference",
            y_title="agreement",
            x=lengths,
            lines=[
                Line(name="differentiated", y=[None, 0.1, 0.12, 0.11, 0.1, 0.2, 0.15, 0.1]),
                Line(name="frozen", y=[None, 0.4, 0.9, 0.98, 0.99, 0.99, 0.95, 0.8]),
            ],
        ),
        Ladder(
            name="steps",
            title="Accuracy left against steps",
            x_title="steps",
            y_title="accuracy left",
            x=[1, 10, 100],
            lines=[Line(name="PGD, CE", y=[0.9, 0.7, 0.5]), Line(name="PGD, margin", y=[0.6, 0.2, 0.02])],
        ),
    ]


def _surface(size: int = 21) -> Surface:
    places = [2 * i / (size - 1) - 1 for i in range(size)]
    loss = [[1 + math.tanh(3 * a) + 0.3 * math.cos(9 * r) for r in places] for a in places]
    return Surface(
        index=3,
        attack=places,
        random=places,
        loss=loss,
        wrong=[[value > 1.7 for value in line] for line in loss],
    )


def _outcome(index: int) -> Outcome:
    fell_to = "no attack" if index == 70 else "none" if index in (0, 9) else "PGD-20, CE" if index < 37 else "SPSA-20"
    plain_stood = index == 0 or (index >= 38 and index != 70)
    return Outcome(index=index, label="3", predicted="8" if index else "3", fell_to=fell_to, plain_stood=plain_stood)


def _picture(index: int) -> Picture:
    original = np.array([[[0.9 if letter == "#" else 0.05 for letter in line] for line in THREE]])
    noise = np.random.default_rng(index).choice([-0.2, 0.2], size=original.shape)
    return Picture.of(
        original,
        (original + noise).clip(0, 1),
        model="sonet",
        seed=0,
        attack="PGD-20, frozen steps",
        eps=0.2,
        index=index,
        label="3",
        predicted_clean="3",
        predicted_adversarial="8",
    )
