"""Checks of the solver, on ODEs solved by hand: what its steps do to the gradient and to the answer."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from audit_subjects import (
    BrightnessDecay,
    Decay,
    Gauge,
    counted,
    drawn,
    plausible,
    reference_run,
    rk4_factor,
    subject_of,
)
from torch import Tensor

import sonet
from sonet.attacks import Linf
from sonet.attacks.losses import cross_entropy
from sonet.audit import CHECKS
from sonet.audit.check import FIXED, NO_SOLVER
from sonet.audit.planted import Linear
from sonet.audit.solver import (
    adjoint,
    cosine,
    fixed_solver,
    step_gradient,
    step_jumps,
    tolerance_ladder,
)
from sonet.audit.subject import Subject
from sonet.solvers import Adaptive, Fixed, paper

SOLVER_CHECKS = [name for name, each in CHECKS.items() if each.family == "solver"]
COARSE = paper()


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
    first = float(found.sentence.partition("with frozen, ")[2].split()[0])
    assert (abs(first - expected) > 0.02) is raised  # the first step's size, of each sample, is another gradient


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


@pytest.mark.parametrize(("eps", "raised"), [(0.3, True), (1e-5, False)])
def test_jumps_are_those_of_the_steps_on_the_way(eps: float, raised: bool) -> None:
    """Brighter is the way to the other class, for y(1) > 0 shrinks with x_0."""
    model = BrightnessDecay(Adaptive(rtol=1e-5, atol=1e-5), pace=6.0).double()
    images = drawn(4, (1, 1, 2)).double()
    subject = subject_of(model, images, threat=Linf(eps))
    assert bool(subject.right.all())
    assert subject.dial is not None
    before = subject.passes
    found = step_jumps(subject)
    assert subject.passes - before == 4 * (2 + 33)  # a gradient, and 33 points of the way
    jumps = []
    for image in images:
        ways = [image + t * eps * torch.tensor([1.0, 0.0]) for t in torch.linspace(0, 1, 33).double()]
        steps = [counted(model, point)[0] for point in ways]
        jumps.append(sum(one != other for one, other in pairwise(steps)))
    assert found.value == sum(count > 0 for count in jumps) / 4
    assert (found.raised, found.n) == (raised, 4)
    assert f"{sum(jumps) / 4:.2g} times on average" in found.sentence


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
