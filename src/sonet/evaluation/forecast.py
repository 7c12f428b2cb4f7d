"""How long attacks will take, and what to do with the time that is left of a budget."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from sonet.attacks import Backpropagation
from sonet.attacks.ensemble import Member
from sonet.attacks.losses import Goal
from sonet.attacks.noise import ImageNoise
from sonet.types import Classifier, Images, Labels


@dataclass(frozen=True)
class Pace:
    """Seconds an image: of a forward and a backward pass, and of a forward pass alone; and who shares the images."""

    both: float
    forward: float
    processes: int = 1

    @classmethod
    def measure(cls, classifier: Classifier, images: Images, labels: Labels, processes: int) -> Pace:
        """The second of two calls of each kind on a batch of the attacks' size; labels only fix their number."""
        source, goal = Backpropagation(classifier), Goal(labels[: len(images)])
        noise = ImageNoise(images[:1], 0)
        times = []
        for ask in (lambda: source(images, goal, noise), lambda: source.logits(images)):
            for _ in range(2):
                begun = time.perf_counter()
                ask()
                if images.is_cuda:
                    torch.cuda.synchronize()
                took = time.perf_counter() - begun
            times.append(took / len(images))
        return cls(both=times[0], forward=times[1], processes=processes)

    def forecast(self, members: Sequence[Member], images: int) -> float:
        """Seconds at most, if no image falls, by the price of each attack; its own arithmetic is not counted.

        Of several processes, those of the one with most images: units are whole batches.
        """
        total = 0.0
        for member in members:
            (both, forward), size = member.attack.price, member.attack.batch_size
            rounds = math.ceil(math.ceil(images / size) / self.processes)
            total += min(images, rounds * size) * (both * self.both + forward * self.forward)
        return total


class Clock:
    """Time of an evaluation, that of units done before a kill included."""

    def __init__(self, budget: float | None) -> None:
        self._budget, self._begun, self._earlier = budget, time.perf_counter(), 0.0

    def add(self, seconds: float) -> None:
        """Time that units took which were made before this call."""
        self._earlier += seconds

    @property
    def spent(self) -> float:
        return time.perf_counter() - self._begun + self._earlier

    @property
    def left(self) -> float:
        return float("inf") if self._budget is None else self._budget - self.spent


def further_rounds(members: Sequence[Member]) -> Iterator[Member]:
    """The same attacks again and again with new seeds, named apart, for as long as the caller takes them.

    Only attacks that draw at random can gain from it: one whose result does not change with its seed is left out.
    """
    again = [member for member in members if member.attack.draws]
    number = 2
    while again:
        for member in again:
            seed = member.attack.seed + number - 1
            attack = member.attack.model_copy(update={"seed": seed})
            yield member.model_copy(update={"name": f"{member.name}-round-{number}", "attack": attack})
        number += 1


def duration(seconds: float) -> str:
    """Seconds for people: 8 s, 3 min, 2 h 10 min."""
    if seconds < 99.5:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
