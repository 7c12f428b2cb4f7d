"""Can this model be audited at all? Asked before any work: each problem a sentence that says what to change."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sonet.attacks.input import AttackError, check_eval_mode, check_images
from sonet.audit.failure import ask, ask_raw, explain, quote
from sonet.audit.form import coarse
from sonet.audit.guessing import accuracy, guesses, other_range
from sonet.audit.subject import SAME
from sonet.types import Classifier, Images, Labels, Logits, Proportion


class CannotAudit(ValueError):
    """The model, or its images, cannot be audited as they are; every reason is a sentence with its remedy."""


@dataclass(frozen=True)
class Preflight:
    """What was found before an audit.

    blockers: why it cannot begin. notes: what the reader of its outcome must know. classes: K of the logits (N, K), 0
    where there are none. accepts_single: it answers a batch of one. random: it answers otherwise when asked again.
    gradient: its logits have one at the images, be it zero; where not, only attacks without gradients can run.
    natural: accuracy on the images, None where it was not measured.
    """

    blockers: tuple[str, ...]
    notes: tuple[str, ...] = ()
    classes: int = 0
    accepts_single: bool = False
    random: bool = False
    gradient: bool = False
    natural: Proportion | None = None


def require(found: Preflight, name: str = "the model") -> Preflight:
    """`found` as it is, or `CannotAudit` with all its blockers."""
    if found.blockers:
        raise CannotAudit(f"{name} cannot be audited yet: {' Also: '.join(found.blockers)}")
    return found


def preflight(classifier: Classifier, images: Images, labels: Labels, *, batch: int) -> Preflight:
    """Ask `classifier` for every image once, for the first batch and one image a few times, for one gradient.

    images: (N, C, H, W) in [0, 1]. labels: (N,). batch: images judged together. Never raises for what the model does,
    only ValueError for a batch below 1. A module in train mode is not asked: that would change its statistics.
    """
    if batch < 1:
        raise ValueError(f"preflight: got batch {batch}, expected >= 1; it is the number of images judged together.")
    blockers = _of_input(classifier, images, labels)
    if blockers:
        return Preflight(tuple(blockers))
    images = images.detach().contiguous()
    first = images[:batch]
    given = first.clone()
    reply = ask_raw(classifier, given)
    if reply.logits is None:
        return Preflight((explain(classifier, first, reply.raised) if reply.raised else reply.misfit,))
    if not torch.equal(given, first):
        blockers.append(
            "the model changes its input in place, expected it untouched: attacks would lose the image they started "
            "from. Write x = x - mean instead of x -= mean or x.sub_(mean), or begin with x = x.clone()."
        )
    logits, notes = reply.logits, _of_precision(classifier, reply.logits)
    random = _random(classifier, first, logits, notes)
    sizes = _of_sizes(classifier, first, logits.shape[1])
    gradient = _gradient(classifier, images[:2], notes)
    found = Preflight((*blockers, *sizes.values()), tuple(notes), logits.shape[1], 1 not in sizes, random, gradient)
    return _judged(classifier, images, labels, batch, logits, found)


def _of_input(classifier: Classifier, images: Images, labels: Labels) -> list[str]:
    said = []
    if images.device != labels.device:
        said.append(f"the images are on {images.device}, the labels on {labels.device}. Move both to one device.")
    else:
        try:
            check_images(images, labels)
        except AttackError as error:
            said.append(str(error))
    try:
        check_eval_mode(classifier)
    except AttackError as error:
        said.append(str(error))
    return said


def _of_precision(classifier: Classifier, logits: Logits) -> list[str]:
    weights = list(classifier.parameters()) if isinstance(classifier, nn.Module) else []
    kinds = sorted({str(part.dtype).removeprefix("torch.") for part in (logits, *weights) if coarse(part.dtype)})
    if not kinds:
        return []
    return [
        f"It computes in {' and '.join(kinds)}, with two or three digits: slopes and small changes of the image may "
        "vanish in rounding. model.float() shows what remains without it."
    ]


def _random(classifier: Classifier, first: Images, logits: Logits, notes: list[str]) -> bool:
    """Whether the first batch, asked for again, has other logits."""
    again = ask(classifier, first, classes=logits.shape[1]).logits
    finite = torch.isfinite(logits) & (torch.isfinite(again) if again is not None else False)
    if again is None or not bool((torch.isfinite(logits) == torch.isfinite(again)).all()):
        moved = math.inf
    elif not bool(finite.any()):
        moved = 0.0
    else:
        spread = max(float(logits[finite].std(correction=0)), 1e-12)
        moved = float((logits - again)[finite].abs().max()) / spread
    if moved <= SAME:
        return False
    size = f"by up to {moved:.2g} of their spread" if moved < math.inf else "and fail or overflow only at times"
    notes.append(
        f"It answers otherwise when asked again: logits move {size}. If that is not meant, switch off dropout and "
        "noise; if it is, a single answer means little, and attacks must average over several."
    )
    return True


def _of_sizes(classifier: Classifier, first: Images, classes: int) -> dict[int, str]:
    """For a batch of one and one of nearly all, why the model does not take it; attacks drop images that fell."""
    said = {}
    for size in {1, max(1, len(first) - 1)} - {len(first)}:
        reply = ask(classifier, first[:size], classes=classes)
        if reply.logits is None:
            said[size] = (
                f"a batch of {size} fails where one of {len(first)} does not: {reply.trouble.rstrip('.')}. Attacks "
                "change the number of images; let it take any number. Usual causes are normalisation by the batch "
                "(model.eval()), squeeze() without a dimension, and a fixed size in view or reshape."
            )
    return said


def _gradient(classifier: Classifier, images: Images, notes: list[str]) -> bool:
    leaf = images.clone().requires_grad_(True)
    why = "its output does not depend on the images for autograd (numpy, no_grad or detach inside)"
    try:
        with torch.enable_grad():
            logits = classifier(leaf.clone())  # no leaf: a model may change its input
            if isinstance(logits, Tensor) and logits.requires_grad:
                (slope,) = torch.autograd.grad(logits.sum(), leaf, allow_unused=True)
                if slope is not None:
                    return True
    except Exception as error:
        why = f"asking for one fails ({quote(error)})"
    notes.append(f"There is no gradient at the images: {why}. Only attacks that need none can try it.")
    return False


def _judged(
    classifier: Classifier, images: Images, labels: Labels, batch: int, first: Logits, found: Preflight
) -> Preflight:
    """`found` with what the answers to all images say: labels, finite logits, accuracy, range of pixels."""
    classes = found.classes
    if int(labels.max()) >= classes:
        outside = int((labels >= classes).nonzero()[0])
        why = (
            f"label {outside} is {int(labels[outside])}, expected 0 to {classes - 1}, for the model has {classes} "
            "logits. Give the data that it was trained on; classes are numbered from 0."
        )
        return replace(found, blockers=(*found.blockers, why))
    replies = [ask(classifier, part, classes=classes) for part in torch.split(images, batch)[1:]]
    if any(reply.logits is None for reply in replies):
        why = next(reply.trouble for reply in replies if reply.logits is None)
        said = found.blockers or (f"of the batches of {batch} images some fail: {why.rstrip('.')}.",)
        return replace(found, blockers=said)
    logits = torch.cat([first, *(reply.logits for reply in replies if reply.logits is not None)])
    blockers, notes = list(found.blockers), list(found.notes)
    silent = int((~torch.isfinite(logits).all(1)).sum())
    if silent == len(logits):
        blockers.append(
            f"the logits of all {silent} images are NaN or infinite. Look for a division by zero, an overflow or "
            "weights that are NaN; there is nothing to attack."
        )
        return replace(found, blockers=tuple(blockers))
    if silent:
        notes.append(f"For {silent} of {len(logits)} images logits are NaN or infinite; those count as wrong.")
    chosen = logits.argmax(1)
    if len(torch.unique(labels)) > 1 and len(torch.unique(chosen)) == 1:
        notes.append(f"All {len(chosen)} images get class {int(chosen[0])}: it may not look at them at all.")
    natural = accuracy(logits, labels)
    better = other_range(classifier, images, labels, batch, natural)
    if guesses(natural, classes):
        what = better or "There is nothing to attack; see whether images, order of classes and weights are right."
        blockers.append(
            f"it gets {natural.count} of {natural.n} images right without attack; so would 1 of 20 who guess among "
            f"{classes} classes. {what}"
        )
    elif better:
        notes.append(f"It gets {natural.count} of {natural.n} images right without attack. {better}")
    return replace(found, blockers=tuple(blockers), notes=tuple(notes), natural=natural)
