"""Networks that cannot expand: whatever the weights, every layer and every difference of logits keeps its constant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sonet.blocks import TiedField, ode_blocks
from sonet.certificate import CannotCertify, bound_network
from sonet.data import Split
from sonet.models import ConfigError, build, configure, swap_solver, variant
from sonet.solvers import Adaptive, Fixed
from sonet.training import TrainConfig, fit, load_model

EULER = Fixed(method="euler", num_steps=2)
STAGES: dict[str, Any] = {"channels": 4, "blocks": (1, 1), "strides": (1, 2), "classes": 4, "image_size": (7, 5)}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "skew": ("stable-sonet", {"solver": EULER}),
    "large kernels": ("stable-sonet", {"kernel_norm": 0.8, "solver": Fixed(method="euler", num_steps=1)}),
    "bent": ("stable-sonet", {"slope": 0.3, "solver": EULER}),
    "straight": ("stable-sonet", {"slope": 1.0, "solver": Fixed(method="euler", num_steps=3)}),
    "heun": ("stable-sonet", {"solver": Fixed(method="heun", num_steps=2)}),
    "potential": ("convex-potential", {"solver": Fixed(method="euler", num_steps=1)}),
    "potential, heun": ("convex-potential", {"solver": Fixed(method="heun", num_steps=2)}),
}
EACH = pytest.mark.parametrize("which", list(NETWORKS))
BOTH = pytest.mark.parametrize("which", ["skew", "potential"])


def small(which: str, seed: int = 0, **options: Any) -> nn.Module:
    name, own = NETWORKS[which]
    return build(name, seed=seed, **(STAGES | own | options)).eval()


def images(n: int, channels: int = 3, size: tuple[int, int] = (7, 5), seed: int = 0) -> Tensor:
    return torch.rand(n, channels, *size, generator=torch.Generator().manual_seed(seed))


def trained(which: str, steps: int = 6) -> nn.Module:
    """After a few steps of AdamW, large ones, away from where the weights began."""
    model = small(which, seed=5).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.3)
    for step in range(steps):
        loss = nn.functional.cross_entropy(10 * model(images(16, seed=step)), torch.arange(16) % 4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def stretch(function: Callable[[Tensor], Tensor], a: Tensor, b: Tensor, rounds: int = 25) -> float:
    """The largest |f(a) - f(b)| / |a - b| met while gradient ascent moves both ends, in float64."""
    best = 0.0
    for _ in range(rounds):
        a, b = a.detach().requires_grad_(True), b.detach().requires_grad_(True)
        out, apart = (function(a) - function(b)).flatten(1).norm(dim=1), (a - b).flatten(1).norm(dim=1)
        ratio = out / apart
        best = max(best, float(ratio.detach().max()))
        slopes = torch.autograd.grad(ratio.sum(), (a, b))
        with torch.no_grad():
            a, b = (
                end + 0.05 * apart.view(-1, *(1,) * (end.dim() - 1)) * slope.sign()
                for end, slope in zip((a, b), slopes, strict=True)
            )
    return best


@EACH
@pytest.mark.parametrize("weights", ["drawn", "trained"])
def test_no_layer_expands_any_pair(which: str, weights: str) -> None:
    """Random pairs near and far, of states far larger and smaller than images too, and ascent from each of them."""
    model = (small(which) if weights == "drawn" else trained(which)).double()
    given, draw = images(6).double(), torch.Generator().manual_seed(1)
    scale = torch.tensor([0.01, 1, 1, 1, 5, 100]).double().view(-1, 1, 1, 1)
    expanded: dict[str, float] = {}
    for name, layer in model.path()[:-1]:
        a = given + scale * torch.randn(given.shape, generator=draw, dtype=torch.float64)
        b = a + 0.3 * scale * torch.randn(given.shape, generator=draw, dtype=torch.float64)
        expanded[name] = stretch(layer, a, b)
        given = layer(given).detach()
    assert max(expanded.values()) <= 1 + 1e-9, expanded
    assert min(expanded.values()) > 0.5, "nothing was measured"


@EACH
def test_differences_of_logits_keep_their_constants(which: str) -> None:
    """The network's own, which training uses; and they are no idle ones: ascent comes near them."""
    model = trained(which).double()
    gaps, places = model.gaps().detach(), torch.tril_indices(4, 4, -1)
    one, other = (place.repeat_interleave(3)[:, None] for place in places)  # six pairs of logits, three starts each
    x = images(18).double()
    b = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def lead(z: Tensor) -> Tensor:
        logits = model(z)
        return (logits.gather(1, one) - logits.gather(1, other)) / gaps[one, other]

    assert 0.05 < stretch(lead, x, b) <= 1 + 1e-9
    assert torch.equal(gaps, gaps.T)
    assert not gaps.diagonal().any()


