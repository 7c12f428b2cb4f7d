"""An evaluation under way: one attack after the other, unit by unit, on the images that still stand."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from sonet.attacks import Attack, GradientSource
from sonet.attacks.ensemble import Member
from sonet.attacks.threat import Threat
from sonet.evaluation.forecast import Clock, Pace
from sonet.evaluation.outcome import STANDS, Attempt
from sonet.evaluation.processes import Processes
from sonet.evaluation.store import Store, Unit, pack, unpack
from sonet.types import Classifier, Images, Labels

Watch = Callable[[str, float, str], None]
"""Told of an attack by name, the part of its images done, and how it goes."""


class Run:
    """The state of an evaluation under way: who stands, the image that felled the others, what each attack did."""

    def __init__(
        self,
        classifier: Classifier,
        sources: Mapping[str, GradientSource],
        images: Images,
        labels: Labels,
        threat: Threat,
        judge_batch: int,
        coupled: bool,
        store: Store,
        clock: Clock,
        processes: Processes,
        watch: Watch,
        fell_to: Tensor,
        adversarial: Images,
    ) -> None:
        self.classifier, self.sources, self.images, self.labels = classifier, sources, images, labels
        self.threat, self.judge_batch, self.coupled = threat, judge_batch, coupled
        self.store, self.clock, self.processes, self.watch = store, clock, processes, watch
        self.fell_to, self.adversarial = fell_to, adversarial
        self.attempts: list[Attempt] = []
        self.unfinished: list[str] = []

    @property
    def standing(self) -> Tensor:
        return self.fell_to == STANDS

    def attempt(self, member: Member) -> None:
        """One attack on the images that stand (of a coupled model, on all), judged on the deployed model."""
        tried = torch.ones_like(self.standing) if self.coupled else self.standing
        units = self._units(member, tried.nonzero().squeeze(1))
        crafted, tried = self.images.clone(), torch.zeros_like(tried)
        for unit in units:
            place = unit.places.to(tried.device)
            crafted[place], tried[place] = unit.images.to(crafted), True
        places = tried.nonzero().squeeze(1)
        self.threat.check(crafted, self.images)
        fooled = torch.zeros_like(tried)
        if len(places):
            judged = self.processes.predict(self.classifier, crafted[places], self.judge_batch)
            fooled[places] = judged != self.labels[places]
        fell = fooled & self.standing
        self.adversarial = torch.where((tried & self.standing).view(-1, 1, 1, 1), crafted, self.adversarial)
        self.fell_to = torch.where(fell, len(self.attempts), self.fell_to)
        self.attempts.append(
            Attempt(
                member=member,
                tried=tried,
                fooled=fooled,
                distance=self.threat.distance(crafted, self.images),
                queries=_spread(units, "queries", len(tried), 0),
                zero_gradients=_spread(units, "zero_gradients", len(tried), False),
                minimum=_spread(units, "minimum", len(tried), torch.nan),
                final_loss=_final_loss(units, len(tried)),
                standing=int(self.standing.sum()),
                seconds=sum(unit.seconds for unit in units),
            )
        )
        self.watch(member.name, 1.0, f"{int(self.standing.sum())} of {len(tried)} images stand")

    def _units(self, member: Member, places: Tensor) -> list[Unit]:
        """The units of one attack, each made by one process, on whole batches whoever makes it, and told to all."""
        attack, name = member.attack, member.name
        if self.coupled and attack.stop_when_fooled:
            # An image that leaves would change what its batch-mates see.
            attack = attack.model_copy(update={"stop_when_fooled": False})
        batches = places.split(attack.batch_size) if len(places) else ()  # type: ignore[no-untyped-call]
        owners = self.processes.decide(lambda: self._owners(name, len(batches)))
        left, begun = self.processes.decide(lambda: self.clock.left), time.perf_counter()
        mine: dict[int, Unit] = {}
        for number in (number for number, owner in enumerate(owners) if owner == self.processes.rank):
            unit, some = self.store.load(name, number, batches[number]), batches[number]
            if unit is None and time.perf_counter() - begun >= left:
                break
            if unit is None:
                unit = self._craft(name, attack, self.sources[member.gradients], some, number, len(places))
                self.store.save(name, number, unit)
            else:
                self.clock.add(unit.seconds / unit.processes)
            mine[number] = unit
        units = [unit for number, owner in enumerate(owners) if (unit := self._told(name, mine.get(number), owner))]
        if len(units) < len(batches):
            self.unfinished.append(name)
        return units

    def _owners(self, name: str, count: int) -> list[int]:
        """Which process sees to each unit: those still to be made are dealt out, those on disk are the main one's."""
        missing = [number for number in range(count) if not self.store.has(name, number)]
        turn = {number: place % self.processes.world for place, number in enumerate(missing)}
        return [turn.get(number, 0) for number in range(count)]

    def _told(self, name: str, unit: Unit | None, owner: int) -> Unit | None:
        """A unit of process `owner`, in all of them; None where its time was up."""
        if self.processes.world == 1:
            return unit
        content = self.processes.share(pack(unit, name) if unit is not None else None, owner)
        return unpack(content) if content else None

    def _craft(self, name: str, attack: Attack, source: GradientSource, some: Tensor, number: int, total: int) -> Unit:
        begun, done = time.perf_counter(), 0.0

        def tell(image_steps: float) -> None:
            nonlocal done
            done += image_steps
            part = min(done / (attack.work * len(some)), 1.0)
            self.watch(name, (number * attack.batch_size + part * len(some)) / total, f"{total} images stand")

        images = self.images[some].contiguous()
        crafted = attack.craft(source, images, self.labels[some], self.threat, (), tell)
        minimum = torch.full((len(some),), torch.nan) if crafted.minimum is None else crafted.minimum
        return Unit(
            places=some.cpu(),
            images=crafted.images.detach().cpu(),
            loss=crafted.loss.detach().cpu(),
            zero_gradients=crafted.zero_gradients.cpu(),
            queries=crafted.queries.cpu(),
            minimum=minimum.cpu(),
            seconds=time.perf_counter() - begun,
            processes=self.processes.world,
        )

    def time_for(self, member: Member, pace: Pace) -> bool:
        """Whether the rest of the budget is enough for the member on those who stand, if none of them falls."""
        count = int(self.standing.sum())
        return self.processes.decide(lambda: pace.forecast((member,), count) <= self.clock.left)


def _spread(units: Sequence[Unit], name: str, total: int, fill: float) -> Tensor:
    """One (M,) entry of all units as (N,)."""
    first = getattr(units[0], name) if units else torch.zeros(0)
    result = torch.full((total,), fill, dtype=first.dtype)
    for unit in units:
        result[unit.places] = getattr(unit, name)
    return result


def _final_loss(units: Sequence[Unit], total: int) -> Tensor:
    result = torch.full((total,), torch.nan)
    for unit in units:
        steps = torch.arange(len(unit.loss))[:, None].where(~unit.loss.isnan(), -1).amax(0)
        known = steps >= 0
        result[unit.places[known]] = unit.loss[:, known].gather(0, steps[known][None])[0]
    return result
