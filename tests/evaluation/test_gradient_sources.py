"""The gradients an ODE network offers: each is what its name says, and each attacks the deployed map."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import sonet
from sonet.attacks import PGD, GradientSource, Linf, cross_entropy, margin
from sonet.attacks.losses import Goal
from sonet.attacks.noise import ImageNoise
from sonet.evaluation import GRADIENTS, gradient_sources
from sonet.evaluation.gradients import StateEvidence
from sonet.models import variant
from sonet.solvers import Adaptive, Fixed

IMAGES = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.arange(8) % 4


def network(solver: Adaptive | Fixed, norm: bool = True) -> torch.nn.Module:
    options = {"channels": 4, "blocks": (1, 1), "strides": (1, 2), "solver": solver, "norm": norm}
    model = sonet.build("sonet", in_channels=1, classes=4, seed=1, **options)
    return model.double().eval().requires_grad_(False)


def sources(model: torch.nn.Module) -> dict[str, GradientSource]:
    return gradient_sources(model, IMAGES, LABELS)


def slope(source: GradientSource, x: Tensor = IMAGES, labels: Tensor = LABELS) -> Tensor:
    return source(x, Goal(labels, cross_entropy), ImageNoise(x, 0)).gradient


def test_a_network_has_those_that_its_solver_allows() -> None:
    assert set(sources(network(sonet.paper()))) == set(GRADIENTS)
    assert set(sources(network(Fixed(method="euler", num_steps=2)))) == {"own", "finer", "jittered", "states"}
    plain = sonet.build("resnet10", in_channels=1, classes=4, channels=4, blocks=(1,), strides=(2,), seed=0).eval()
    assert set(gradient_sources(plain, IMAGES.float(), LABELS)) == {"own"}


def test_of_the_papers_network_all_but_the_own_belong_to_the_image() -> None:
    """A sample's gradient in the batch is that of the sample alone; of the own one it is not."""
    found = sources(network(sonet.paper()))
    for name, source in found.items():
        together, alone = (
            slope(source),
            torch.cat([slope(source, IMAGES[i : i + 1], LABELS[i : i + 1]) for i in range(8)]),
        )
        gap = ((together - alone).flatten(1).norm(dim=1) / alone.flatten(1).norm(dim=1)).max()
        assert (gap > 1e-3) if name == "own" else (gap < 1e-8), name


def test_frozen_and_alone_are_the_variants_they_name() -> None:
    model = network(sonet.paper())
    found = sources(model)
    for name, step_gradient in (("frozen", "frozen"), ("alone", "differentiated")):
        leaf = IMAGES.clone().requires_grad_(True)
        cross_entropy(variant(model, scope="sample", step_gradient=step_gradient)(leaf), LABELS).sum().backward()
        assert torch.equal(slope(found[name]), leaf.grad)
    assert not torch.allclose(slope(found["frozen"]), slope(found["alone"]))


@pytest.mark.parametrize("solver", [Adaptive(method="bosh3"), Fixed(method="midpoint", num_steps=2)])
def test_the_finer_one_is_nearer_to_the_flow_than_the_coarse_one(solver: Adaptive | Fixed) -> None:
    model = network(solver, norm=False)  # with GroupNorm in the field a tenth of this tolerance is still far off
    leaf = IMAGES.clone().requires_grad_(True)
    cross_entropy(variant(model, Adaptive(rtol=1e-9, atol=1e-9))(leaf), LABELS).sum().backward()
    flow = leaf.grad.flatten(1)  # type: ignore[union-attr]
    found = sources(model)
    near, coarse = (torch.cosine_similarity(slope(found[name]).flatten(1), flow) for name in ("finer", "own"))
    assert (1 - near).mean() < 0.5 * (1 - coarse).mean()


@pytest.mark.parametrize("solver", [sonet.paper(), Adaptive(rtol=0.1, atol=0.1), Fixed(method="rk4", num_steps=1)])
def test_the_deployed_map_decides_who_is_fooled(solver: Adaptive | Fixed) -> None:
    """Whatever the gradient, logits are those of the network itself, each image alone."""
    model = network(solver)
    alone = torch.cat([model(IMAGES[i : i + 1]) for i in range(8)])
    for name, source in sources(model).items():
        if name != "own":
            torch.testing.assert_close(source.logits(IMAGES), alone, rtol=1e-8, atol=1e-8)
            whole = source(IMAGES, Goal(LABELS), ImageNoise(IMAGES, 0))
            torch.testing.assert_close(whole.logits, alone, rtol=1e-8, atol=1e-8)
    attack = PGD(steps=4, loss="margin")
    for name, source in sources(model).items():
        result = attack.run(model, IMAGES, LABELS, Linf(0.1), gradients_from=source, judge_batch=1)
        after = torch.cat([model(result.adversarial[i : i + 1]) for i in range(8)])
        rises = margin(after, LABELS) - margin(alone, LABELS)
        assert (rises > 0).float().mean() > 0.5, name


def test_states_are_read_as_distances_to_class_means() -> None:
    model = network(Adaptive(rtol=0.1, atol=0.1))
    evidence = StateEvidence(model, model, IMAGES, LABELS)
    assert len(evidence.fitted[1]) == 4  # first block, two stages, head
    with torch.no_grad():
        whole = evidence(IMAGES)
        logits = model(IMAGES)
    assert whole.shape == logits.shape == (8, 4)
    shares = whole - logits / logits.std()
    own = shares.gather(1, LABELS[:, None])
    assert (shares.argmax(1) == LABELS).float().mean() > 0.5  # clean images lie near their own class's mean
    assert torch.isfinite(own).all()
    absent = StateEvidence(model, model, IMAGES[:2], LABELS[:2])  # two classes have no image
    assert all(torch.isfinite(mean).all() for mean, _ in absent.fitted[1].values())
    assert not model.requires_grad_(False).training
