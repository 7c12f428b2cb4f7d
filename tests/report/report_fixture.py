"""A believable record: three networks, two seeds, three radii; invented numbers in the shape of what was measured."""

from __future__ import annotations

import random

import numpy as np

from sonet.report import Environment, Leak, ModelCard, Picture, Record, Row, StepHistogram
from sonet.types import Proportion

MODELS = ("resnet10", "soblock-resnet10", "sonet")
RADII = (0.05, 0.1, 0.2)
VERDICT = (
    "The accuracy that PGD leaves sonet and soblock-resnet10 is a masked gradient, not strength: at eps 0.2 PGD-20 on "
    "cross-entropy leaves sonet 0.64 when 100 images are attacked together and the gradient follows the solver's step "
    "sizes, and 0.01 when the same attack takes the step sizes as given. Only the gradient differs between the two."
)
LEFT = {  # accuracy left at eps 0.2; smaller radii leave more
    ("pgd", 20, "ce", "differentiated", 100): 0.64,
    ("pgd", 60, "ce", "differentiated", 100): 0.48,
    ("pgd", 200, "ce", "differentiated", 100): 0.30,
    ("pgd", 20, "ce", "differentiated", 10): 0.61,
    ("pgd", 20, "ce", "differentiated", 1): 0.04,
    ("pgd", 20, "ce", "first", 100): 0.15,
    ("pgd", 20, "ce", "first", 10): 0.12,
    ("pgd", 20, "ce", "first", 1): 0.03,
    ("pgd", 20, "ce", "frozen", 100): 0.01,
    ("pgd", 20, "ce", "frozen", 10): 0.01,
    ("pgd", 20, "ce", "frozen", 1): 0.01,
    ("pgd", 20, "margin", "differentiated", 100): 0.03,
    ("spsa", 20, "margin", None, 1): 0.05,
}
PLAIN = {
    ("pgd", 20, "ce", None, 100): 0.03,
    ("pgd", 200, "ce", None, 100): 0.02,
    ("pgd", 20, "margin", None, 100): 0.02,
    ("spsa", 20, "margin", None, 1): 0.06,
}
THREE = ("........", "..####..", ".....#..", "...##...", ".....#..", ".....#..", "..####..", "........")


def synthetic_record(seeds: int = 2, complete: bool = True) -> Record:
    return Record(
        title="Digits: is it strength or a masked gradient?",
        verdict=VERDICT,
        command="sonet reproduce digits --seeds 2 --out runs/digits",
        data={
            "name": "digits",
            "source": "scikit-learn, load_digits()",
            "split_rule": "every fifth image is a test image",
            "n_train": 1438,
            "n_test": 359,
            "shape": [1, 8, 8],
            "num_classes": 10,
            "test_sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        },
        settings={"rtol": 0.1, "atol": 0.1, "method": "dopri5", "scope": "batch", "radii": RADII, "images": 100},
        environment=Environment(
            versions={"python": "3.11.7", "torch": "2.13.0", "numpy": "2.2.0", "sonet": "0.1.0"},
            device="cpu",
            threads=2,
            commit="1a2b3c4",
            platform="Linux-6.1-x86_64",
            created="2025-01-31T12:00:00+00:00",
        ),
        models=[_card(model, seed) for model in MODELS for seed in range(seeds)],
        rows=[row for model in MODELS for seed in range(seeds) for row in _rows(model, seed)],
        steps=[histogram for model in MODELS[1:] for seed in range(seeds) for histogram in _steps(model, seed)],
        leaks=[leak for model in MODELS[1:] for seed in range(seeds) for leak in _leaks(model, seed)],
        pictures=[_picture(model, seed) for model in MODELS for seed in range(seeds)],
        seconds=754.2,
        complete=complete,
    )


def _card(model: str, seed: int) -> ModelCard:
    return ModelCard(
        model=model,
        seed=seed,
        parameters=34_122,
        epochs=12,
        train_seconds=41.5,
        config={"kind": model, "channels": 16, "strides": [1, 2, 2]},
        solver=None if model == "resnet10" else {"method": "dopri5", "rtol": 0.1, "scope": "batch", "end": "dense"},
        natural=0.989,
    )


def _rows(model: str, seed: int) -> list[Row]:
    rows = [Row.of(Proportion(355 - seed, 359), model=model, seed=seed, attack="none", eps=0.0, seconds=0.2)]
    for (attack, steps, loss, gradient, batch), left in (PLAIN if model == "resnet10" else LEFT).items():
        for eps in RADII:
            n = 30 if attack == "spsa" else 60 if batch == 1 else 100
            share = left ** (eps / 0.2) if model != "soblock-resnet10" else (0.9 * left) ** (eps / 0.2)
            count = max(0, min(n, round(n * share) + (-2 if seed % 2 else 2) * (0 < share < 0.98)))
            row = Row.of(
                Proportion(count, n),
                model=model,
                seed=seed,
                attack=attack,
                steps=steps,
                loss=loss,
                step_gradient=gradient,
                attack_batch=batch,
                norm="linf",
                eps=eps,
                step_size=eps / 8,
                keep="last",
                seconds=3.0,
                zero_gradients=0.12 if gradient == "differentiated" else 0.0 if attack == "pgd" else None,
                reported=0.67 if (attack, gradient, steps, eps, model) == LEAD else None,
                note="64 perturbations a step" if attack == "spsa" else "",
            )
            rows.append(row)
    return rows


LEAD = ("pgd", "differentiated", 60, 0.2, "sonet")


def _steps(model: str, seed: int) -> list[StepHistogram]:
    blocks = ["first layer"] if model.startswith("soblock") else ["block 1", "block 2", "block 3", "head"]
    draw = random.Random(seed)
    histograms = []
    for i, block in enumerate(blocks):
        taken = [max(1, round(draw.gauss(2.5 + i, 0.8))) for _ in range(100)]
        accepted = {steps: taken.count(steps) for steps in sorted(set(taken))}
        histograms.append(
            StepHistogram(
                model=model, seed=seed, block=block, accepted=accepted, mean_evaluations=6 * sum(taken) / len(taken) + 2
            )
        )
    return histograms


def _leaks(model: str, seed: int) -> list[Leak]:
    draw = random.Random(seed)
    leaks = []
    for batch, exponent in ((100, -1.7), (10, -0.8), (1, None)):
        shares = [1.0 if exponent is None else min(1.0, 10 ** draw.gauss(exponent, 0.6)) for _ in range(100)]
        leaks.append(Leak(model=model, seed=seed, attack_batch=batch, step_gradient="differentiated", shares=shares))
    return leaks


def _picture(model: str, seed: int) -> Picture:
    original = np.array([[[0.9 if letter == "#" else 0.05 for letter in line] for line in THREE]])
    noise = np.random.default_rng(seed).choice([-0.2, 0.2], size=original.shape)
    return Picture.of(
        original,
        (original + noise).clip(0, 1),
        model=model,
        seed=seed,
        attack="PGD-20, frozen steps",
        eps=0.2,
        index=17 + seed,
        label="3",
        predicted_clean="3",
        predicted_adversarial="8",
    )
