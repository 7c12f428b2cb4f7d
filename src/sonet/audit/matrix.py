"""Crafted with one solver, judged with another: the transfer matrix of an ODE network."""

from __future__ import annotations

from sonet.attacks import APGD
from sonet.attacks.gradients import Backpropagation
from sonet.attacks.result import predict
from sonet.audit.check import Measured, check
from sonet.audit.subject import Subject
from sonet.report.audit_record import Matrix
from sonet.solvers import Adaptive, Fixed
from sonet.types import Classifier


@check(
    "transfer-matrix",
    "solver",
    "Crafted with one solver, judged with another",
    raised_if="images crafted through another solver leave the deployed model 10 points less than its own gradient "
    "does",
    means="Another solver's gradient of the same weights attacks better than the deployed one's: it is masked.",
    remedy="Craft with the solver of the lowest row, judge with the deployed one.",
    source="The same weights under solvers, tolerances and treatments of the step; Huang et al. 2020, section 5",
    unit="of the images",
    threshold=0.1,
    needs=("solver", "image"),
)
def transfer_matrix(subject: Subject) -> Measured:
    found = measure_matrix(subject)
    left = {name: round(row[0] * found.n) for name, row in zip(found.crafted, found.left, strict=True)}
    own, best = left["deployed"], min(left, key=lambda name: left[name])
    words = "no other less" if best == "deployed" else f"that of {best} {left[best] / found.n:.0%}"
    return Measured(
        f"On {found.n} images the deployed gradient leaves the deployed model {own / found.n:.0%}, {words}.",
        10 * (own - left[best]) >= found.n,  # in whole images: 0.5 - 0.4 is less than 0.1
        (own - left[best]) / found.n,
        n=found.n,
    )


def measure_matrix(subject: Subject) -> Matrix:
    """Accuracy left for each pair, on the first right images. Measured once."""
    images, labels = subject.take(subject.effort.subset)
    if subject.matrix is None:
        forms = solver_forms(subject)
        attack = APGD(steps=max(10, subject.effort.steps // 3), batch_size=subject.batch, seed=subject.seed,
                      stop_when_fooled=False)  # fmt: skip
        left = []
        for crafter in forms.values():
            made = attack.craft(Backpropagation(crafter), images, labels, subject.threat, (), None).images.detach()
            left.append(
                [float((predict(judge, made, subject.batch) == labels).double().mean()) for judge in forms.values()]
            )
        subject.matrix = Matrix(crafted=list(forms), judged=list(forms), left=left, n=len(labels))
    return subject.matrix


def solver_forms(subject: Subject) -> dict[str, Classifier]:
    """The model under several solvers, by name; the deployed one first."""
    dial = subject.solver
    setting = dial.setting
    forms: dict[str, Classifier] = {"deployed": subject.classifier}
    if isinstance(setting, Adaptive) and dial.adaptive:
        forms["frozen, own steps"] = dial.variant(scope="sample", step_gradient="frozen")
        for factor in (0.1, 0.01):
            name = f"tolerance {setting.rtol * factor:.0e}"
            forms[name] = dial.tolerance(factor, scope="sample", step_gradient="frozen")
    elif isinstance(setting, Fixed) and dial.fixed:
        for factor in (2, 4):
            forms[f"{factor * setting.num_steps} steps"] = dial.variant(num_steps=factor * setting.num_steps)
    forms["rk4, 8 steps"] = dial.variant(Fixed(method="rk4", num_steps=8))
    forms["euler, 4 steps"] = dial.variant(Fixed(method="euler", num_steps=4))
    return forms