@EACH
def test_the_network_s_own_constants_are_those_that_are_proven(which: str) -> None:
    model = trained(which)
    bound = bound_network(model, images(1))
    torch.testing.assert_close(bound.gaps, model.gaps().double(), rtol=2e-3, atol=1e-9)
    assert bound.layers[-2].gain <= 1 + 1e-6 * len(bound.layers)


def test_weights_of_any_length_give_the_same_kernel_and_zeros_a_field_of_zeros() -> None:
    model = small("skew")
    (field, *_) = (module for module in model.modules() if isinstance(module, TiedField))
    before = field.kernel()
    with torch.no_grad():
        field.weight.mul_(1000)
        torch.testing.assert_close(field.kernel(), before, rtol=1e-4, atol=1e-7)
        field.weight.zero_()
    assert not field.kernel().any()
    model.train()(images(2)).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


# Shapes and what is refused


@pytest.mark.parametrize(
    ("size", "channels", "inner"), [((1, 1), 1, 2), ((2, 3), 3, 8), ((5, 5), 4, 4), ((8, 7), 3, 4), ((3, 2), 1, 2)]
)
@BOTH
def test_any_size_channels_and_strides(which: str, size: tuple[int, int], channels: int, inner: int) -> None:
    options: dict[str, Any] = {"in_channels": channels, "channels": inner, "blocks": (1, 1, 1), "strides": (2, 1, 2)}
    model = small(which, image_size=size, **options)
    x = images(3, channels, size)
    logits = model(x)
    assert logits.shape == (3, 4)
    assert (logits.std(1) > 0).all()
    assert bound_network(model, x[:1]).gaps.shape == (4, 4)


@BOTH
def test_other_images_are_a_sentence(which: str) -> None:
    model = small(which)
    with pytest.raises(ValueError, match=r"got images of \(8, 8\), expected \(7, 5\).* Build it for this one"):
        model(images(2, 3, (8, 8)))
    with pytest.raises(ValueError, match="expected images with 3 channels, got 1"):
        model(images(2, 1))


@pytest.mark.parametrize(
    ("name", "options", "word"),
    [
        ("stable-sonet", {"channels": 5}, "channels must be even and at least the 3 of the images, got 5"),
        ("convex-potential", {"channels": 2}, "channels must be even and at least the 3 of the images, got 2"),
        ("stable-sonet", {"image_size": (0, 8)}, r"image_size\.0: .*greater than 0"),
        ("stable-sonet", {"kernel_norm": 0.0}, "kernel_norm: .*greater than 0"),
        ("stable-sonet", {"kernel_norm": float("inf")}, "kernel_norm: .*finite"),
        ("stable-sonet", {"slope": 0.0}, "slope: .*greater than 0"),
        ("stable-sonet", {"solver": Adaptive()}, "solver"),
        ("convex-potential", {"slope": 0.5}, "no option 'slope'"),
        (
            "stable-sonet",
            {"kernel_norm": 2.0, "slope": 0.3, "solver": Fixed(method="euler", num_steps=1)},
            "no damping was found .*Take more steps, a smaller kernel_norm, a slope nearer to 1",
        ),
        ("convex-potential", {"solver": Fixed(method="rk4", num_steps=1)}, "rk4: no norm .*Take euler or heun"),
    ],
)
def test_options_that_cannot_be_are_refused(name: str, options: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        configure(name, **options)


# Gradients and batches


@EACH
def test_the_slope_to_the_images_is_that_of_finite_differences(which: str) -> None:
    model, x = trained(which).double(), images(3).double().requires_grad_(True)
    (gradient,) = torch.autograd.grad(model(x)[:, 0].sum(), x)
    draw, step = torch.Generator().manual_seed(2), 1e-7
    for _ in range(4):
        way = torch.randn(x.shape, generator=draw, dtype=torch.float64)
        with torch.no_grad():
            ends = model(x + step * way)[:, 0] - model(x - step * way)[:, 0]
        torch.testing.assert_close((gradient * way).flatten(1).sum(1), ends / (2 * step), rtol=1e-5, atol=1e-7)
    assert gradient.abs().max() > 0


@EACH
def test_training_reaches_every_weight_and_deployment_none_of_the_kernels(which: str) -> None:
    model = small(which).train()
    at_work = model(images(6))
    at_work.square().sum().backward()
    lost = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not lost
    model.zero_grad(set_to_none=True)
    deployed = model.eval()(images(6))
    torch.testing.assert_close(deployed, at_work, rtol=0, atol=1e-5)
    deployed.square().sum().backward()
    weights = [m.weight for m in model.modules() if isinstance(m, TiedField)]
    assert all(weight.grad is None for weight in weights)


def test_the_gradient_to_the_weights_is_that_of_finite_differences() -> None:
    """Through the norm that ties the kernel too: lengthening the weights changes nothing."""
    model, x = small("skew").double().train(), images(3).double()
    (field, *_) = (module for module in model.modules() if isinstance(module, TiedField))
    (gradient,) = torch.autograd.grad(model(x)[:, 1].sum(), field.weight)
    way, step = torch.randn(field.weight.shape, generator=torch.Generator().manual_seed(4)).double(), 1e-6
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            field.weight.add_(sign * step * way)
            ends.append(float(model(x)[:, 1].sum()))
            field.weight.sub_(sign * step * way)
    gradient, weight = gradient.detach(), field.weight.detach()
    assert float((gradient * way).sum()) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4)
    assert float((gradient * weight).sum()) == pytest.approx(0, abs=1e-6 * float(gradient.abs().sum()))


