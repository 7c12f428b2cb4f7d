"""Checks of a model that integrates an ODE: what do its solver's choices do to the gradient and the answer?"""

from __future__ import annotations

import torch
from torch import Tensor

from sonet.attacks.gradients import Backpropagation
from sonet.attacks.result import predict
from sonet.audit.check import Measured, check
from sonet.audit.subject import Subject
from sonet.report.audit_record import Ladder, Line
from sonet.solvers import Adaptive, Fixed
from sonet.types import Classifier, Images, Labels, Proportion

FACTORS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)
"""Tolerances of the ladder, in the deployed one."""
CONVERGED = 0.999
"""Cosine of the gradients of the two tightest tolerances that counts as converged."""
ALIKE = 0.5
"""Median cosine below which two gradients point elsewhere."""
POINTS = 33
"""Points on the way through the ball where steps are counted."""


@check(
    "tolerance-ladder",
    "solver",
    "The gradient against a converged solver's",
    raised_if="the deployed gradient's cosine with the converged one's is below 0.5 in the median",
    means="The solver is so coarse, or its step control adds so much of its own, that the gradient is not the ODE's.",
    remedy="Attack through tighter tolerances (--gradients finer) or frozen steps, and judge the deployed model.",
    source="A ladder of tolerances to a hundred-thousandth; the reference is the model itself where it has converged",
    unit="cosine",
    threshold=0.5,
    needs=("solver", "steps", "image"),
)
def tolerance_ladder(subject: Subject) -> Measured:
    dial = subject.solver
    setting = dial.setting
    assert isinstance(setting, Adaptive)
    images, labels = subject.take(subject.effort.probes)
    exact = [_gradient(subject, dial.tolerance(f, scope="sample", step_gradient="frozen", end="clip"), images, labels)
             for f in (1e-4, 1e-5)]  # fmt: skip
    reference, agreement = exact[-1], float(cosine(*exact).median())
    if agreement < ALIKE:
        return Measured.silent(
            f"No gradient to compare with: those at {1e-4 * setting.rtol:.0e} and {1e-5 * setting.rtol:.0e}, the "
            f"tightest tolerances, do not agree (median cosine {agreement:.2f}), or the solver failed there."
        )
    lines = {
        "as deployed": [dial.tolerance(f) for f in FACTORS],
        "frozen steps": [dial.tolerance(f, scope="sample", step_gradient="frozen") for f in FACTORS],
        "each sample's own steps, differentiated": [
            dial.tolerance(f, scope="sample", step_gradient="differentiated") for f in FACTORS
        ],
    }
    medians = {
        name: [float(cosine(_gradient(subject, each, images, labels), reference).median()) for each in classifiers]
        for name, classifiers in lines.items()
    }
    subject.ladders["tolerances"] = Ladder(
        name="tolerances",
        title="Cosine of the gradient with the converged one, median over images",
        x_title="relative tolerance",
        y_title="cosine",
        x=[setting.rtol * f for f in FACTORS],
        lines=[Line(name=name, y=list(values)) for name, values in medians.items()],
    )
    deployed = medians["as deployed"][0]
    doubt = "" if agreement > CONVERGED else f" The reference itself has not converged (cosine {agreement:.3f})."
    return Measured(
        f"At the deployed tolerance {setting.rtol:g} the gradient's median cosine with the converged one is "
        f"{deployed:.2f}; with frozen steps {medians['frozen steps'][0]:.2f}.{doubt}",
        deployed < ALIKE,
        deployed,
        n=len(images),
    )


@check(
    "step-gradient",
    "solver",
    "Step sizes differentiated, the first only, or frozen",
    raised_if="the deployed gradient's cosine with that of frozen, per-sample steps is below 0.5 in the median",
    means="Most of the gradient that an attack follows comes through the choice of step sizes, not through the ODE.",
    remedy="Attack with frozen steps (--gradients frozen) and judge the deployed model.",
    source="torchdiffeq 0.0.1 differentiates the whole controller, 0.2 the first step; see docs/solvers.md",
    unit="cosine",
    threshold=0.5,
    needs=("solver", "steps", "image"),
)
def step_gradient(subject: Subject) -> Measured:
    dial = subject.solver
    images, labels = subject.take(2 * subject.effort.probes)
    own, _ = subject.gradient(images, labels)
    found = {}
    for name in ("frozen", "first", "differentiated"):
        other = _gradient(subject, dial.variant(step_gradient=name, scope="sample"), images, labels)
        found[name] = float(cosine(own, other).median())
    words = ", ".join(f"{value:.2f} with {name}" for name, value in found.items())
    return Measured(
        f"Median cosine of the deployed gradient with that of each sample's own steps: {words}.",
        found["frozen"] < ALIKE,
        found["frozen"],
        n=len(images),
    )


