"""Networks without a certificate get none, and a sentence that says which part has no bound, and why."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from certificate_networks import SIZE, SMALL, Chained, convolutional, linear, pixels, stable
from torch import Tensor, nn

from sonet.certificate import CannotCertify, bound_network, certify
from sonet.models import Path, build, swap_solver
from sonet.solvers import Adaptive, paper

END = SIZE[0] * SIZE[1]


def ended(*layers: nn.Module, features: int = END) -> nn.Sequential:
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, 3)).eval()


class Shorter(Chained):
    def path(self) -> Path:
        return super().path()[:1]


class Twice(nn.Sequential):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(super().forward(input))


def inside_in_train_mode() -> nn.Module:
    model = convolutional()
    model[0][1].train()  # type: ignore[index]
    return model


def infinite() -> nn.Module:
    model = linear()
    with torch.no_grad():
        model[1].weight[0, 0] = torch.inf  # type: ignore[index]
    return model


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "the paper's SONet": (lambda: build("sonet", seed=0, solver=paper(), **SMALL).eval(), "first has no bound"),
    "GroupNorm": (
        lambda: build("sonet", seed=0, solver=stable().config.solver, **SMALL).eval(),
        "first has no bound, so the network has none.*GroupNorm.*as small as it likes.*norm=False has a bound",
    ),
    "adaptive steps": (
        lambda: build("sonet", seed=0, norm=False, solver=Adaptive(), **SMALL).eval(),
        "daptive steps depend on the input",
    ),
    "a first layer of ODE": (lambda: build("soblock-resnet10", **SMALL).eval(), "first has no bound"),
    "train mode": (lambda: stable().train(), r"in train mode.*call eval\(\) first"),
    "a norm in train mode": (inside_in_train_mode, r"0\.1 has no bound.*BatchNorm2d in train mode"),
    "ODENet, without a path": (
        lambda: build("odenet", in_channels=1, channels=2, num_blocks=1).eval(),
        r"ODENet does not say in which order.*method path\(\).*or write it as an nn\.Sequential",
    ),
    "no path": (lambda: nn.Linear(4, 3).eval(), "Linear does not say in which order its layers come"),
    "a path that lies": (lambda: Chained(steep=1.0).eval(), r"Chained: its path\(\) is not what it computes"),
    "a path too short": (lambda: Shorter().eval(), r"Shorter: its path\(\) is not what it computes"),
    "a Sequential of its own kind": (lambda: Twice(nn.ReLU(), nn.Conv2d(1, 1, 1)).eval(), "is not what it computes"),
    "an unknown layer": (lambda: ended(nn.GELU()), "^0 has no bound, so the network has none. GELU: no bound is known"),
    "dropout": (lambda: ended(nn.Identity(), nn.Dropout()), "^1 has no bound.*Dropout"),
    "groups": (lambda: ended(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1, groups=2), features=2 * END), "groups"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_no_bound_without_a_proof(case: str) -> None:
    make, words = REFUSED[case]
    model = make()
    with pytest.raises(CannotCertify, match=words) as caught:
        bound_network(model, pixels(1))
    assert "\n" not in str(caught.value)
    with pytest.raises(CannotCertify):
        certify(model, pixels(2), torch.tensor([0, 1]), "l2")


def test_a_solver_taken_for_a_while_has_no_bound_for_that_while() -> None:
    model = stable()
    with swap_solver(model, Adaptive()), pytest.raises(CannotCertify, match=r"stages\.0\.0 has no bound"):
        bound_network(model, pixels(1))
    assert bound_network(model, pixels(1)).largest > 0


def loud(layer: nn.Module) -> nn.Module:
    layer.register_forward_hook(lambda module, given, out: 10 * out)
    return layer


@pytest.mark.parametrize("place", [0, 2])
def test_a_layer_that_a_hook_changes_has_no_bound(place: int) -> None:
    model = ended(nn.ReLU())
    loud(model[place])
    with pytest.raises(CannotCertify):
        bound_network(model, pixels(1))


def test_weights_that_are_not_finite_are_called_that() -> None:
    with pytest.raises(CannotCertify, match="finite"):
        bound_network(infinite(), pixels(1))


@pytest.mark.parametrize("make", [nn.Sequential, lambda: linear().double(), lambda: ended(features=7)])
def test_what_is_no_classifier_of_these_images_is_a_sentence(make: Callable[[], nn.Module]) -> None:
    with pytest.raises(CannotCertify):
        bound_network(make().eval(), pixels(1))
