"""Checks of the solver, on ODEs solved by hand: what steps do to the gradient, to the answer and to the work."""

from __future__ import annotations

import math

import pytest
import torch
from audit_subjects import (
    BrightnessDecay,
    Decay,
    Gauge,
    Landscape,
    drawn,
    on_landscape,
    plausible,
    reference_run,
    rk4_factor,
    subject_of,
)
from torch import Tensor, nn

import sonet
from sonet.attacks import Linf
from sonet.attacks.losses import cross_entropy
from sonet.audit import CHECKS
from sonet.audit.latency import evaluations_under_attack, raise_evaluations
from sonet.audit.matrix import measure_matrix, solver_forms, transfer_matrix
from sonet.audit.planted import Linear
from sonet.audit.solver import (
    FIXED,
    NO_SOLVER,
    adjoint,
    cosine,
    fixed_solver,
    step_gradient,
    step_jumps,
    tolerance_ladder,
)
from sonet.audit.subject import Subject
from sonet.blocks import watch_solves
from sonet.report.audit_record import Matrix
from sonet.solvers import Adaptive, Fixed, paper

SOLVER_CHECKS = [name for name, each in CHECKS.items() if each.family == "solver"]
COARSE = paper(first_step=0.2)
"""The first step by itself does not depend on the image; later ones do, through the error of both states."""


def coarse(gain: float, n: int = 3, solver: Adaptive | Fixed | None = None) -> Subject:
    """In float64, of class 0 by about 1/2; the gain is of the part that depends on the image through the steps only."""
    images, solver = drawn(n, (1, 1, 2), seed=1).double(), solver or COARSE
    y = float(Decay(solver, a=0.0, gain=1.0).double()(images)[0, 0])  # the same for all, as the steps are
    model = Decay(solver, a=0.1, gain=gain, offset=y - 0.5 / max(gain, 1)).double()
    return subject_of(model, images, torch.zeros(n, dtype=torch.int64), probes=n)


def differences_of_the_batch(subject: Subject) -> Tensor:
    """d sum_j CE_j / d pixels, (N, 2), by central differences of the deployed map."""

    def loss(images: Tensor) -> float:
        with torch.no_grad():
            return float(cross_entropy(subject.model(images), subject.labels).sum())

    flat = subject.images.flatten()
    found = torch.zeros_like(flat)
    for place in range(len(flat)):
        shift = torch.zeros_like(flat)
        shift[place] = 1e-5
        ahead, back = (loss((flat + sign * shift).view_as(subject.images)) for sign in (1, -1))
        found[place] = (ahead - back) / 2e-5
    return found.view(-1, 2)


def expected_cosine(subject: Subject) -> float:
    """With the ODE's own gradient, which is along -x_0: of class 0, the loss falls where its logit grows."""
    slopes = differences_of_the_batch(subject)
    return float((-slopes[:, 0] / slopes.norm(dim=1)).median())


def test_the_cosine_of_known_vectors() -> None:
    one = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0], [float("nan"), 1.0], [1e-30, 0.0], [1.0, 1.0]])
    other = torch.tensor([[4.0, 3.0], [-2.0, 0.0], [1.0, 0.0], [0.0, 2.0], [1e-30, 1e-30], [1.0, -1.0]])
    got = cosine(one.view(-1, 1, 1, 2), other.view(-1, 1, 1, 2))
    torch.testing.assert_close(got, torch.tensor([0.96, -1.0, 0.0, 1.0, math.sqrt(0.5), 0.0]).double())


@pytest.mark.parametrize(("gain", "raised"), [(4000.0, True), (0.0, False)])
def test_the_cosine_with_frozen_steps_is_that_of_differences(gain: float, raised: bool) -> None:
    subject = coarse(gain)
    assert bool(subject.right.all())
    expected = expected_cosine(subject)
    assert (expected < 0.5) is raised
    found = step_gradient(subject)
    assert found.value == pytest.approx(expected, abs=1e-4)
    assert (found.raised, found.n) == (raised, 3)
    assert f"{expected:.2f} with frozen" in found.sentence


