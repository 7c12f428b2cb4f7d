"""What an evaluation found: for each image whether any attack felled it, and for each attack what it did."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sonet.attacks.ensemble import Member
from sonet.attacks.threat import Threat
from sonet.types import Images, Labels, Proportion

EARLIER, WRONG, STANDS = -3, -2, -1
"""Entries of `fell_to`: fell at a smaller radius; wrong without an attack; right under all attacks."""


@dataclass(frozen=True)
class Attempt:
    """What one attack did. All (N,): tried; fooled (judged on the deployed model); distance to the clean image;
    queries; zero_gradients; minimum, the nearest image found that fools whatever eps, NaN where not looked for.

    standing: images right under this attack and all before it. seconds: crafting. final_loss: of the last
    step each image took, NaN where not tried.
    """

    member: Member
    tried: Tensor
    fooled: Tensor
    distance: Tensor
    queries: Tensor
    zero_gradients: Tensor
    minimum: Tensor
    final_loss: Tensor
    standing: int
    seconds: float

    @property
    def zero_gradient_share(self) -> float:
        tried = int(self.tried.sum())
        return float(self.zero_gradients[self.tried].float().mean()) if tried else 0.0


@dataclass(frozen=True)
class Evaluation:
    """The worst case over all attacks, per sample.

    fell_to: (N,) number of the first attack that felled an image, or EARLIER, WRONG, STANDS. adversarial: the image
    that did, else the last one tried. coupled: predictions or logits depend on batch-mates. random: they differ from
    call to call. together: predictions with all adversarial images judged at once as deployed; elsewhere: in batches of
    another size. unfinished: attacks left out for lack of time.
    """

    threat: Threat
    labels: Labels
    clean: Tensor
    adversarial: Images
    fell_to: Tensor
    attempts: tuple[Attempt, ...]
    coupled: bool
    random: bool
    together: Tensor
    elsewhere: Tensor
    seconds: float
    unfinished: tuple[str, ...] = ()

    @property
    def standing(self) -> Tensor:
        return self.fell_to == STANDS

    @property
    def accuracy(self) -> Proportion:
        """Images that no attack felled, of all: an upper bound of the accuracy under the worst attack."""
        return Proportion(int(self.standing.sum()), len(self.labels))

    @property
    def natural(self) -> Proportion:
        return Proportion(int((self.clean == self.labels).sum()), len(self.labels))

    @property
    def accuracy_elsewhere(self) -> Proportion:
        return Proportion(int((self.elsewhere == self.labels).sum()), len(self.labels))

    @property
    def flips(self) -> int:
        """Predictions of the adversarial images that change with the batch they are judged in."""
        return int((self.together != self.elsewhere).sum())

    @property
    def queries(self) -> int:
        return sum(int(attempt.queries.sum()) for attempt in self.attempts)

    @property
    def distance(self) -> Tensor:
        """(N,) distance of each adversarial image, of the attack that felled it; NaN for those that stand."""
        result = torch.full((len(self.labels),), torch.nan)
        for number, attempt in enumerate(self.attempts):
            mine = (self.fell_to == number).cpu()
            result[mine] = attempt.distance.cpu().float()[mine]
        return result
