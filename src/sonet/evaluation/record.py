"""An evaluation as a record and as files: what reports read, and every image with its outcome."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save

from sonet.attacks.ensemble import OWN
from sonet.evaluation.outcome import EARLIER, STANDS, WRONG, Evaluation
from sonet.report import Environment, Picture, Record, Row, write, write_whole
from sonet.report.lines import WORST
from sonet.types import Images

ADVERSARIAL, SAMPLES = "adversarial.safetensors", "samples.json"
_STEP_GRADIENTS: dict[str, Literal["frozen", "differentiated"]] = {
    "frozen": "frozen",
    "finer": "frozen",
    "jittered": "frozen",
    "states": "frozen",
    "alone": "differentiated",
}


def make_record(
    evaluation: Evaluation,
    images: Images,
    *,
    title: str,
    model: str,
    seed: int,
    command: str,
    data: dict[str, Any],
    classes: Sequence[str],
    settings: dict[str, Any],
    objective: str = "natural",
    device: str = "cpu",
) -> Record:
    """Rows: natural accuracy, each attack with what stands after it, and the worst case."""
    threat, n = evaluation.threat, evaluation.natural.n
    row = partial(Row.of, model=model, objective=objective, seed=seed)
    rows = [row(evaluation.natural, attack="none", eps=0.0, seconds=0.0)]
    for stage, attempt in enumerate(evaluation.attempts, start=1):
        attack = attempt.member.attack
        name = attempt.member.name
        notes = [f"tried on {int(attempt.tried.sum())} of {n} images"]
        if attempt.member.gradients != OWN:
            notes.append(f"gradients: {attempt.member.gradients}")
        if name in evaluation.unfinished:
            notes.append("cut short by the budget")
        rows.append(
            row(
                type(evaluation.natural)(attempt.standing, n),
                attack=name,
                eps=threat.eps,
                seconds=attempt.seconds,
                steps=getattr(attack, "steps", getattr(attack, "queries", 1)),
                loss=getattr(attack, "loss", None),
                step_gradient=_STEP_GRADIENTS.get(attempt.member.gradients),
                attack_batch=attack.batch_size,
                norm=threat.norm,
                restarts=getattr(attack, "restarts", 1),
                random_start=bool(getattr(attack, "random_start", False)),
                zero_gradients=attempt.zero_gradient_share if attack.needs_gradient else None,
                stage=stage,
                note="; ".join(notes),
            )
        )
    rows.append(
        row(
            evaluation.accuracy,
            attack=WORST,
            eps=threat.eps,
            norm=threat.norm,
            seconds=evaluation.seconds,
            stage=len(evaluation.attempts) + 1,
            note=f"{evaluation.flips} predictions change with the batch they are judged in" if evaluation.flips else "",
        )
    )
    return Record(
        title=title,
        verdict=sentences(evaluation),
        command=command,
        data=data,
        settings=settings,
        environment=Environment.here(device=device),
        rows=rows,
        pictures=_pictures(evaluation, images, classes, model, seed),
        seconds=evaluation.seconds,
        complete=not evaluation.unfinished,
    )


def sentences(evaluation: Evaluation) -> str:
    """What came out, in words that claim no more than was measured."""
    left, natural = evaluation.accuracy, evaluation.natural
    low, high = left.interval
    said = [
        f"{left.count} of {left.n} images stand under every attack at {evaluation.threat}: {left.value:.3f} "
        f"[{low:.3f}, {high:.3f}]; without attack {natural.value:.3f}."
    ]
    before = int((evaluation.fell_to == EARLIER).sum())
    falls = [(int((evaluation.fell_to == i).sum()), a.member.name) for i, a in enumerate(evaluation.attempts)]
    falls = [*falls, (before, "a smaller radius")]
    if any(count for count, _ in falls):
        said.append("Fell to " + ", ".join(f"{name} {count}" for count, name in falls if count) + ".")
    blind = [
        a.member.name for a in evaluation.attempts if a.member.attack.needs_gradient and a.zero_gradient_share > 0.1
    ]
    if blind:
        said.append(f"The gradient was exactly zero on more than a tenth of the images in {', '.join(blind)}.")
    if evaluation.random:
        said.append("The model's answer changes from call to call, so that a single figure means little.")
    if evaluation.flips:
        said.append(
            f"{evaluation.flips} predictions of the adversarial images change when they are judged in batches of "
            f"another size ({evaluation.accuracy_elsewhere.value:.3f} right there)."
        )
    if evaluation.unfinished:
        said.append(f"The budget cut short {', '.join(evaluation.unfinished)}.")
    said.append("An upper bound: a stronger attack may leave less.")
    return " ".join(said)


def samples(evaluation: Evaluation) -> dict[str, Any]:
    """For every image its label, predictions and fate, and for every attack what it did to it; JSON."""
    names = [attempt.member.name for attempt in evaluation.attempts]

    def fate(code: int) -> str:
        known = {EARLIER: "fell at a smaller radius", WRONG: "wrong without attack", STANDS: "stands"}
        return known.get(code) or names[code]

    return {
        "schema": "sonet.samples/1",
        "labels": evaluation.labels.tolist(),
        "clean": evaluation.clean.tolist(),
        "together": evaluation.together.tolist(),
        "elsewhere": evaluation.elsewhere.tolist(),
        "fell_to": [fate(code) for code in evaluation.fell_to.tolist()],
        "attacks": {
            attempt.member.name: {
                "setting": attempt.member.attack.model_dump(mode="json"),
                "gradients": attempt.member.gradients,
                "tried": attempt.tried.tolist(),
                "fooled": attempt.fooled.tolist(),
                "distance": _finite(attempt.distance),
                "minimum": _finite(attempt.minimum),
                "final_loss": _finite(attempt.final_loss),
                "queries": attempt.queries.tolist(),
                "zero_gradients": attempt.zero_gradients.tolist(),
            }
            for attempt in evaluation.attempts
        },
    }


def write_evaluation(evaluation: Evaluation, record: Record, folder: Path) -> None:
    """adversarial.safetensors, samples.json, record.json and report.html, each whole; the record last but one."""
    tensors = {
        "adversarial": evaluation.adversarial.cpu().contiguous(),
        "labels": evaluation.labels.cpu().contiguous(),
        "fell_to": evaluation.fell_to.cpu().contiguous(),
    }
    write_whole(folder / ADVERSARIAL, save(tensors))
    write_whole(folder / SAMPLES, json.dumps(samples(evaluation)))
    write(record, folder)
    from sonet.report import render  # the drawing library is slow to import

    write_whole(folder / "report.html", render(record))


def _finite(values: torch.Tensor) -> list[float | None]:
    return [value if abs(value) < float("inf") else None for value in values.double().tolist()]


def _pictures(evaluation: Evaluation, images: Images, classes: Sequence[str], model: str, seed: int) -> list[Picture]:
    chosen = (evaluation.fell_to >= 0).nonzero().squeeze(1)[:4].tolist()

    def name(prediction: int) -> str:
        return classes[prediction] if prediction >= 0 else "not finite"

    return [
        Picture.of(
            images[i].cpu(),
            evaluation.adversarial[i].cpu(),
            model=model,
            seed=seed,
            attack=evaluation.attempts[int(evaluation.fell_to[i])].member.name,
            eps=evaluation.threat.eps,
            index=i,
            label=classes[int(evaluation.labels[i])],
            predicted_clean=name(int(evaluation.clean[i])),
            predicted_adversarial=name(int(evaluation.together[i])),
        )
        for i in chosen
        if images.shape[1] in (1, 3)
    ]
