"""The transfer matrix of a solver that hides its gradient and of one that does not."""

from __future__ import annotations

import pytest
import torch
from audit_subjects import Gauge, Landscape, drawn, on_landscape, plausible, subject_of
from torch import Tensor, nn

from sonet.attacks import Linf
from sonet.audit import CHECKS
from sonet.audit.matrix import measure_matrix, solver_forms, transfer_matrix
from sonet.report.audit_record import Matrix
from sonet.solvers import Adaptive, Fixed


@pytest.mark.parametrize("blind", [True, False])
def test_the_matrix_of_a_solver_that_hides_its_gradient(blind: bool) -> None:
    """logits (10 x_0 - 5, 0) under all, the boundary just inside the ball: none stands where there is a gradient.

    Without one all stand, but for luck of the random start, which must lie in the last thirtieth of the way.
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
    left = [[own / n, 1.0], [other / n, 0.0]]  # judged on the deployed model; the other column does not count
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
    for each in CHECKS.values():
        if each.family == "solver":
            assert plausible(each(subject).measured), each.name


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
