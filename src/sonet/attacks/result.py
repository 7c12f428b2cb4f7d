"""What an attack returns, and how images are judged."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sonet.attacks.threat import Threat
from sonet.types import Classifier, Images, Labels, Proportion


def predict(classifier: Classifier, images: Images, batch_size: int) -> Tensor:
    """Predicted classes, (N,), in batches of `batch_size` in the images' order; -1 where logits are not finite."""
    predictions = []
    with torch.no_grad():
        for batch in torch.split(images, batch_size):
            logits = classifier(batch.contiguous())
            predictions.append(torch.where(torch.isfinite(logits).all(1), logits.argmax(1), -1))
    return torch.cat(predictions)


@dataclass(frozen=True)
class AttackResult:
    """Adversarial images and, for each sample, how it went. A sample is fooled when its prediction is not its label.

    clean, predictions: (N,) predicted classes before and after, -1 where logits were not finite (which counts as
    fooled: the model gave no answer). elsewhere: predictions of the same adversarial images in batches of another
    size; `flips` counts the disagreement, 0 for a model whose samples do not depend on their batch-mates.
    minimum: (N,) distance of the nearest image found that fools, whatever eps, of attacks that look for it; else None.
    loss: (T, N), of each step, NaN after a sample stopped. queries_each: (N,), a backward pass counting as one.
    """

    adversarial: Images
    labels: Labels
    threat: Threat
    clean: Tensor
    predictions: Tensor
    elsewhere: Tensor
    distance: Tensor
    minimum: Tensor | None
    loss: Tensor
    zero_gradients: Tensor
    queries_each: Tensor
    seconds: float
    checkpoints: dict[int, Images]

    @property
    def fooled(self) -> Tensor:
        return self.predictions != self.labels

    @property
    def accuracy(self) -> Proportion:
        """Accuracy left under this attack: images still predicted right, of all."""
        return Proportion(int((~self.fooled).sum()), len(self.labels))

    @property
    def accuracy_elsewhere(self) -> Proportion:
        """The same, judged in batches of another size."""
        return Proportion(int((self.elsewhere == self.labels).sum()), len(self.labels))

    @property
    def natural(self) -> Proportion:
        return Proportion(int((self.clean == self.labels).sum()), len(self.labels))

    @property
    def flips(self) -> int:
        return int((self.predictions != self.elsewhere).sum())

    @property
    def queries(self) -> int:
        return int(self.queries_each.sum())

    @property
    def zero_gradient_share(self) -> float:
        return float(self.zero_gradients.float().mean())
