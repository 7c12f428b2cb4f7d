"""From a network to its constants: how fast every difference of two logits can change, and what rounding may hide."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sonet.blocks import UnitRows
from sonet.blocks.cover import NotCovered, cover
from sonet.blocks.cover_layers import head_terms
from sonet.bounds import Reach
from sonet.bounds.contraction import UP
from sonet.bounds.reach import ROUNDINGS
from sonet.models import Chain, Path, layers
from sonet.types import Images


class CannotCertify(ValueError):
    """No certificate for this network: says which part has no bound, and why."""


@dataclass(frozen=True)
class Layer:
    """A layer on the way: the product of all constants up to it, and what rounding may have moved by then (l_2)."""

    name: str
    kind: str
    gain: float
    error: float


@dataclass(frozen=True)
class Bound:
    """gaps: (classes, classes) float64, Lipschitz constant in l_2 of logit i minus logit j on images in [0, 1].

    error: how far the difference of two computed logits can be from that of exact arithmetic. layers: the way there.
    """

    gaps: Tensor
    error: float
    layers: tuple[Layer, ...]

    @property
    def largest(self) -> float:
        return float(self.gaps.max())


def bound_network(model: nn.Module, image: Images, size: float | None = None) -> Bound:
    """The constants of a network for images like `image`, (1, C, H, W), in float32 on a CPU.

    size: no image that is meant, attacked or not, is longer in l_2; only `error` depends on it. Default sqrt(C H W), as
    long as an image in [0, 1] can be.

    The model is a `Chain`, or an nn.Sequential of layers that have a bound; it is in eval mode.
    Errors: CannotCertify.
    """
    path = path_of(model)
    if not path:
        raise CannotCertify(f"{type(model).__name__} has no layers, expected a classifier.")
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point() and (tensor.dtype != torch.float32 or tensor.device.type != "cpu"):
            raise CannotCertify(
                f"the network has weights in {tensor.dtype} on {tensor.device}, expected float32 on the CPU, for which "
                "rounding is counted. Move it there."
            )
        if not bool(torch.isfinite(tensor).all()):
            raise CannotCertify("the network has weights that are not finite, so it has no bound.")
    if model.training:
        raise CannotCertify("the network is in train mode; a certificate is for what is deployed: call eval() first.")
    if model._forward_hooks or model._forward_pre_hooks or "forward" in vars(model):
        raise CannotCertify("the network has hooks, or a forward of its own, which may change what it computes.")
    shapes = _shapes(model, path, image)
    longest = math.sqrt(image[0].numel()) * UP
    size = longest if size is None else min(size, longest)
    reach = Reach(size, 1.0, 0.0, torch.finfo(torch.float32).eps / 2)
    passed: list[Layer] = []
    before = reach
    for name, module in path:
        before = reach
        try:
            reach = cover(module, reach, shapes[name])
        except NotCovered as error:
            text = str(error).removeprefix(f"{name}: ")
            raise CannotCertify(f"{name} has no bound, so the network has none. {text}") from None
        passed.append(Layer(name, type(module).__name__, reach.gain, reach.error))
    head = path[-1][1]
    if not isinstance(head, UnitRows | nn.Linear):
        with torch.no_grad():
            classes = model(image).shape[1]
        gaps = torch.full((classes, classes), math.sqrt(2) * reach.gain, dtype=torch.float64)
        rounding = math.sqrt(2) * reach.error
    else:
        rows, bias = _rows(head)
        apart = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
        gaps = before.gain * apart
        # Each logit is a sum of its own: n u ||w_i|| ||x||, twice for a difference.
        own = head_terms(head) * (rows.norm(dim=1) * before.seen + bias.abs())
        rounding = before.error * float(apart.max()) + 2 * ROUNDINGS * reach.unit * float(own.max())
    return Bound((gaps * UP).fill_diagonal_(0.0), rounding * UP, tuple(passed))


def path_of(model: nn.Module) -> Path:
    """The layers of a chain; CannotCertify for other networks."""
    if isinstance(model, nn.Sequential):
        return layers(model, *dict(model.named_children()))
    if isinstance(model, Chain):
        return model.path()
    raise CannotCertify(
        f"{type(model).__name__} does not say in which order its layers come. Give it a method path() with the pairs "
        "(name, module) whose composition it is, or write it as an nn.Sequential."
    )


def _shapes(model: nn.Module, path: Path, image: Images) -> dict[str, tuple[int, ...]]:
    """The shape of each layer's input, read off by passing the image along the path; which must be the network."""
    shapes = {}
    x = image[:1]
    with torch.no_grad():
        try:
            wanted = model(x)
            for name, module in path:
                shapes[name] = tuple(x.shape[1:])
                x = module(x)
        except (RuntimeError, ValueError, IndexError) as error:
            first = str(error).strip().split("\n")[0]
            raise CannotCertify(
                f"{type(model).__name__} does not take images of shape {tuple(image.shape[1:])}: {first}"
            ) from None
    if x.shape != wanted.shape or not torch.equal(x, wanted):
        raise CannotCertify(
            f"{type(model).__name__}: its path() is not what it computes: passing an image along it gives other logits."
        )
    if wanted.ndim != 2:
        raise CannotCertify(
            f"{type(model).__name__} answers an image with shape {tuple(wanted.shape)}, expected logits (1, classes)."
        )
    return shapes


def _rows(head: UnitRows | nn.Linear) -> tuple[Tensor, Tensor]:
    """Rows and bias of a linear last layer, in float64."""
    rows = (head.rows() if isinstance(head, UnitRows) else head.weight).detach().double()
    return rows, rows.new_zeros(len(rows)) if head.bias is None else head.bias.detach().double()
