"""The dial: one field and its weights, in our block and by torchdiffeq, must turn alike."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from audit_subjects import Gauge, drawn, subject_of
from same_field import Between, Foreign, Own
from torch import Tensor, nn

import sonet
from sonet.attacks.gradients import Backpropagation
from sonet.audit.dial import Dial, ForeignDial, OwnDial, find_dial
from sonet.audit.planted import Linear
from sonet.audit.solver import adjoint
from sonet.blocks import ode_blocks, watch_solves
from sonet.models import ConfigError
from sonet.solvers import Adaptive, Fixed

pytest.importorskip("torchdiffeq")

IMAGES = drawn(5, (1, 2, 2)).double() * torch.linspace(0.3, 1.4, 5).view(-1, 1, 1, 1).double()
TOLERANCE = 1e-2


def pair(fixed: bool = False, adjoint: bool = False, tolerance: float = TOLERANCE) -> tuple[OwnDial, ForeignDial]:
    how: dict[str, Any] = (
        {"method": "rk4", "options": {"step_size": 0.25}} if fixed else {"rtol": tolerance, "atol": tolerance}
    )
    foreign = find_dial(Foreign(adjoint, **how), IMAGES[:2])
    assert isinstance(foreign, ForeignDial)
    own = find_dial(Own(foreign.setting), IMAGES[:2])
    assert isinstance(own, OwnDial)
    return own, foreign


def answer(classifier: Any, images: Tensor = IMAGES) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of a weighted sum of them."""
    leaf = images.clone().requires_grad_(True)
    logits = classifier(leaf)
    weights = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)
    return logits.detach(), torch.autograd.grad((logits * weights).sum(), leaf)[0]


def assert_alike(one: Any, other: Any, rtol: float = 1e-6) -> None:
    for a, b in zip(answer(one), answer(other), strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=1e-8)


def test_the_settings_are_read_off_the_call() -> None:
    own, foreign = pair()
    assert own.settings == foreign.settings
    setting = foreign.setting
    assert isinstance(setting, Adaptive)
    assert (setting.method, setting.rtol, setting.atol, setting.scope) == ("dopri5", TOLERANCE, TOLERANCE, "batch")
    assert (setting.step_gradient, setting.end) == ("first", "dense")
    assert own.adaptive
    assert foreign.adaptive
    assert (own.whose, foreign.whose) == ("sonet", "torchdiffeq")
    fixed = pair(fixed=True)
    assert [each.setting for each in fixed] == [Fixed(method="rk4_38", num_steps=4)] * 2
    assert not any(each.adaptive for each in fixed)


@pytest.mark.parametrize("fixed", [False, True])
def test_the_deployed_models_agree(fixed: bool) -> None:
    own, foreign = pair(fixed)
    assert_alike(own._counted, foreign._counted)
    assert_alike(own.variant(), foreign._counted)
    assert_alike(foreign.variant(), foreign._counted)


