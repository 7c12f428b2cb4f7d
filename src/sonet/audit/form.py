"""Is what a model answers logits, (N, K)? If not, what it is and how to make logits of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sonet.types import Images

_BINARY = (
    "A single logit z decides between two classes. Wrap it, `def wrapped(x): z = model(x).view(-1); "
    "return torch.stack((torch.zeros_like(z), z), 1)`, and audit `wrapped`; of a probability p, z = torch.logit(p)."
)


def misfit(answer: object, images: Images, classes: int = 0) -> str | None:
    """A sentence that says why `answer` is no logits for `images`, and the remedy; None where it is.

    classes: how many logits an image has; 0 where any number from 2 on fits.
    """
    if not isinstance(answer, Tensor):
        return _no_tensor(answer, images)
    n, shape = len(images), tuple(answer.shape)
    got = f"the model answers {shape} for images {tuple(images.shape)}, expected logits ({n}, classes)"
    if answer.device != images.device:
        return (
            f"the model answers on {answer.device}, expected {images.device}, where its images are. "
            "Move the model there, model.to(device), or let its forward return logits.to(x.device)."
        )
    if not answer.is_floating_point():
        return (
            f"the model answers numbers of {answer.dtype}, expected floating logits ({n}, classes). Class numbers have "
            "no gradient and no margin; return what argmax is taken of."
        )
    if answer.dim() == 2 and shape[0] == n and shape[1] >= 2:
        if classes in (0, shape[1]):
            return None
        return f"{got} with {classes} classes, as it gave before. The number of classes must not change."
    return f"{got}. {_remedy(shape, n)}"


def _remedy(shape: tuple[int, ...], n: int) -> str:
    if n == 1 and len(shape) == 1 and shape[0] > 1:
        return "A squeeze() takes the batch away where it has one image; name the dimension, such as squeeze(-1)."
    if shape in ((n,), (n, 1)) or (n == 1 and shape == ()):
        return _BINARY
    if shape == ():
        return "A single number looks like a loss or a score of the whole batch; return the logits of each image."
    if len(shape) == 2 and shape[1] == n:
        return "Classes come first; return logits.T."
    if shape[0] != n:
        return "The first dimension must be that of the images; do not join or drop images on the way."
    if len(shape) > 2 and set(shape[2:]) == {1}:
        return "Return logits.flatten(1)."
    if len(shape) > 2:
        places = tuple(range(2, len(shape)))
        return f"There are logits at several places; pool them, such as logits.mean({places}), to one set an image."
    return "Return one logit for each class."


def _no_tensor(answer: object, images: Images) -> str:
    got = f"the model answers a {type(answer).__name__}, expected a tensor of logits ({len(images)}, classes)."
    parts: list[tuple[str, object]] = []
    if isinstance(answer, Mapping):
        parts = [(f"[{key!r}]", value) for key, value in answer.items()]
    elif isinstance(answer, Sequence) and not isinstance(answer, str):
        parts = [(f"[{index}]", value) for index, value in enumerate(answer)]
    elif hasattr(answer, "__dict__"):
        parts = [(f".{name}", value) for name, value in vars(answer).items()]
    elif type(answer).__module__ == "numpy":
        return f"{got} Return a tensor, torch.from_numpy(logits); attacks that need a gradient will find none."
    good = [where for where, value in parts if isinstance(value, Tensor) and misfit(value, images) is None]
    if not good:
        return f"{got} Nothing in it looks like logits; return the logits alone."
    also = f" (also fitting: {', '.join(good[1:4])})" if good[1:] else ""
    return f"{got} Its {good[0]} fits{also}: wrap it, `def wrapped(x): return model(x){good[0]}`, and audit `wrapped`."


def coarse(kind: torch.dtype) -> bool:
    """Whether a type has only two or three decimal digits."""
    return kind in (torch.float16, torch.bfloat16)
