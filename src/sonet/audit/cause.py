"""Why it is masked: the plain attack with one factor changed at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from sonet.attacks import PGD, Square
from sonet.attacks.attack import Attack
from sonet.attacks.gradients import Backpropagation, GradientSource
from sonet.attacks.result import predict
from sonet.audit.check import first_line
from sonet.audit.overestimate import OVERESTIMATE
from sonet.audit.siege import half_steps, one_by_one, plain_pgd, smoothed, without_batch
from sonet.audit.sources import LogOfProbabilities, Mean
from sonet.audit.subject import Subject
from sonet.report.audit_record import Bar, Count
from sonet.solvers import Adaptive, Fixed
from sonet.types import Images, Labels, Proportion

SMALL_BATCH = 4
LOSS = "loss"
"""The one factor that leaves the gradient's path as it is."""
HALF = 0.5
"""Share of what the reference leaves too much that a factor must take to carry the overestimate."""


@dataclass(frozen=True)
class Change:
    """One factor of the plain attack, changed to `setting`: another attack, or another source of gradients."""

    factor: str
    setting: str
    attack: Attack
    source: GradientSource


def find_causes(subject: Subject, tell: Callable[[str], bool], count: int = 0) -> list[Bar]:
    """A bar for each factor: accuracy left by PGD on cross-entropy with that one changed, on the first right images,
    `effort.subset` of them or `count` if that is more, everything judged on the deployed model in one batch.

    A factor carries the overestimate where its change takes more than half of what the reference leaves beyond all
    attacks together, and fells images that the reference leaves: more than 5 % of them, with the lower end of the
    interval. It does not where even the upper end of what it takes is no more than half; in between it is not decided.
    """
    images, labels = subject.take(max(subject.effort.subset, count))
    if not len(images):
        return []
    plain = plain_pgd(subject, steps=half_steps(subject))
    before = _fooled(subject, images, labels, plain, subject.own)
    standing = subject.stages.standing[subject.right.nonzero().squeeze(1)[: len(labels)]]
    excess = int((~before).sum()) - int(standing.sum())
    bars = [
        Bar(
            factor="reference",
            setting=f"PGD-{plain.steps}, cross-entropy, as deployed",
            left=_left(before),
            reference=True,
        )
    ]
    for change in _changes(subject, plain):
        if not tell(f"cause: {change.factor}"):
            continue
        try:
            after = _fooled(subject, images, labels, change.attack, change.source)
        except Exception as error:
            subject.not_run[f"cause: {change.factor}, {change.setting}"] = first_line(error)
            continue
        gained = Proportion(int((after & ~before).sum()), len(labels))
        bars.append(
            Bar(
                factor=change.factor,
                setting=change.setting,
                left=_left(after),
                carries=_carries(gained, int(after.sum()) - int(before.sum()), excess),
                note=f"{gained.count} of {gained.n} fell only then",
            )
        )
    return bars


def _carries(gained: Proportion, net: int, excess: int) -> bool | None:
    """gained: images that fell only then. net: those less the ones that stand only then. None: not decided."""
    if gained.interval[0] > OVERESTIMATE and net > excess / 2:
        return True
    taken = Proportion(min(max(net, 0), excess), excess) if excess > 0 else None
    return None if taken is None or taken.interval[1] > HALF else False


def name_cause(bars: list[Bar]) -> str:
    """The bars in a sentence or two."""
    if len(bars) < 2:
        return ""
    reference = bars[0].left
    carry = sorted((bar for bar in bars[1:] if bar.carries), key=lambda bar: bar.left.value)
    idle = [f"{bar.factor} ({bar.setting})" for bar in bars[1:] if bar.carries is False]
    if not carry:
        open_ = len(bars) - 1 - len(idle)
        few = f"; of {open_} of the {len(bars) - 1} the images are too few to say so" if open_ else ""
        return (
            f"PGD leaves {reference.value:.0%} here, and no single factor that was changed takes it away{few}: where "
            "it is masked, then by several together, or by something that no factor stands for."
        )
    each = "; ".join(f"{bar.factor} ({bar.setting}) to {bar.left.value:.0%}" for bar in carry)
    sentence = f"From the {reference.value:.0%} that PGD leaves, one change alone leads: {each}."
    return sentence + (f" Not by themselves: {', '.join(idle)}." if idle else "")


