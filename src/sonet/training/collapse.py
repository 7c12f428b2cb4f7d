"""Catastrophic overfitting: a network that withstands the one step it is trained against, and that step alone."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from sonet.attacks import PGD, Attack, Threat, predict
from sonet.data import Split
from sonet.training.config import TrainConfig
from sonet.training.crafting import as_deployed, craft
from sonet.training.history import EpochReport, History

WATCHED, COLLAPSE, STEPS = 200, 0.2, 10


@dataclass(frozen=True)
class Watch:
    r"""Accuracy at fixed training images under the step that is trained against, and under PGD of 10 steps of eps / 4.

    Collapsed: that under PGD is more than `collapse` below its best so far, that at the one-step images is not. The
    measure of Wong et al. 2020 (arXiv:2001.03994), whose code stops at a fall by 0.2 from one epoch to the next.
    """

    split: Split
    threat: Threat
    step: Attack
    collapse: float
    batch_size: int
    seed: int

    @classmethod
    def of(cls, config: TrainConfig, train: Split, threat: Threat, step: Attack) -> Watch:
        """The first `watched` images of `train`, all of them where there are fewer."""
        return cls(
            split=train.take(min(len(train), WATCHED if config.watched is None else config.watched)),
            threat=threat,
            step=step,
            collapse=COLLAPSE if config.collapse is None else config.collapse,
            batch_size=config.batch_size,
            seed=config.seed,
        )

    def judge(self, model: nn.Module) -> tuple[float, float]:
        """Accuracies in [0, 1]: at the one-step images, under PGD. The network is left as it was found."""
        pgd = PGD(steps=STEPS, step_size=self.threat.eps / 4, random_start=True, keep="last")
        with as_deployed(model):
            return self._accuracy(model, self.step), self._accuracy(model, pgd)

    def collapsed(self, history: History) -> bool:
        """Whether the last epoch of `history` lost what an earlier one had."""
        last = history[-1]
        steps = [report.watched_step for report in history if report.watched_step is not None]
        assert last.watched_pgd is not None
        fell = best(history).watched_pgd - last.watched_pgd > self.collapse  # type: ignore[operator]
        return fell and max(steps) - steps[-1] <= self.collapse

    def _accuracy(self, model: nn.Module, attack: Attack) -> float:
        device = next(model.parameters()).device
        right = 0
        for images, labels in self.split.batches(self.batch_size):
            hard = craft(model, attack, images.to(device), labels.to(device), self.threat, self.seed)
            right += int((predict(model, hard, self.batch_size).cpu() == labels).sum())
        return right / len(self.split)


def best(history: History) -> EpochReport:
    """The epoch of the largest accuracy under PGD, the last of equals."""
    return max(reversed(history), key=lambda report: -1.0 if report.watched_pgd is None else report.watched_pgd)
