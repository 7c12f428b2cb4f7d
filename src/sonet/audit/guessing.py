"""Is a model's accuracy without attack more than guessing, and is it made for pixels in [0, 1]?"""

from __future__ import annotations

import math

import torch

from sonet.audit.failure import ask
from sonet.audit.wrapping import ranges, wrap
from sonet.types import Classifier, Images, Labels, Logits, Proportion

_LOW, _BETTER = 0.5, 0.2
"""Up to this accuracy other ranges of pixels are tried, and one is named where it has so much more."""
_TRIED = 256
"""Images on which they are tried."""
_LUCK = 1.64
"""Standard errors above chance that 1 of 20 guessers has."""


def accuracy(logits: Logits, labels: Labels) -> Proportion:
    """Images whose logits are finite and largest at their label."""
    right = (logits.argmax(1) == labels) & torch.isfinite(logits).all(1)
    return Proportion(int(right.sum()), len(labels))


def guesses(natural: Proportion, classes: int) -> bool:
    """Whether 1 of 20 who guess among `classes` would do as well; never where every image is right."""
    chance = 1 / classes
    return natural.count < natural.n and natural.value <= chance + _LUCK * math.sqrt(chance * (1 - chance) / natural.n)


def other_range(classifier: Classifier, images: Images, labels: Labels, batch: int, natural: Proportion) -> str | None:
    """The range of pixels that the model seems made for, if its accuracy is low in [0, 1] and clearly better there.

    Clearly: by a fifth of the images or more, and the two Wilson intervals do not meet.
    """
    if natural.value > _LOW:
        return None
    images, labels = images[:_TRIED], labels[:_TRIED]
    tried: list[tuple[Proportion, str, str]] = []
    for change in ranges(images.shape[1]):
        replies = [ask(classifier, change.apply(part)).logits for part in torch.split(images, batch)]
        answers = [logits for logits in replies if logits is not None]
        if len(answers) == len(replies):
            tried.append((accuracy(torch.cat(answers), labels), change.words, change.code))
    if not tried:
        return None
    best, words, code = max(tried, key=lambda one: one[0].value)
    if best.value < natural.value + _BETTER or best.interval[0] <= natural.interval[1]:
        return None
    return f"With {words} it gets {best.count} of {best.n} right: that is what it was made for. {wrap(code)}."
