"""The attack inside training: images crafted on a network as it will be deployed, which is left as it was found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from sonet.attacks import Attack, Backpropagation, Threat
from sonet.types import Images, Labels


def craft(model: nn.Module, attack: Attack, images: Images, labels: Labels, threat: Threat, seed: int) -> Images:
    """`attack`'s images alone: none of the checks and judgements of `Attack.run`, which would cost at every step.

    seed: of the draws, which belong to (seed, image): the same in any batch and in any process.
    """
    attack = attack.model_copy(update={"seed": seed})
    with as_deployed(model):
        return attack.craft(Backpropagation(model), images, labels, threat, (), None).images


@contextmanager
def as_deployed(model: nn.Module) -> Iterator[None]:
    """In eval mode, so that batch statistics hold still, with frozen weights, whose gradients would only cost.

    Afterwards, also after an exception, every module and every weight is as it was.
    """
    modes = [(module, module.training) for module in model.modules()]
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.eval()
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter in learning:
            parameter.requires_grad_(True)
