"""A step in one node of the graph is the step of operators: values, statistics, first gradients."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from fast_and_plain import agree, both, close, images, needs_kernels, setting, two_blocks
from sonet.solvers import METHODS, Adaptive, Fixed, paper
from sonet.solvers.solution import Status

pytestmark = needs_kernels
SETTINGS = {
    "-".join(map(str, (method, scope, step_gradient, end))): setting(
        method=method, scope=scope, step_gradient=step_gradient, end=end
    )
    for method, scope, step_gradient, end in product(
        [name for name, method in METHODS.items() if method.adaptive],
        ("sample", "batch", 2),
        ("frozen", "first", "differentiated"),
        ("clip", "dense"),
    )
    if end == "clip" or METHODS[method].middle is not None
}
RULES = {
    "joint": setting(first_step=None, step_gradient="differentiated"),
    "tensorwise": setting(first_step=None, step_gradient="differentiated", initial="tensorwise"),
    "first": setting(first_step=None, step_gradient="first", scope=2),
    "frozen": setting(first_step=None),
    "paper": paper(),
    "few steps": setting(max_steps=3),
}
FIXED = {method: Fixed(method=method, num_steps=2) for method in METHODS}


@pytest.mark.parametrize("which", SETTINGS)
def test_adaptive_steps(which: str) -> None:
    agree(two_blocks(SETTINGS[which]), images(3, 1, 5, 6))


@pytest.mark.parametrize("which", RULES)
def test_first_steps_and_last(which: str) -> None:
    agree(two_blocks(RULES[which]), images(3, 1, 5, 6))


@pytest.mark.parametrize("which", FIXED)
def test_fixed_steps(which: str) -> None:
    agree(two_blocks(FIXED[which]), images(3, 1, 5, 6))


def test_those_had_rejected_steps_and_samples_that_landed_apart() -> None:
    """So the tests above can fail on either."""
    found = agree(two_blocks(SETTINGS["bosh3-sample-frozen-clip"]), images(3, 1, 5, 6))
    accepted, rejected = found[3], found[4]
    assert rejected.sum() > 0
    assert len(accepted.unique()) > 1


FAILING = {
    "frozen": setting(),
    "differentiated": setting(step_gradient="differentiated", first_step=None),
    "fixed": Fixed(num_steps=2),
    "paper": paper(scope=1),
}


@pytest.mark.parametrize("solver", FAILING.values(), ids=FAILING.keys())
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_samples_that_fail(bad: float, solver: Fixed | Adaptive) -> None:
    """They are NaN, with their status, and the gradients of the others are what they are without them."""
    x = images(4, 1, 5, 5).detach()
    x[1, 0, 2, 2] = bad
    found = agree(two_blocks(solver)[0], x.requires_grad_())
    assert found[1].tolist() == [Status.OK, Status.NOT_FINITE, Status.OK, Status.OK]
    assert found[0][1].isnan().all()
    assert all(part.isfinite().all() for part in found[6:])


@pytest.mark.parametrize("solver", FAILING.values(), ids=FAILING.keys())
def test_samples_that_overflow_on_the_way(solver: Fixed | Adaptive) -> None:
    """A norm of huge weight: the slope is finite, the step is not."""
    model = two_blocks(solver)[0]
    with torch.no_grad():
        model.field.norm_dy.weight.fill_(1e200)

    def statistics() -> list[Tensor]:
        with torch.no_grad():
            solution = model.solve(images(2, 1, 4, 4))
        return [t.double() for t in (solution.status, solution.evaluations, solution.accepted, solution.rejected)]

    found, expected = both(statistics)
    close(found, expected)
    assert (found[0] != Status.OK).all()


def test_samples_that_run_out_of_steps() -> None:
    found = agree(two_blocks(setting(method="bosh3", max_steps=5))[0], images(3, 1, 5, 6))
    statuses = found[1]
    assert Status.TOO_MANY_STEPS in statuses
    assert Status.OK in statuses