@pytest.mark.parametrize(
    "changes",
    [
        {"scope": "sample"},
        {"scope": "sample", "step_gradient": "frozen"},
        {"step_gradient": "differentiated"},
        {"scope": "sample", "step_gradient": "differentiated", "end": "clip"},
        {"method": "bosh3", "end": "clip"},
        {"solver": Fixed(method="rk4", num_steps=8)},
        {"solver": Fixed(method="euler", num_steps=4)},
        {"solver": Adaptive(rtol=1e-5, atol=1e-5)},
    ],
    ids=str,
)
def test_variants_agree_and_differ_from_what_is_deployed(changes: dict[str, Any]) -> None:
    own, foreign = pair()
    assert_alike(own.variant(**changes), foreign.variant(**changes))
    deployed, turned = answer(foreign._counted), answer(foreign.variant(**changes))
    assert not torch.allclose(deployed[1], turned[1], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("factor", [1.0, 0.01])
def test_tolerances_agree(factor: float) -> None:
    own, foreign = pair()
    for changes in ({}, {"scope": "sample", "step_gradient": "frozen", "end": "clip"}):
        assert_alike(own.tolerance(factor, **changes), foreign.tolerance(factor, **changes))
    setting = own.setting
    assert isinstance(setting, Adaptive)
    tight = setting.model_copy(update={"rtol": factor * TOLERANCE, "atol": factor * TOLERANCE})
    assert_alike(own.tolerance(factor), Own(tight))


def test_factor_one_is_what_is_deployed_also_where_tolerances_differ() -> None:
    model = nn.Sequential(Own(Adaptive(rtol=1e-1, atol=1e-1)), Between(), Own(Adaptive())).eval()
    dial = OwnDial(model)
    assert_alike(dial.tolerance(1.0), model)
    both = [solver.model_copy(update={"rtol": 1e-3, "atol": 1e-3}) for solver in dial.settings]
    with torch.no_grad():
        tight = dial.tolerance(0.01)(IMAGES)
        for block, solver in zip(ode_blocks(model).values(), both, strict=True):
            block.solver = solver
        torch.testing.assert_close(tight, model(IMAGES), rtol=1e-9, atol=1e-9)


def test_adjoints_agree_and_backpropagation_is_the_other_gradient() -> None:
    own, foreign = pair()
    assert not own.adjoint
    assert not foreign.adjoint
    # torchdiffeq's backward steps look at the weights' gradients and at time too, as ours need not: within a tolerance.
    assert_alike(own.by_adjoint(), foreign.by_adjoint(), rtol=2 * TOLERANCE)
    tight = pair(tolerance=1e-9)
    assert_alike(tight[0].by_adjoint(), tight[1].by_adjoint())
    assert_alike(tight[0].by_adjoint(), tight[1].by_steps())
    assert_alike(own.by_steps(), foreign.by_steps())
    assert_alike(foreign.by_steps(), foreign._counted)
    assert not torch.allclose(answer(foreign.by_adjoint())[1], answer(foreign.by_steps())[1], rtol=1e-4)


def test_a_network_that_deploys_the_adjoint_is_compared_with_backpropagation() -> None:
    own, foreign = pair(adjoint=True)
    assert foreign.adjoint
    assert_alike(foreign.by_steps(), own._counted)
    deployed, steps = answer(foreign._counted)[1], answer(foreign.by_steps())[1]
    assert not torch.allclose(deployed, steps, rtol=1e-4)


@pytest.mark.parametrize("deployed", [False, True])
def test_the_adjoint_check_compares_with_the_other_of_the_two(deployed: bool) -> None:
    model = Foreign(deployed, rtol=TOLERANCE, atol=TOLERANCE)
    subject = subject_of(model, IMAGES, probes=5)
    dial = subject.dial
    assert dial is not None
    ways = [subject.gradient(IMAGES, subject.labels, "ce", Backpropagation(way()))[0].flatten(1)
            for way in (dial.by_adjoint, dial.by_steps)]  # fmt: skip
    expected = float(torch.nn.functional.cosine_similarity(*ways).median())
    assert expected < 1 - 1e-9
    found = adjoint(subject)
    assert found.value == pytest.approx(expected, abs=1e-12)
    assert f"with that of {'backpropagation' if deployed else 'the adjoint'} is" in found.sentence


@pytest.mark.parametrize("fixed", [False, True])
def test_evaluations_of_each_image_agree(fixed: bool) -> None:
    own, foreign = pair(fixed)
    each = torch.cat([own.evaluations(image) for image in IMAGES.split(1)])
    assert foreign.evaluations(IMAGES).tolist() == each.tolist()
    assert foreign.step_counts(IMAGES).tolist() == each.long()[:, None].tolist()
    assert own.evaluations(IMAGES).dtype == foreign.evaluations(IMAGES).dtype == torch.float64
    assert own.step_counts(IMAGES).shape == (5, 1)
    if fixed:
        assert each.tolist() == [16.0] * 5  # four stages a step
        assert own.step_counts(IMAGES).tolist() == [[4]] * 5
    else:
        assert len(set(each.tolist())) > 1


def test_rejected_steps_are_steps() -> None:
    dial = OwnDial(Own(Adaptive(rtol=1e-6, atol=1e-6, first_step=0.9)))
    solutions = []
    with torch.no_grad(), watch_solves(dial._model, lambda name, solution: solutions.append(solution)):
        dial._model(IMAGES)
    assert bool((solutions[0].rejected > 0).all())
    assert dial.step_counts(IMAGES)[:, 0].tolist() == (solutions[0].accepted + solutions[0].rejected).tolist()


def test_watching_counts_no_step_twice_and_leaves_no_listener() -> None:
    own, _ = pair()
    own.step_counts(IMAGES)
    assert not any(block.listeners for block in ode_blocks(own._model).values())


def test_the_solver_is_back_after_a_variant_even_one_that_fails() -> None:
    own, foreign = pair()
    before = answer(own._counted), answer(foreign._counted)
    with pytest.raises(ConfigError):
        own.variant(num_steps=3)(IMAGES)
    with pytest.raises(ValueError, match="num_steps"):
        foreign.variant(num_steps=3)(IMAGES)
    for old, dial in zip(before, (own, foreign), strict=True):
        assert torch.equal(answer(dial._counted)[1], old[1])


def test_a_fixed_solver_has_no_tolerance() -> None:
    for dial in pair(fixed=True):
        with pytest.raises(ValueError, match=r"takes fixed steps \(rk4_38\)"):
            dial.tolerance(0.1)


def test_passes_are_images_forward_and_backward() -> None:
    for dial in pair():
        before = dial.passes
        dial.variant(scope="sample")(IMAGES)
        assert dial.passes == before + 5
        answer(dial.variant())
        assert dial.passes == before + 15


def test_no_dial_without_a_solver() -> None:
    assert find_dial(Linear.random(3), drawn(2)) is None
    assert find_dial(lambda images: images.flatten(1), drawn(2)) is None


def test_no_dial_where_a_call_cannot_be_steered() -> None:
    model = Foreign(method="dopri8", rtol=1e-2, atol=1e-2)
    assert find_dial(model, IMAGES[:2]) is None


def test_the_dial_is_found_from_a_plain_function_around_a_network() -> None:
    model = Foreign(rtol=TOLERANCE, atol=TOLERANCE)
    found = find_dial(lambda images: model(images), IMAGES[:2])
    assert isinstance(found, ForeignDial)
    assert_alike(found.variant(scope="sample"), pair()[0].variant(scope="sample"))


def test_a_sonet_has_a_dial_with_a_setting_for_each_block() -> None:
    model = sonet.build("sonet", channels=4, blocks=(1, 1), strides=(1, 2), in_channels=1, classes=3, seed=0).eval()
    found: Dial | None = find_dial(model, drawn(2))
    assert isinstance(found, OwnDial)
    assert found.settings == (Adaptive(),) * 4
    assert found.step_counts(drawn(2)).shape == (2, 4)


def test_a_dial_needs_all_solves_to_be_adaptive() -> None:
    model = nn.Sequential(Gauge(Adaptive()), nn.Unflatten(1, (1, 1, 2)), Gauge(Fixed())).eval()
    assert not OwnDial(model).adaptive
