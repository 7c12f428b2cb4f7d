"""Subjects for the checks' tests: a small effort, and models whose right answers are known in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sonet.attacks import Linf, Threat
from sonet.audit import Effort
from sonet.audit.siege import REFERENCE, plain_pgd
from sonet.audit.subject import Subject
from sonet.blocks import ODEBlock, watch_solves
from sonet.solvers import Adaptive, Fixed, Solution
from sonet.types import Classifier, State

TINY = Effort(
    level="quick",
    images=24,
    steps=8,
    targets=2,
    queries=20,
    estimates=2,
    calls=4,
    probes=4,
    subset=8,
    restarts=3,
)


def subject_of(
    model: Classifier, images: Tensor, labels: Tensor | None = None, threat: Threat | None = None, **more: Any
) -> Subject:
    """labels: by default what the model says, so that all are right. more: of the effort, or of the subject."""
    effort = TINY.model_copy(update={key: more.pop(key) for key in list(more) if key in Effort.model_fields})
    if labels is None:
        with torch.no_grad():
            labels = model(images).argmax(1)
    return Subject(model, images, labels, threat or Linf(0.1), effort, **more)


def reference_run(subject: Subject) -> None:
    """The plain PGD alone, as `besiege` runs it."""
    together = subject.shared
    subject.stages.run(REFERENCE, plain_pgd(subject), subject.own, "own", plain=True, together=together, keep_last=True)


def wilson_low(count: int, n: int) -> float:
    """The lower end from its quadratic equation (p - count / n)^2 = z^2 p (1 - p) / n, by bisection on p."""
    z, share = 1.959963984540054, count / n
    low, high = 0.0, share
    for _ in range(100):
        p = (low + high) / 2
        low, high = (p, high) if (p - share) ** 2 > z * z * p * (1 - p) / n else (low, p)
    return low


def least_raising(n: int, share: float = 0.05) -> int:
    """The fewest of n whose interval lies above `share`."""
    return next(count for count in range(n + 1) if wilson_low(count, n) > share)


class Landscape(nn.Module):
    """Two classes; the margin of class 0's images is a polygon in s = pixel 0 - 1/2, one polygon a kind.

    kinds: (s, margin) corners each; pixel 1 says which, as kind / 10. Linear beyond the first and last corner too.
    """

    def __init__(self, *kinds: Sequence[tuple[float, float]]) -> None:
        super().__init__()
        self.kinds = [torch.tensor(corners) for corners in kinds]
        self.eval()

    def margins(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        s, kind = flat[:, 0] - 0.5, (flat[:, 1].detach() * 10).round().long()
        each = []
        for corners in self.kinds:
            x, y = corners[:, 0].contiguous(), corners[:, 1]
            right = torch.searchsorted(x, s.detach().contiguous()).clamp(1, len(x) - 1)
            slope = (y[right] - y[right - 1]) / (x[right] - x[right - 1])
            each.append(y[right - 1] + slope * (s - x[right - 1]))
        return torch.stack(each, 1).gather(1, kind.clamp(0, len(each) - 1)[:, None]).squeeze(1)

    def forward(self, images: Tensor) -> Tensor:
        margins = self.margins(images)
        return torch.stack((-margins, torch.zeros_like(margins)), 1)


def on_landscape(kinds: Sequence[int], pixels: int = 2) -> Tensor:
    """Images (N, 1, 1, pixels) at s = 0, of the kinds given."""
    images = torch.full((len(kinds), 1, 1, pixels), 0.5)
    images[:, 0, 0, 1] = torch.tensor(kinds) / 10
    return images


class Mates(nn.Module):
    """Logits (bias + own <u, x_i> + mates sum_{j != i} <u, x_j>, 0): linear, with a leak in closed form.

    hidden: the mates' part has its gradient and the value 0.
    """

    def __init__(self, u: Tensor, own: float, mates: float, bias: float = 0.0, hidden: bool = False) -> None:
        super().__init__()
        self.u, self.own, self.mates, self.bias, self.hidden = u, own, mates, bias, hidden
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        each = images.flatten(1) @ self.u.to(images)
        others = each.sum() - each
        if self.hidden:
            others = others - others.detach()
        return torch.stack((self.bias + self.own * each + self.mates * others, torch.zeros_like(each)), 1)


class Pixels(nn.Module):
    """Logits are pixels, times `by`: (N, C, H, W) -> (N, classes), the first pixels."""

    def __init__(self, classes: int = 2, by: float = 1.0) -> None:
        super().__init__()
        self.classes, self.by = classes, by
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, : self.classes] * self.by


class Decay(nn.Module):
    r"""y' = -rate y, y(0) = 1; z' = sin(3 z), z(0) = 6 x_1. Logits (a x_0 + gain (y(1) - offset), 0), by our ODE block.

    y does not depend on the image, so the ODE's gradient is (a, 0, ...); under shared or differentiated steps y depends
    on x_1 through the solver's error.
    """

    def __init__(
        self, solver: Fixed | Adaptive, *, a: float = 1.0, gain: float = 0.0, offset: float = 0.0, rate: float = 4.0
    ) -> None:
        super().__init__()
        self.a, self.gain, self.offset = a, gain, offset
        self.block = ODEBlock(_Start(), _Decay(rate), solver)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        first = self.a * images.flatten(1)[:, 0] + self.gain * (self.block(images)[:, 0] - self.offset)
        return torch.stack((first, torch.zeros_like(first)), 1)


class _Start(nn.Module):
    def forward(self, images: Tensor) -> State:
        z = 6 * images.flatten(1)[:, 1:2]
        return (torch.cat((torch.ones_like(z), z), 1),)


class _Decay(nn.Module):
    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, t: Tensor, state: State) -> State:
        y, z = state[0].split(1, 1)
        return (torch.cat((-self.rate * y, (3 * z).sin()), 1),)


class Gauge(nn.Module):
    """y' = z, z' = 0, y(0) = 0, z(0) = x_0 - 1/2: logits (10 y(1), 0) = (10 x_0 - 5, 0) under any solver.

    blind: at t = 0 the slope has no gradient. Under one step of Euler's the whole gradient is then 0, under n steps
    (n - 1) / n of the true one.
    """

    def __init__(self, solver: Fixed | Adaptive, blind: bool = False) -> None:
        super().__init__()
        self.block = ODEBlock(_GaugeStart(), _Gauge(blind), solver)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        first = 10 * self.block(images)[:, 0]
        return torch.stack((first, torch.zeros_like(first)), 1)


class _GaugeStart(nn.Module):
    def forward(self, images: Tensor) -> State:
        z = images.flatten(1)[:, :1] - 0.5
        return (torch.cat((torch.zeros_like(z), z), 1),)


class _Gauge(nn.Module):
    def __init__(self, blind: bool) -> None:
        super().__init__()
        self.blind = blind

    def forward(self, t: Tensor, state: State) -> State:
        z = state[0][:, 1:]
        slope = torch.where((t == 0)[:, None], z.detach(), z) if self.blind else z
        return (torch.cat((slope, torch.zeros_like(z)), 1),)


class BrightnessDecay(nn.Module):
    """y' = -(1 + pace x_0) y, y(0) = 1, x_0 a part of the state that stands still: brighter is more work.

    Logits (1 + y(1), 0).
    """

    def __init__(self, solver: Fixed | Adaptive, pace: float = 60.0) -> None:
        super().__init__()
        self.block = ODEBlock(_BrightnessStart(), _Brightness(pace), solver)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        first = 1 + self.block(images)[:, 0]
        return torch.stack((first, torch.zeros_like(first)), 1)


class _BrightnessStart(nn.Module):
    def forward(self, images: Tensor) -> State:
        x = images.flatten(1)[:, :1]
        return (torch.cat((torch.ones_like(x), x), 1),)


class _Brightness(nn.Module):
    def __init__(self, pace: float) -> None:
        super().__init__()
        self.pace = pace

    def forward(self, t: Tensor, state: State) -> State:
        y, x = state[0].split(1, 1)
        return (torch.cat((-(1 + self.pace * x) * y, torch.zeros_like(x)), 1),)


def drawn(n: int, shape: tuple[int, int, int] = (1, 8, 8), seed: int = 0) -> Tensor:
    """Images away from the faces of the box."""
    return 0.3 + 0.4 * torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def counted(model: nn.Module, image: Tensor) -> tuple[int, int]:
    """Trial steps and evaluations of all blocks for one image, by `watch_solves`."""
    steps, evaluations = [], []

    def see(name: str, solution: Solution) -> None:
        steps.append(int(solution.accepted + solution.rejected))
        evaluations.append(int(solution.evaluations))

    with torch.no_grad(), watch_solves(model, see):
        model(image[None])
    return sum(steps), sum(evaluations)


def plausible(text: str) -> bool:
    """A sentence with figures that are finite, about something that was measured."""
    words = {word.strip("(),.;:%") for word in text.split()}
    return text.endswith(".") and not words & {"nan", "inf", "-inf", "None"} and "Could not be measured" not in text


def rk4_factor(rate: float, steps: int) -> float:
    """y(1) of y' = -rate y under rk4: the stability polynomial to the power of the steps."""
    h = -rate / steps
    return (1 + h + h**2 / 2 + h**3 / 6 + h**4 / math.factorial(4)) ** steps
