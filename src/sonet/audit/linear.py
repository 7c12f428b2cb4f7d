"""A linear classifier whose distance to every decision boundary has a closed form, in the box too."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sonet.attacks import Threat
from sonet.attacks.threat import Norm
from sonet.types import Images, Labels, Logits

SHAPE = (1, 8, 8)


class Linear(nn.Module):
    r"""logits = W x + b. Everything an attack may find out about it is known.

    Planted: nothing; the gradient is right and constant, and the samples are independent to the last bit. The right
    answer: `distance`, below which no attack can succeed and above which one that follows the gradient must.

    For label y and another class j let v = W_j - W_y and gap = z_y - z_j >= 0. A pixel can move by at most its room
    r_i = 1 - x_i (v_i > 0) or x_i (v_i < 0). The nearest image of class j moves all pixels along v until they stop at
    the box, so that gap is reached at the smallest t with

        linf:  sum_i |v_i| min(t, r_i) = gap,           distance t
        l2:    sum_i |v_i| min(t |v_i|, r_i) = gap,     distance ||min(t |v|, r)||

    (the conditions of Karush, Kuhn and Tucker). Both sums are piecewise linear in t, so t is exact. All is computed in
    float64 from the parameters and the images as they are.

    Args:
        weight: (K, C * H * W). bias: (K,).
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.eval()

    @classmethod
    def random(cls, classes: int, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> Linear:
        """Standard normal weights, float32; all logits are equal at the grey image 1/2."""
        size = shape[0] * shape[1] * shape[2]
        weight = torch.randn(classes, size, generator=torch.Generator().manual_seed(seed))
        return cls(weight, -weight.sum(1) / 2)

    def forward(self, images: Images) -> Logits:
        # A matrix product may round a row differently in another batch; sums along rows do not.
        logits: Logits = (images.flatten(1)[:, None] * self.weight).sum(2) + self.bias
        return logits

    def distances(self, images: Images, labels: Labels, norm: Norm, box: bool = True) -> Tensor:
        """Of each image to the boundary with each class, (N, K) float64.

        0 where that class is ahead already; infinite where no image in the box has it ahead, and for the label itself.
        Without `box` pixels may leave [0, 1]: gap / ||v||_1 (linf) and gap / ||v||_2 (l2).
        """
        v, gap, room = self._pairs(images, labels)
        if not box:
            found: Tensor = gap.clamp_min(0.0) / torch.linalg.vector_norm(v, ord=1 if norm == "linf" else 2, dim=2)
        elif norm == "linf":
            found = first_crossing(v.abs(), room, gap)
        else:
            t = first_crossing(v.square(), room / v.abs(), gap)
            moved = torch.linalg.vector_norm(torch.minimum(t[:, :, None] * v.abs(), room), dim=2)
            found = moved.masked_fill(t.isinf(), torch.inf)
        return found.masked_fill(own_class(labels, found.shape[1]), torch.inf)

    def distance(self, images: Images, labels: Labels, norm: Norm, box: bool = True) -> Tensor:
        """Of the nearest image that fools, (N,) float64."""
        return self.distances(images, labels, norm, box).amin(1)

    def nearest(self, images: Images, labels: Labels, norm: Norm) -> Tensor:
        """That image, on the boundary itself, (N, C, H, W) float64; the image itself where none is."""
        v, gap, room = self._pairs(images, labels)
        rate, end = (v.abs(), room) if norm == "linf" else (v.square(), room / v.abs())
        place = torch.arange(len(labels)), self.distances(images, labels, norm).argmin(1)
        t = first_crossing(rate[place], end[place], gap[place]).nan_to_num(posinf=0.0)[:, None]
        length = t if norm == "linf" else t * v[place].abs()
        return images.double() + (v[place].sign() * torch.minimum(length, room[place])).view(images.shape)

    def straight(self, images: Images, labels: Labels, direction: Tensor) -> Tensor:
        """The first t at which clip(x + t direction) fools, (N,) float64; infinite where none does."""
        return self._crossings(images, labels, direction).amin(1)

    def past_all(self, images: Images, labels: Labels, norm: Norm) -> Tensor:
        r"""A radius within which one image has every other class ahead of the label, (N,) float64; maybe infinite.

        It is the distance at which clip(x + t u) has, u being the mean of all v (its signs in linf). An upper bound on
        the least such radius, and equal to `distance` for two classes.
        """
        v, gap, _ = self._pairs(images, labels)
        mean = v.sum(1) / (v.shape[1] - 1)
        direction = (mean.sign() if norm == "linf" else mean).view(images.shape)
        own = own_class(labels, gap.shape[1])
        t = self._crossings(images, labels, direction).masked_fill(own, 0.0).amax(1)
        moved = (images.double() + t.view(-1, 1, 1, 1) * direction).nan_to_num(0.0).clamp(0, 1)
        ahead = ((moved - images).flatten(1)[:, None] * v).sum(2) >= gap - 1e-9
        found = Threat(norm, 0.0).distance(moved, images.double())
        return torch.where((ahead | own).all(1) & t.isfinite(), found, torch.inf)

    def _crossings(self, images: Images, labels: Labels, direction: Tensor) -> Tensor:
        v, gap, _ = self._pairs(images, labels)
        d = direction.double().flatten(1)
        room = torch.where(d > 0, 1 - images.double().flatten(1), images.double().flatten(1))
        found = first_crossing(v * d[:, None], (room / d.abs())[:, None].expand_as(v), gap)
        return found.masked_fill(own_class(labels, found.shape[1]), torch.inf)

    def _pairs(self, images: Images, labels: Labels) -> tuple[Tensor, Tensor, Tensor]:
        """v, (N, K, d), the gaps, (N, K), and the rooms, (N, K, d), for each other class; float64."""
        weight, flat = self.weight.double(), images.double().flatten(1)
        logits = flat @ weight.T + self.bias.double()
        v = weight - weight[labels][:, None]
        room = torch.where(v > 0, (1 - flat)[:, None], flat[:, None])
        return v, logits.gather(1, labels[:, None]) - logits, room


def first_crossing(rate: Tensor, end: Tensor, goal: Tensor) -> Tensor:
    """The smallest t >= 0 with sum_i rate_i min(t, end_i) >= goal, exactly; infinite where there is none.

    rate, end: (..., d), end >= 0 (an element of rate 0 may have any). goal: (...).
    """
    end, order = end.masked_fill(rate == 0, 0.0).sort(-1)
    rate = rate.gather(-1, order)
    slope = rate.flip(-1).cumsum(-1).flip(-1)  # before end_i
    start = torch.cat((torch.zeros_like(end[..., :1]), end[..., :-1]), -1)
    value = torch.cat((torch.zeros_like(end[..., :1]), (slope * (end - start)).cumsum(-1)), -1)
    reached = value >= goal[..., None]
    place = reached.int().argmax(-1, keepdim=True)  # the first
    before = (place - 1).clamp_min(0)
    beyond = (goal[..., None] - value.gather(-1, before)) / slope.gather(-1, before)
    t = (start.gather(-1, before) + beyond).squeeze(-1)
    return torch.where(reached.any(-1), torch.where(goal <= 0, 0.0, t), torch.inf)


@dataclass(frozen=True)
class Scene:
    """A linear classifier and images that it gets right, to pick those from whose answers are alike."""

    model: Linear
    images: Images
    labels: Labels
    corners: bool = False
    _known: dict[tuple[str, Norm], Tensor] = field(default_factory=dict, repr=False, compare=False)

    def distances(self, norm: Norm) -> Tensor:
        """`Linear.distances` of all its images, computed once."""
        return self._once("distances", norm)

    def past_all(self, norm: Norm) -> Tensor:
        """`Linear.past_all` of all its images, computed once."""
        return self._once("past_all", norm)

    def _once(self, what: str, norm: Norm) -> Tensor:
        if (what, norm) not in self._known:
            self._known[what, norm] = getattr(self.model, what)(self.images, self.labels, norm)
        return self._known[what, norm]

    @classmethod
    def draw(cls, classes: int, seed: int, corners: bool = False, n: int = 2000) -> Scene:
        """Images in [0.3, 0.7], far from the faces of the box; with `corners` every pixel is 0 or 1.

        Those within are grey, plus a tenth of one class's own weights, plus noise: every other class is then about as
        far behind, and `past_all` not much beyond `distance`.
        """
        model = Linear.random(classes, seed)
        drawn = torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(seed + 1))
        own = model.weight - model.weight.mean(0)
        toward = 0.1 * (own / own.abs().amax(1, keepdim=True))[torch.arange(n) % classes].view_as(drawn)
        images = drawn.round() if corners else 0.4 + 0.2 * drawn + toward
        return cls(model, images, model(images).argmax(1), corners)

    def alike(self, radius: Tensor, n: int, among: Tensor | None = None) -> tuple[Images, Labels, Tensor]:
        """n images, labels and radii: those whose `radius`, (N,), is nearest the median, so that one eps serves all.

        among: (N,) bool, which images may be picked.
        """
        fit = radius.isfinite() if among is None else radius.isfinite() & among
        place = (radius - radius[fit].median()).abs().masked_fill(~fit, torch.inf).argsort(stable=True)[:n]
        return self.images[place], self.labels[place], radius[place]


def own_class(labels: Labels, classes: int) -> Tensor:
    """(N, K) bool: the label's place."""
    return nn.functional.one_hot(labels, classes).bool()
