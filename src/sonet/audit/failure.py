"""Why a model raises at some images: found out by trying what it might want instead."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sonet.audit.form import misfit
from sonet.audit.wrapping import forms, wrap
from sonet.types import Classifier, Images, Logits

_SIZES = (1, 2, 4, 8, 10, 16, 20, 32, 50, 64, 100, 128, 256)
"""Usual batch sizes."""


@dataclass(frozen=True)
class Reply:
    """What came of asking a model: its logits, or what it raised, or why its answer is no logits."""

    logits: Logits | None
    raised: str = ""
    misfit: str = ""

    @property
    def trouble(self) -> str:
        return self.misfit or f"the model fails ({self.raised})"


def quote(error: Exception) -> str:
    """Type and first line of an error of somebody else's code."""
    first = next((line for line in str(error).splitlines() if line.strip()), "without a message").strip()
    return f"{type(error).__name__}: {first[:240]}".rstrip(".")


def ask(classifier: Classifier, images: Tensor, *, classes: int = 0, gradient: bool = False) -> Reply:
    """The model's answer to a copy of `images`, which it may spoil. Whatever its code raises becomes a sentence.

    classes: how many it gave before; 0 where any number fits. gradient: with gradients enabled.
    """
    given = images.detach().clone(memory_format=torch.contiguous_format)
    return ask_raw(classifier, given, classes=classes, gradient=gradient)


def ask_raw(classifier: Classifier, images: Tensor, *, classes: int = 0, gradient: bool = False) -> Reply:
    """The same with `images` themselves."""
    try:
        with torch.set_grad_enabled(gradient):
            answer = classifier(images)
    except Exception as error:
        return Reply(None, raised=quote(error))
    wrong = misfit(answer, images, classes)
    return Reply(answer) if wrong is None else Reply(None, misfit=wrong)


def explain(classifier: Classifier, images: Images, raised: str) -> str:
    """Why `classifier` raises at `images`, and what to change; what it raised, where nothing is found."""
    given = f"images {tuple(images.shape)} of {images.dtype}"
    got = f"the model fails at {given} in [0, 1] ({raised})"
    sizes = [size for size in _SIZES if size < len(images) and ask(classifier, images[:size]).logits is not None]
    if sizes:
        return (
            f"{got}, but takes batches of {' and '.join(map(str, sizes[:3]))}. It needs too much memory for "
            f"{len(images)} images, or its batch size is fixed. Take a batch size that it takes, or let it take any."
        )
    if ask(classifier, images, gradient=True).logits is not None:
        return (
            f"{got} inside torch.no_grad(), but not with gradients enabled. It is also judged without; put "
            "`with torch.enable_grad():` around what needs them in its forward, and detach the logits there."
        )
    return _of_weights(classifier, images, got) or _of_images(classifier, images, got)


def _of_weights(classifier: Classifier, images: Images, got: str) -> str | None:
    if not isinstance(classifier, nn.Module):
        return None
    weights = [*classifier.parameters(), *classifier.buffers()]
    elsewhere = sorted({str(weight.device) for weight in weights} - {str(images.device)})
    if elsewhere:
        return (
            f"{got}: its weights are on {', '.join(elsewhere)}, the images on {images.device}. "
            f"Move it there, model.to({str(images.device)!r})."
        )
    kinds = {weight.dtype for weight in weights if weight.is_floating_point()} - {images.dtype}
    if kinds and any(ask(lambda x, kind=kind: classifier(x.to(kind)), images[:2]).logits is not None for kind in kinds):
        name = {torch.float32: "float", torch.float64: "double"}[images.dtype]
        return (
            f"{got}: its weights are {', '.join(sorted(map(str, kinds)))}. Audit it in the precision of the images, "
            f"model.{name}(); half precision is coarser than the slopes that are looked at."
        )
    return None


def _of_images(classifier: Classifier, images: Images, got: str) -> str:
    some = images[:2]
    for change in forms(*some.shape[1:]):
        try:
            changed = change.apply(some)
        except RuntimeError:  # a size this change is not made for
            continue
        if ask(classifier, changed).logits is not None:
            after = ".float()" if change.code in ("x.half()", "x.bfloat16()", "x.double()") else ""
            return f"{got}. It takes {change.words}. {wrap(change.code, after)}; a radius stays one of these images."
    return (
        f"{got}. It takes none of the usual sizes, numbers of channels, flattened images or types either. "
        "Give data of the kind it was trained on, or audit a function that makes of x what it takes."
    )