@check(
    "adjoint",
    "solver",
    "Backpropagation against the adjoint",
    raised_if="the cosine of the two gradients is below 0.5 in the median",
    means="The adjoint solves another ODE backward, with errors of its own; at loose tolerance it is another "
    "gradient. An evaluation through one of them need not see what the other sees.",
    remedy="Use backpropagation through the solver for attacks, or tighten the tolerance until both agree.",
    source="Chen et al. 2018 (adjoint); Zhuang et al. 2020 (its error)",
    unit="cosine",
    threshold=0.5,
    needs=("solver", "image"),
)
def adjoint(subject: Subject) -> Measured:
    images, labels = subject.take(subject.effort.probes)
    own, _ = subject.gradient(images, labels)
    dial = subject.solver
    whose, other = ("backpropagation", dial.by_steps()) if dial.adjoint else ("the adjoint", dial.by_adjoint())
    value = float(cosine(own, _gradient(subject, other, images, labels)).median())
    return Measured(
        f"The median cosine of the deployed gradient with that of {whose} is {value:.2f}.",
        value < ALIKE,
        value,
        n=len(images),
    )


@check(
    "fixed-solver",
    "solver",
    "The same weights under a fixed solver",
    bears="note",
    raised_if="more than 5 % of the predictions change under 8 steps of rk4",
    means="The network's answers lean on the error of its solver: what is deployed is not the ODE that was drawn.",
    remedy="Tighten the tolerance, or report the fixed-step network's accuracy beside it.",
    source="Ott et al. 2021 (ResNet after all?): a solver too coarse is part of the network",
    unit="of predictions change",
    threshold=0.05,
    needs=("solver", "image"),
)
def fixed_solver(subject: Subject) -> Measured:
    images, labels = subject.take(subject.batch)
    other = predict(subject.solver.variant(Fixed(method="rk4", num_steps=8)), images, subject.batch)
    changed = Proportion(int((other != labels).sum()), len(images))
    return Measured.share(
        f"Under 8 steps of rk4 {changed.count} of {changed.n} right predictions change.", changed, changed.value > 0.05
    )


@check(
    "step-jumps",
    "solver",
    "Jumps of the step sequence inside the ball",
    bears="note",
    raised_if="for more than half of the images the number of steps changes on the way to the edge of the ball",
    means="Where a step is added or dropped, the adaptive map jumps: its gradient knows nothing of that.",
    remedy="Differences over a longer way, averaged solvers (--gradients jittered) or frozen steps see past the jumps.",
    source="Hairer, Norsett, Wanner 1993, II.4: accept and reject are decisions",
    unit="of the images",
    threshold=0.5,
    needs=("solver", "steps", "image"),
)
def step_jumps(subject: Subject) -> Measured:
    dial = subject.solver
    images, labels = subject.take(subject.effort.probes)
    gradient, _ = subject.gradient(images, labels, "margin")
    way = subject.threat.eps * subject.threat.steepest(gradient.nan_to_num(0.0, 0.0, 0.0))
    counts = torch.stack([dial.step_counts((images + t * way).contiguous()).sum(1) for t in _points(images)])
    jumps = (counts[1:] != counts[:-1]).sum(0)
    share = Proportion(int((jumps > 0).sum()), len(images))
    return Measured.share(
        f"On the way to the edge of the ball the number of steps changes for {share.count} of {share.n} images, "
        f"{float(jumps.double().mean()):.2g} times on average.",
        share,
        share.value > 0.5,
    )


def cosine(one: Tensor, other: Tensor) -> Tensor:
    """(N,) cosine of two gradients, 0 where one of them is 0 or not finite."""
    a, b = (part.flatten(1).double().nan_to_num(0.0, 0.0, 0.0) for part in (one, other))
    length = a.norm(dim=1) * b.norm(dim=1)
    return (a * b).sum(1) / torch.where(length > 0, length, 1.0)


def _gradient(subject: Subject, classifier: Classifier, images: Images, labels: Labels) -> Tensor:
    return subject.gradient(images, labels, "ce", Backpropagation(classifier))[0]


def _points(images: Images) -> list[Tensor]:
    return list(torch.linspace(0, 1, POINTS, dtype=images.dtype, device=images.device))