@pytest.mark.parametrize(("gain", "raised"), [(4000.0, True), (0.0, False)])
def test_the_ladder_starts_at_the_deployed_cosine_and_ends_at_one(gain: float, raised: bool) -> None:
    subject = coarse(gain)
    found = tolerance_ladder(subject)
    assert found.value == pytest.approx(expected_cosine(subject), abs=1e-4)
    assert (found.raised, found.n) == (raised, 3)
    ladder = subject.ladders["tolerances"]
    assert ladder.x == pytest.approx([0.1, 0.01, 1e-3, 1e-4, 1e-5])
    lines = {line.name: line.y for line in ladder.lines}
    assert lines["as deployed"][0] == found.value
    assert lines["frozen steps"] == pytest.approx([1.0] * 5)
    assert lines["as deployed"][-1] > 0.99 or not raised
    assert "not converged" not in found.sentence


def test_a_reference_that_failed_accuses_nobody() -> None:
    """At the tightest tolerances the solver runs out of steps, though the deployed gradient is right."""
    model = Decay(Adaptive(rtol=1e-4, atol=1e-4, max_steps=25), a=1.0)
    subject = subject_of(model, drawn(2, (1, 1, 2)))
    found = tolerance_ladder(subject)
    assert found.raised is None
    assert "No gradient to compare with" in found.sentence
    assert "tolerances" not in subject.ladders
    assert plausible(found.sentence)


@pytest.mark.parametrize(("gain", "raised"), [(4000.0, True), (0.0, False)])
def test_the_adjoint_is_the_gradient_of_the_ode(gain: float, raised: bool) -> None:
    """At a tight tolerance backward. Here the adjoint of y is 0 wherever the image is concerned."""
    subject = coarse(gain)
    found = adjoint(subject)
    assert found.value == pytest.approx(expected_cosine(subject), abs=1e-4)
    assert (found.raised, found.n) == (raised, 3)
    assert "with that of the adjoint is" in found.sentence


@pytest.mark.parametrize(("offset", "raised"), [(-1.0, True), (-4.0, False)])
def test_one_step_of_euler_against_rk4(offset: float, raised: bool) -> None:
    """y(1) is 1 - 4 = -3 under one step of Euler, rk4's polynomial to the eighth under eight of it, near exp(-4)."""
    assert rk4_factor(4, 8) == pytest.approx(math.exp(-4), rel=0.01)
    model = Decay(Fixed(method="euler", num_steps=1), a=0.0, gain=1.0, offset=offset)
    images = drawn(5, (1, 1, 2))
    torch.testing.assert_close(model(images)[:, 0], torch.full((5,), -3 - offset))
    subject = subject_of(model, images)
    with torch.no_grad():
        assert subject.dial is not None
        under = subject.dial.variant(Fixed(method="rk4", num_steps=8))(images)[:, 0]
    torch.testing.assert_close(under, torch.full((5,), rk4_factor(4, 8) - offset))
    found = fixed_solver(subject)
    assert (found.raised, found.value, found.n) == (raised, 1.0 if raised else 0.0, 5)


def test_no_answer_under_the_fixed_solver_is_a_change() -> None:
    """rate 2000: rk4 multiplies y by 1.6e8 a step and overflows; NaN has its largest logit at class 0, the label."""
    model = Decay(Adaptive(rtol=1e-2, atol=1e-2), a=1.0, gain=1.0, rate=2000.0)
    images = drawn(3, (1, 1, 2))
    assert model(images).argmax(1).tolist() == [0, 0, 0]
    found = fixed_solver(subject_of(model, images))
    assert (found.raised, found.value) == (True, 1.0)


def counted(model: nn.Module, image: Tensor) -> tuple[int, int]:
    """Trial steps and evaluations of all blocks for one image, by `watch_solves`."""
    steps, evaluations = [], []

    def see(name: str, solution: object) -> None:
        steps.append(int(solution.accepted + solution.rejected))  # type: ignore[attr-defined]
        evaluations.append(int(solution.evaluations))  # type: ignore[attr-defined]

    with torch.no_grad(), watch_solves(model, see):
        model(image[None])
    return sum(steps), sum(evaluations)


