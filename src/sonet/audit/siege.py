"""Which attacks an audit makes of a model, in which order, with which gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch

from sonet.attacks import APGD, APGDT, PGD, SPSA, Square
from sonet.attacks.attack import Attack
from sonet.attacks.gradients import Alone, Average, Backpropagation, GradientSource, Guided
from sonet.attacks.noise import ImageNoise
from sonet.audit.check import first_line
from sonet.audit.sources import LogOfProbabilities, Mean, Smoothed
from sonet.solvers import Adaptive, Fixed
from sonet.types import Classifier

if TYPE_CHECKING:
    from sonet.audit.subject import Subject

NOISE_DRAWS = 20
"""Random images of the threat's surface that each image is tried with."""
PLAIN_STARTS = 3
"""Random starts of the plain APGD where images do not share a gradient. A patient owner's attack, so that what others
find beyond it is not only impatience."""
TARGETED = "apgd-targeted"
"""What falls to it alone fell because cross-entropy aims at no class. On linear networks, which mask nothing, that is
a third of the images, so it makes no doubt by itself."""
REFERENCE = "pgd"
"""The plain attack that the cause analysis changes one factor of."""

Tell = Callable[[str], bool]
"""Called with a stage's name before it starts; False: leave it out."""


def besiege(subject: Subject, tell: Tell) -> None:
    """Run the stages: plain ones, other losses on the same gradient, other gradients, none at all.

    Plain is what an owner would run: PGD and APGD on the cross-entropy's own gradient, all images in a batch as
    deployed. Everything after is tried on those that still stand, but where a gradient is shared by a batch.

    An error of the model under a plain attack is passed on: without these there is no figure to doubt. Other attacks
    that it breaks off are left out, and `not_run` says why.
    """
    stages, effort = subject.stages, subject.effort

    def make(name: str, act: Callable[[], object], plain: bool = False) -> None:
        if bool(stages.standing.any()) and tell(name):
            try:
                act()
            except Exception as error:
                if plain:
                    raise
                subject.not_run[name] = first_line(error)

    def attempt(name: str, attack: Attack, source: GradientSource, gradient: str, plain: bool = False) -> None:
        shared, keep_last = subject.shared and gradient == "own", name == REFERENCE

        def act() -> None:
            stages.run(name, attack, source, gradient, plain=plain, together=shared, keep_last=keep_last)

        make(name, act, plain)

    attempt(REFERENCE, plain_pgd(subject), subject.own, "own", plain=True)
    starts = 1 if subject.shared else PLAIN_STARTS
    attempt("apgd-ce", _apgd(subject, loss="ce", restarts=starts), subject.own, "own", plain=True)
    make("random-noise", lambda: random_noise(subject))
    if subject.shared:  # on those who stand only; the own gradient needs all images of a batch
        _attack_through_others(subject, attempt)
    attempt("apgd-log-odds", _apgd(subject, loss="log-odds"), legible(subject), "own")
    if subject.backbone is not None:
        transfer = Guided(Backpropagation(subject.backbone), subject.own)
        attempt("apgd-backbone", _apgd(subject, loss="log-odds"), transfer, "backbone")
    seen = without_batch(subject, subject.shown)
    # On the loss of the plain attacks: what falls to it fell for want of a gradient, not of another loss.
    attempt("spsa-ce", _spsa(subject, "ce"), seen, "none")
    targeted = APGDT(steps=half_steps(subject), targets=effort.targets, batch_size=subject.batch, seed=subject.seed)
    attempt(TARGETED, targeted, legible(subject), "own")
    if not subject.shared:
        _attack_through_others(subject, attempt)
    attempt("square", Square(queries=effort.queries, batch_size=subject.batch, seed=subject.seed), seen, "none")
    if effort.level != "quick":
        attempt("spsa", _spsa(subject, "margin"), seen, "none")


def _attack_through_others(subject: Subject, attempt: Callable[[str, Attack, GradientSource, str], None]) -> None:
    for name, source in other_gradients(subject).items():
        attempt(f"apgd-{name}", _apgd(subject, loss="log-odds"), source, name)


def plain_pgd(subject: Subject, **changes: Any) -> PGD:
    """PGD on the cross-entropy: `effort.steps` steps of a tenth of the radius, no random start (as the paper's)."""
    settings: dict[str, Any] = {
        "steps": subject.effort.steps,
        "step_size": max(subject.threat.eps, 1e-6) / 10,
        "batch_size": subject.batch,
        "seed": subject.seed,
        "stop_when_fooled": False,
    }
    return PGD(**(settings | changes))


