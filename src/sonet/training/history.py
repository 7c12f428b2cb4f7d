"""The history of a training: an epoch in numbers, and which epoch's weights were kept."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class EpochReport(BaseModel):
    """One epoch in numbers: mean training loss, accuracies in [0, 1], mean evaluations of fields per sample.

    loss: with the terms that the config adds. train_accuracy: at the images as the objective counts them, attacked ones
    with "madry" and "fast". test_accuracy: of the weights to be deployed, averaged ones where the config averages.
    evaluations: of the passes learned from, two with "trades", three with "fast" and `alignment`; crafting is not
    counted. Several processes report together.

    clipped: share of the steps whose gradient was longer than `clip`. skipped: steps that fp16 left out. kinetic: mean
    kinetic energy. nfe: mean evaluations per sample and pass; over_budget: they were above `nfe_budget`. watched_step,
    watched_pgd: of "fast", accuracies at the watched images, attacked by its step and by PGD. kept: where training
    stopped before its time, the epoch whose weights were kept.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: int
    loss: float
    train_accuracy: float
    test_accuracy: float | None
    evaluations: float
    learning_rate: float
    seconds: float
    clipped: float | None = None
    skipped: int = 0
    kinetic: float | None = None
    nfe: float = 0.0
    over_budget: bool = False
    watched_step: float | None = None
    watched_pgd: float | None = None
    kept: int | None = None


History = tuple[EpochReport, ...]


def deployed(history: History) -> EpochReport:
    """The epoch whose weights the network has: the last, or the one kept where training stopped before its time.

    Errors: ValueError for a history without epochs.
    """
    if not history:
        raise ValueError("got a history without epochs, expected one at least: nothing was trained. Train first.")
    last = history[-1]
    return last if last.kept is None else history[last.kept - 1]