@BOTH
def test_a_sample_does_not_depend_on_its_batch_mates(which: str) -> None:
    model, x, order = small(which), images(6), torch.tensor([3, 0, 5, 1, 4, 2])
    with torch.no_grad():
        whole = model(x)
        alone = torch.cat([model(x[i : i + 1]) for i in range(6)])
        torch.testing.assert_close(model(x[order]), whole[order], rtol=0, atol=1e-6)
        torch.testing.assert_close(alone, whole, rtol=0, atol=1e-6)
        broken = x.clone()
        broken[2, 1, 3, 3] = torch.nan
        logits = model(broken)
    assert torch.isnan(logits[2]).all()
    others = torch.tensor([0, 1, 3, 4, 5])
    torch.testing.assert_close(logits[others], whole[others], rtol=0, atol=1e-6)


@BOTH
def test_backward_through_permuted_images_is_that_of_their_contiguous_copies(which: str) -> None:
    model, found = small(which).double().train(), []
    stored = images(4).double().permute(0, 2, 3, 1).contiguous()  # as image files are: channels last
    for copied in (False, True):
        leaf = stored.clone().requires_grad_(True)
        x = leaf.permute(0, 3, 1, 2)
        logits = model(x.contiguous() if copied else x)
        loss = nn.functional.cross_entropy(logits, torch.arange(4))
        found.append((logits, *torch.autograd.grad(loss, [leaf, *model.parameters()])))
    for view, contiguous in zip(*found, strict=True):
        torch.testing.assert_close(view, contiguous, rtol=1e-9, atol=1e-12)


def test_a_network_made_and_asked_without_autograd_answers() -> None:
    with torch.inference_mode():
        model = small("skew")
        assert torch.equal(model(images(2)), small("skew")(images(2)))


# Files and other solvers


@BOTH
def test_a_saved_and_loaded_network_answers_the_same(which: str, tmp_path: Path) -> None:
    model = small(which)
    split = Split(images(20), torch.arange(20) % 4)
    fit(model, split, TrainConfig(epochs=1, batch_size=10, device="cpu", lr=0.05), run=tmp_path)
    loaded = load_model(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(images(9, seed=8)), model(images(9, seed=8)))
    assert loaded.config == model.config
    assert torch.equal(bound_network(loaded, images(1)).gaps, bound_network(model, images(1)).gaps)


@BOTH
def test_another_solver_runs_the_same_weights_but_adaptive_steps_have_no_bound(which: str) -> None:
    model, x = small(which), images(4)
    exact = variant(model, Fixed(method="rk4", num_steps=40))(x)
    with swap_solver(model, Adaptive(rtol=1e-6, atol=1e-7)):
        torch.testing.assert_close(model(x), exact, rtol=0, atol=1e-4)
        assert not torch.allclose(model(x), variant(model, EULER)(x), rtol=0, atol=1e-4)
        with pytest.raises(CannotCertify, match=r"daptive steps depend on the input.*Fixed steps have one\."):
            bound_network(model, x[:1])
    assert all(isinstance(block.solver, Fixed) for block in ode_blocks(model).values())
    assert bound_network(model, x[:1]).largest > 0