@pytest.mark.parametrize(("eps", "raised"), [(0.3, True), (1e-5, False)])
def test_jumps_are_those_of_the_steps_on_the_way(eps: float, raised: bool) -> None:
    """Brighter is the way to the other class, for y(1) > 0 shrinks with x_0."""
    model = BrightnessDecay(Adaptive(rtol=1e-5, atol=1e-5), pace=6.0).double()
    images = drawn(4, (1, 1, 2)).double()
    found = step_jumps(subject_of(model, images, threat=Linf(eps)))
    jumps = []
    for image in images:
        ways = [image + t * eps * torch.tensor([1.0, 0.0]) for t in torch.linspace(0, 1, 33).double()]
        steps = [counted(model, point)[0] for point in ways]
        jumps.append(sum(one != other for one, other in zip(steps, steps[1:], strict=False)))
    assert found.value == sum(count > 0 for count in jumps) / 4
    assert (found.raised, found.n) == (raised, 4)
    assert f"{sum(jumps) / 4:.2g} times on average" in found.sentence


@pytest.mark.parametrize("raised", [True, False])
def test_evaluations_under_attack_are_those_of_the_images_made(raised: bool) -> None:
    model = BrightnessDecay(Adaptive(rtol=1e-3, atol=1e-3)) if raised else Gauge(Fixed(num_steps=3))
    images = drawn(4, (1, 1, 2)) if not raised else 0.02 + 0.02 * drawn(4, (1, 1, 2))
    subject = subject_of(model, images, threat=Linf(0.9))
    reference_run(subject)
    found = evaluations_under_attack(subject)
    worst, claimed = raise_evaluations(subject, images)
    assert float((worst - images).abs().max()) <= 0.9 + 1e-6
    assert 0 <= float(worst.min()) <= float(worst.max()) <= 1
    recounted = [counted(model, image)[1] for image in worst]
    assert claimed.tolist() == recounted
    clean = [counted(model, image)[1] for image in images]
    pgd = [counted(model, image)[1] for image in subject.stages.attempts[0].adversarial]
    assert found.value == pytest.approx(sum(recounted) / sum(clean))
    assert (found.raised, found.n) == (raised, 4)
    assert (sum(recounted) / sum(clean) > 1.5) is raised
    assert f"costs {sum(clean) / 4:.1f} evaluations on average, one of pgd {sum(pgd) / 4:.1f}, " in found.sentence


def test_without_an_attack_evaluations_are_those_of_the_search() -> None:
    found = evaluations_under_attack(subject_of(Gauge(Fixed(num_steps=3)), drawn(2, (1, 1, 2))))
    assert (found.raised, found.value) == (False, 1.0)
    assert "pgd" not in found.sentence


@pytest.mark.parametrize("blind", [True, False])
def test_the_matrix_of_a_solver_that_hides_its_gradient(blind: bool) -> None:
    """logits (10 x_0 - 5, 0) under all, and the boundary just inside the ball: no image stands where there is a gradient.

    Without one all stand, but for luck of the random start, which needs a thirtieth of the way's ends.
    """
    model, images = Gauge(Fixed(method="euler", num_steps=1), blind), drawn(8, (1, 1, 2))
    images[:, 0, 0, 0] = torch.tensor([0.79, 0.21] * 4)
    subject = subject_of(model, images, threat=Linf(0.3), steps=30)
    found, matrix = transfer_matrix(subject), subject.matrix
    assert matrix is not None
    assert matrix.crafted == matrix.judged == ["deployed", "2 steps", "4 steps", "rk4, 8 steps", "euler, 4 steps"]
    assert matrix.left[0] == [1.0 if blind else 0.0] * 5
    assert matrix.left[1:] == [[0.0] * 5] * 4
    assert (found.raised, found.value, found.n) == (blind, 1.0 if blind else 0.0, 8)
    assert ("that of 2 steps 0%" if blind else "0%, no other less.") in found.sentence
    passes = subject.passes
    assert measure_matrix(subject) is matrix
    assert subject.passes == passes