def legible(subject: Subject) -> GradientSource:
    """The model's own gradient; of one that answers with probabilities, that of their logarithms."""
    return Backpropagation(LogOfProbabilities(subject.classifier)) if subject.probabilities else subject.own


def half_steps(subject: Subject) -> int:
    """Of attacks that are made anew for a comparison of their own."""
    return max(10, subject.effort.steps // 2)


def other_gradients(subject: Subject) -> dict[str, GradientSource]:
    """Gradients besides the model's own that make sense for it, by name."""
    found: dict[str, GradientSource] = {}
    if subject.random:
        seen = Mean(subject.classifier, subject.effort.calls)
        found["averaged"] = Backpropagation(LogOfProbabilities(seen) if subject.probabilities else seen)
    found |= _solver_gradients(subject)
    if subject.shared and subject.dial is None:
        found["alone"] = Alone(legible(subject))
    blind = any(bool(attempt.zero.any()) for attempt in subject.stages.attempts)
    if (blind or subject.probabilities) and subject.in_float64 is not None:
        exact: Classifier = subject.in_float64
        found["float64"] = Backpropagation(LogOfProbabilities(exact) if subject.probabilities else exact)
    if subject.dial is None:
        base = found.get("averaged") or found.get("alone") or legible(subject)
        found["smoothed"] = smoothed(subject, base)
    return found


def without_batch(subject: Subject, classifier: Classifier) -> GradientSource:
    """A source whose answers do not depend on batch-mates, for attacks that let images leave the batch."""
    return one_by_one(subject, classifier) if subject.coupled else Backpropagation(classifier)


def one_by_one(subject: Subject, classifier: Classifier) -> GradientSource:
    """What an attack batch of one sees: each image's own steps, where that is the same, for it is much faster."""
    own = subject.own_steps
    return Alone(Backpropagation(classifier)) if own is None else Backpropagation(own)


def random_noise(subject: Subject) -> None:
    """Random images of the threat's surface, judged by the model: does any of them fool?"""
    stages, threat = subject.stages, subject.threat
    noise, tried = ImageNoise(subject.images, subject.seed + 7), stages.standing.clone()
    found, fooled = subject.images.clone(), torch.zeros_like(tried)
    for _ in range(NOISE_DRAWS):
        image = threat.project(subject.images + threat.eps * threat.steepest(noise.normal()), subject.images)
        fell = stages.judge(torch.where(tried.view(-1, 1, 1, 1), image, stages.worst)) & tried & ~fooled
        found, fooled = torch.where(fell.view(-1, 1, 1, 1), image, found), fooled | fell
    stages.note("random-noise", "none", found, tried)


def _solver_gradients(subject: Subject) -> dict[str, GradientSource]:
    dial = subject.dial
    if dial is None:
        return {}
    setting = dial.setting
    if not dial.adaptive or not isinstance(setting, Adaptive):
        more = [dial.variant(num_steps=4 * setting.num_steps)] if isinstance(setting, Fixed) and dial.fixed else []
        return {"finer": Guided(Average(tuple(map(Backpropagation, more))), subject.own)} if more else {}
    own = (setting.scope, setting.step_gradient)
    found: dict[str, GradientSource] = {}
    if own != ("sample", "frozen"):
        found["frozen"] = Backpropagation(dial.variant(scope="sample", step_gradient="frozen"))
    if own != ("sample", "differentiated"):
        found["alone"] = Backpropagation(dial.variant(scope="sample", step_gradient="differentiated"))
    finer = dial.tolerance(0.01, scope="sample", step_gradient="frozen", end="clip")
    found["finer"] = Guided(Backpropagation(finer), without_batch(subject, subject.classifier))
    return found


def _spsa(subject: Subject, loss: Literal["ce", "margin"]) -> SPSA:
    return SPSA(
        steps=subject.effort.estimates,
        loss=loss,
        batch_size=subject.batch,
        seed=subject.seed,
        stop_when_fooled=True,
    )


def _apgd(subject: Subject, loss: Literal["ce", "log-odds"], restarts: int = 1) -> APGD:
    return APGD(steps=subject.effort.steps, loss=loss, restarts=restarts, batch_size=subject.batch, seed=subject.seed)


def smoothed(subject: Subject, source: GradientSource) -> GradientSource:
    """The mean of `source` over a neighbourhood: a quarter of the radius per pixel, an l2 radius spread over all."""
    eps = subject.threat.eps
    sigma = 0.25 * (eps if subject.threat.norm == "linf" else eps / subject.images[0].numel() ** 0.5)
    return Smoothed(source, samples=8, sigma=sigma)
