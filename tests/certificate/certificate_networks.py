"""Networks with a certificate, and the strongest attack on one that a test can afford."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sonet.attacks.threat import Norm
from sonet.blocks import TiedField, UnitRows
from sonet.data import Dataset, Split, load
from sonet.models import Path, build
from sonet.solvers import Fixed
from sonet.training import TrainConfig, fit

SIZE = (5, 4)
EULER = Fixed(method="euler", num_steps=2)
SMALL: dict[str, Any] = {"in_channels": 1, "classes": 3, "channels": 4, "blocks": (1, 1), "strides": (1, 2)}


def pixels(n: int, channels: int = 1, size: tuple[int, int] = SIZE, seed: int = 0) -> Tensor:
    return torch.rand(n, channels, *size, generator=torch.Generator().manual_seed(seed))


def stable(name: str = "stable-sonet", seed: int = 0, **options: Any) -> nn.Module:
    return build(name, seed=seed, **(SMALL | {"image_size": SIZE, "solver": EULER} | options)).eval()


def linear(seed: int = 0, classes: int = 3) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(SIZE[0] * SIZE[1], classes)).eval()


def convolutional(seed: int = 0) -> nn.Sequential:
    """Layers as anybody writes them, nested, the batch norms with statistics of some images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        head = nn.Sequential(nn.Conv2d(4, 3, 2, stride=2, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3))
        return fed(nn.Sequential(body, head))


def fed(model: nn.Module, channels: int = 1) -> Any:
    """In eval mode, after its batch norms have seen something."""
    with torch.no_grad():
        for seed in range(4):
            model.train()(pixels(16, channels, seed=90 + seed))
    return model.eval()


COVERED = {
    "linear": linear,
    "convolutional": convolutional,
    "stable-sonet": stable,
    "convex-potential": lambda: stable("convex-potential", solver=Fixed(method="euler", num_steps=1)),
    "resnet10": lambda: fed(build("resnet10", seed=0, **SMALL)),
    "wide-resnet": lambda: fed(build("wide-resnet", seed=0, in_channels=1, classes=3, depth=10, widen=1)),
    "sonet": lambda: build("sonet", seed=0, norm=False, solver=EULER, **SMALL).eval(),
    "sonet, damped": lambda: build("sonet", seed=1, norm=False, gamma=0.5, solver=EULER, **SMALL).eval(),
}
"""Whatever has a bound, by name."""


def exact(model: nn.Module) -> Any:
    """The same network in float64, with the kernels and rows that it makes of its weights in float32."""
    twin = copy.deepcopy(model).double().requires_grad_(False)
    for here, there in zip(model.modules(), twin.modules(), strict=True):
        for made in ("kernel", "rows"):
            if isinstance(here, TiedField | UnitRows) and hasattr(here, made):
                value = getattr(here, made)().detach().double()
                setattr(there, made, lambda value=value: value)
    return twin


class Chained(nn.Module):
    """A network of a user's own that says in which order its layers come; `steep` makes that a lie.

    It is the slope with which the first logit goes up, besides, where an image is brighter than `above`.
    """

    def __init__(self, seed: int = 0, steep: float = 0.0, above: float = 0.0) -> None:
        super().__init__()
        self.inner, self.steep, self.above = linear(seed), steep, above

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x)
        return logits + self.steep * F.pad(F.relu(x.flatten(1).mean(1, keepdim=True) - self.above), (0, 2))

    def path(self) -> Path:
        return [("first", self.inner[0]), ("last", self.inner[1])]


@cache
def digits() -> Dataset:
    return load("digits")


@cache
def trained() -> nn.Module:
    """On digits, for a certified radius; nobody changes it."""
    model = build("stable-sonet", like=digits(), seed=0, channels=8, blocks=(1, 1), strides=(1, 2), solver=EULER)
    config = TrainConfig(objective="margin", threat="l2:0.3", epochs=6, batch_size=50, device="cpu")
    fit(model, digits().train.take(500), config)
    return model.requires_grad_(False)


def some(n: int) -> Split:
    return digits().test.take(n)


def climb(
    model: nn.Module, x: Tensor, labels: Tensor, radii: Tensor, norm: Norm, *, steps: int = 60, restarts: int = 4
) -> Tensor:
    """PGD on the margin at a radius of each image's own, from its images and from random starts: (restarts, N, ...).

    No box: a certificate holds for every image that is as near. Every step's images are returned if they fool.
    """
    draw, room = torch.Generator().manual_seed(0), radii.view(-1, 1, 1, 1).to(x.dtype).repeat(restarts, 1, 1, 1)
    clean, truth = x.repeat(restarts, 1, 1, 1), labels.repeat(restarts)
    delta = room * _unit(torch.randn(clean.shape, generator=draw, dtype=x.dtype), norm)
    delta[: len(x)] = 0
    best, lead = delta, torch.full((len(clean),), torch.inf, dtype=x.dtype)
    for step in range(steps):
        delta = delta.detach().requires_grad_(True)
        logits = model(clean + delta)
        own = logits.gather(1, truth[:, None])[:, 0]
        others = logits.masked_fill(F.one_hot(truth, logits.shape[1]).bool(), -torch.inf)
        margin = own - others.amax(1)
        (slope,) = torch.autograd.grad(margin.sum(), delta)
        with torch.no_grad():
            better = margin < lead
            best, lead = torch.where(better.view(-1, 1, 1, 1), delta, best), torch.where(better, margin, lead)
            size = room * 2 * (1 - step / steps)
            delta = _within(delta - size * _unit(slope, norm), room, norm)
    return (clean + best).detach().view(restarts, *x.shape)


def _unit(slope: Tensor, norm: Norm) -> Tensor:
    if norm == "linf":
        return slope.sign()
    return slope / slope.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)


def _within(delta: Tensor, room: Tensor, norm: Norm) -> Tensor:
    if norm == "linf":
        return torch.maximum(torch.minimum(delta, room), -room)
    return delta * (room / delta.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)).clamp_max(1.0)