@pytest.mark.parametrize(("own", "other", "n", "raised"), [
    (5, 4, 10, True), (10, 9, 10, True), (3, 2, 10, True), (1, 0, 11, False), (7, 4, 30, True), (6, 4, 30, False),
])  # fmt: skip
def test_ten_points_are_ten_points_whatever_rounding(own: int, other: int, n: int, raised: bool) -> None:
    subject = subject_of(Gauge(Fixed()), drawn(2, (1, 1, 2)))
    left = [[own / n] * 2, [other / n] * 2]
    subject.matrix = Matrix(crafted=["deployed", "b"], judged=["deployed", "b"], left=left, n=n)
    found = transfer_matrix(subject)
    assert found.raised is raised
    assert found.value == pytest.approx((own - other) / n)


def test_the_forms_of_an_adaptive_solver() -> None:
    subject = subject_of(Gauge(Adaptive(rtol=1e-2, atol=1e-2)), drawn(2, (1, 1, 2)))
    assert list(solver_forms(subject)) == [
        "deployed",
        "frozen, own steps",
        "tolerance 1e-03",
        "tolerance 1e-04",
        "rk4, 8 steps",
        "euler, 4 steps",
    ]


def test_a_network_of_two_kinds_of_solver_has_forms_for_both() -> None:
    model = nn.Sequential(
        Gauge(Fixed(num_steps=2)), nn.Unflatten(1, (1, 1, 2)), Gauge(Adaptive(rtol=1e-2, atol=1e-2))
    ).eval()
    subject = subject_of(model, drawn(2, (1, 1, 2)))
    assert list(solver_forms(subject)) == ["deployed", "rk4, 8 steps", "euler, 4 steps"]
    for name in SOLVER_CHECKS:
        assert plausible(CHECKS[name](subject).measured), name


@pytest.mark.parametrize("name", SOLVER_CHECKS)
def test_without_a_solver_nothing_is_said(name: str) -> None:
    found = CHECKS[name](subject_of(Linear.random(3), drawn(4)))
    assert (found.raised, found.measured) == (None, NO_SOLVER)


@pytest.mark.parametrize("name", ["tolerance-ladder", "step-gradient", "step-jumps"])
def test_fixed_steps_are_not_chosen(name: str) -> None:
    found = CHECKS[name](subject_of(Gauge(Fixed()), drawn(4, (1, 1, 2))))
    assert (found.raised, found.measured) == (None, FIXED)


@pytest.mark.parametrize("name", SOLVER_CHECKS)
@pytest.mark.parametrize("solver", [Fixed(num_steps=2), Adaptive(rtol=1e-2, atol=1e-2)], ids=["fixed", "adaptive"])
def test_without_a_right_image_nothing_is_measured(name: str, solver: Fixed | Adaptive) -> None:
    model, images = Gauge(solver), drawn(4, (1, 1, 2))
    found = CHECKS[name](subject_of(model, images, 1 - model(images).argmax(1)))
    assert found.raised is None
    assert plausible(found.measured)


@pytest.mark.parametrize("solver", [paper(), Fixed(num_steps=1)], ids=["paper", "fixed"])
def test_every_check_measures_an_untrained_sonet(solver: Fixed | Adaptive) -> None:
    model = sonet.build(
        "sonet", channels=4, blocks=(1,), strides=(2,), in_channels=3, classes=3, solver=solver, seed=0
    ).eval()
    subject = subject_of(model, drawn(3, (3, 8, 8)), probes=2, subset=2, steps=3)
    reference_run(subject)
    for name in SOLVER_CHECKS:
        found = CHECKS[name](subject)
        assert plausible(found.measured), found.measured
        assert (found.raised is None) == (found.measured == FIXED)


def test_a_constant_model_with_a_solver_has_no_gradient_and_no_accusation_of_the_matrix() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gauge, self.flat = Gauge(Adaptive(rtol=1e-2, atol=1e-2)), Landscape([(-1, -1.0), (1, -1.0)])
            self.eval()

        def forward(self, images: Tensor) -> Tensor:
            return self.flat(images) + 0 * self.gauge(images)

    subject = subject_of(Constant(), on_landscape([0] * 3))
    found = transfer_matrix(subject)
    assert (found.raised, found.value) == (False, 0.0)
    assert "100%, no other less" in found.sentence