def _changes(subject: Subject, plain: PGD) -> Iterator[Change]:
    def other(factor: str, setting: str, source: GradientSource) -> Change:
        return Change(factor, setting, plain, source)

    yield Change(LOSS, "margin", plain.model_copy(update={"loss": "margin"}), subject.own)
    yield from _solver_changes(subject, other)
    if subject.shared:
        small = plain.model_copy(update={"batch_size": SMALL_BATCH})
        yield Change("attack batch", f"{SMALL_BATCH} images", small, subject.own)
        yield other("attack batch", "one image", one_by_one(subject, subject.classifier))
    if subject.random:
        mean = Mean(subject.classifier, subject.effort.calls)
        yield other("randomness", f"mean of {subject.effort.calls} calls", Backpropagation(mean))
    if subject.probabilities:
        logs = LogOfProbabilities(subject.classifier)
        yield other("output", "logarithm of the probabilities", Backpropagation(logs))
        if subject.in_float64 is not None:
            exact = LogOfProbabilities(subject.in_float64)
            yield other("output and precision", "logarithm in float64", Backpropagation(exact))
    if subject.in_float64 is not None and any(bool(attempt.zero.any()) for attempt in subject.stages.attempts):
        yield other("precision", "float64", Backpropagation(subject.in_float64))
    if subject.dial is None:
        yield other("gradient", "mean over a neighbourhood", smoothed(subject, subject.own))
        square = Square(loss="ce", queries=subject.effort.queries, batch_size=subject.batch, seed=subject.seed)
        yield Change("gradient", "none: square", square, without_batch(subject, subject.shown))


def _solver_changes(subject: Subject, other: Callable[[str, str, GradientSource], Change]) -> Iterator[Change]:
    dial = subject.dial
    if dial is None:
        return
    setting = dial.setting

    def turned(factor: str, words: str, **changes: Any) -> Change:
        return other(factor, words, Backpropagation(dial.variant(**changes)))

    if isinstance(setting, Adaptive) and dial.adaptive:
        if setting.scope != "sample":
            yield turned("scope", "each sample's own steps", scope="sample")
        for name in ("frozen", "first", "differentiated"):
            if name != setting.step_gradient:
                yield turned("step gradient", name, step_gradient=name)
        for factor in (0.1, 0.01):
            changes = {"rtol": setting.rtol * factor, "atol": setting.atol * factor}
            yield turned("tolerance", f"{setting.rtol * factor:.0e}", **changes)
        end = "clip" if setting.end == "dense" else "dense"
        if end == "clip" or setting.tableau.middle is not None:
            yield turned("end", end, end=end)
        method = "bosh3" if setting.method != "bosh3" else "dopri5"
        yield turned("solver", method, method=method)
    elif isinstance(setting, Fixed) and dial.fixed:
        yield turned("steps", f"{4 * setting.num_steps}", num_steps=4 * setting.num_steps)
    fixed = Fixed(method="rk4", num_steps=8)
    yield other("solver", "rk4, 8 steps", Backpropagation(dial.variant(fixed)))
    yield other("adjoint", "continuous adjoint", Backpropagation(dial.by_adjoint()))


def _fooled(subject: Subject, images: Images, labels: Labels, attack: Attack, source: GradientSource) -> torch.Tensor:
    """(N,) bool, judged on the deployed model, the images in one batch and in their own order."""
    if subject.shared and attack.stop_when_fooled and source is subject.own:
        attack = attack.model_copy(update={"stop_when_fooled": False})
    parts = zip(images.split(attack.batch_size), labels.split(attack.batch_size), strict=True)  # type: ignore[no-untyped-call]
    made = [attack.craft(source, part.contiguous(), label, subject.threat, (), None).images for part, label in parts]
    return predict(subject.deployed, torch.cat(made).detach().to(images), subject.batch) != labels


def _left(fooled: torch.Tensor) -> Count:
    return Count.of(Proportion(int((~fooled).sum()), len(fooled)))
