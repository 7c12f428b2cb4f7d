"""What an attack can be given: asked before any work, so that the answer is one sentence."""

from __future__ import annotations

import torch

from sonet.attacks.gradients import GradientSource
from sonet.types import Classifier, Images, Labels


class AttackError(ValueError):
    """An attack's input or setting makes no sense; says got, expected, why, remedy."""


def check_eval_mode(*models: Classifier | GradientSource) -> None:
    """`AttackError` for a module that is in train mode, also one inside a source of gradients or of a source in it."""
    for model in models:
        if isinstance(model, GradientSource):
            for part in vars(model).values():
                check_eval_mode(*(part if isinstance(part, tuple) else (part,)))
        elif isinstance(model, torch.nn.Module) and any(part.training for part in model.modules()):
            raise AttackError(
                f"{type(model).__name__} is in train mode, expected eval mode: batch statistics and dropout would "
                "change under attack. Call model.eval() first."
            )


def check_images(images: Images, labels: Labels) -> Images:
    """Contiguous images, or `AttackError` saying which image is unfit."""
    if images.dim() != 4 or len(images) == 0 or labels.shape != images.shape[:1]:
        raise AttackError(
            f"expected images (N, C, H, W), N >= 1, and labels (N,), got {tuple(images.shape)} and "
            f"{tuple(labels.shape)}."
        )
    if images.dtype not in (torch.float32, torch.float64):
        raise AttackError(
            f"expected float32 or float64 images in [0, 1], got {images.dtype}; divide uint8 images by 255. "
            "Half precision is coarser than a budget of a few grey levels."
        )
    for bad, what in (
        (~torch.isfinite(images), "is not finite (NaN or infinite)"),
        ((images < 0) | (images > 1), "has pixels outside [0, 1]"),
    ):
        which = bad.flatten(1).any(1)
        if bool(which.any()):
            raise AttackError(
                f"image {int(which.nonzero()[0])} {what}; expected pixels in [0, 1]. "
                "Put any normalisation inside the model, so that eps is in pixel units."
            )
    if labels.dtype != torch.int64 or int(labels.min()) < 0:
        raise AttackError(f"expected labels int64 >= 0, got {labels.dtype} from {int(labels.min())}.")
    return images.detach().contiguous()


def check_logits(classifier: Classifier, images: Images, labels: Labels) -> int:
    """The number of classes, or `AttackError` where `classifier` gives no logits (N, classes) for every label."""
    with torch.no_grad():
        logits = classifier(images[:1])
    if logits.dim() != 2 or int(labels.max()) >= logits.shape[1]:
        raise AttackError(
            f"expected logits (N, classes) with classes > {int(labels.max())}, the largest label, "
            f"got {tuple(logits.shape)}."
        )
    if logits.shape[1] < 2:
        raise AttackError(f"expected at least two classes, got logits {tuple(logits.shape)}.")
    return int(logits.shape[1])
