"""An evaluation as `sonet attack` prints it: for programs and for people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sonet.evaluation import Evaluation


def as_answer(
    found: Evaluation,
    run: Path,
    name: str,
    given: dict[str, Any],
    gradients: str,
    batch_size: int,
    seed: int,
    folder: Path | None,
) -> dict[str, Any]:
    """What --json prints."""
    low, high = found.accuracy.interval
    return {
        "run": str(run),
        "attack": name,
        "threat": str(found.threat),
        **given,
        "gradients": gradients,
        "attack_batch": batch_size,
        "n": found.accuracy.n,
        "natural": found.natural.value,
        "accuracy": found.accuracy.value,
        "low": low,
        "high": high,
        "accuracy_elsewhere": found.accuracy_elsewhere.value,
        "flips": found.flips,
        "coupled": found.coupled,
        "random": found.random,
        "queries": found.queries,
        "seconds": found.seconds,
        "seed": seed,
        "out": str(folder) if folder else None,
        "unfinished": list(found.unfinished),
        "attacks": [
            {
                "name": attempt.member.name,
                "gradients": attempt.member.gradients,
                "settings": attempt.member.attack.model_dump(mode="json"),
                "tried": int(attempt.tried.sum()),
                "fell": int((found.fell_to == number).sum()),
                "standing": attempt.standing,
                "queries": int(attempt.queries.sum()),
                "zero_gradient_share": attempt.zero_gradient_share,
                "seconds": attempt.seconds,
            }
            for number, attempt in enumerate(found.attempts)
        ],
    }


def as_words(found: Evaluation, name: str, folder: Path | None, ensemble: bool) -> str:
    """What is printed for people."""
    from sonet.evaluation import duration, sentences

    lines = [f"{name}, {found.threat}: {sentences(found)} ({found.queries} queries, {duration(found.seconds)})"]
    if ensemble:
        lines += ["", f"{'attack':<16}{'tried':>7}{'fell':>6}{'stand':>7}{'queries':>11}{'seconds':>9}"]
        for number, attempt in enumerate(found.attempts):
            fell = int((found.fell_to == number).sum())
            lines.append(
                f"{attempt.member.name:<16}{int(attempt.tried.sum()):>7}{fell:>6}{attempt.standing:>7}"
                f"{int(attempt.queries.sum()):>11}{attempt.seconds:>9.1f}"
            )
    for attempt in found.attempts:
        if attempt.zero_gradient_share and attempt.member.attack.needs_gradient:
            lines.append(
                f"{attempt.member.name}: {attempt.zero_gradient_share:.1%} of the images had a gradient of exactly "
                "zero at some step: try --set loss=margin, and --attack square, which needs no gradient."
            )
    if folder is not None:
        lines += ["", f"Wrote {folder / 'record.json'} and {folder / 'report.html'}. Next: sonet verify {folder}"]
    return "\n".join(lines)
