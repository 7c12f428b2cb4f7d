"""The attacks of an audit, one after the other; who is plain, and who goes round the gradient."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sonet.attacks.attack import Attack, join_traces
from sonet.attacks.gradients import GradientSource
from sonet.attacks.result import predict
from sonet.report.audit_record import Stage
from sonet.types import Images, Proportion

if TYPE_CHECKING:
    from sonet.audit.subject import Subject


@dataclass(frozen=True)
class Attempt:
    """One attack's result on all images of the subject: (N,) bool who was tried, who fooled; the images it made.

    zero: (N,) bool, whose gradient was exactly 0 at some step. loss: (T, tried), NaN after a sample stopped. last: the
    last iterates, where they were kept.
    """

    stage: Stage
    tried: Tensor
    fooled: Tensor
    adversarial: Images
    zero: Tensor
    loss: Tensor
    last: Images | None = None


class Stages:
    """The books of the attacks. `standing`: right without attack and not fooled by any attempt so far.

    Judged are always all images together, in batches as deployed, those that were not attacked as they stand now. An
    image that fell once has fallen: where batch-mates matter, `left` is over all those judgements, and the images in
    `worst` judged once more need not all fool.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self.attempts: list[Attempt] = []
        self.standing = subject.right.clone()
        self.worst = subject.images.clone()
        self.fell_to: dict[int, str] = {}
        self._lucky: dict[str, Tensor] = {}

    def run(
        self, name: str, attack: Attack, source: GradientSource, gradient: str, *, plain: bool = False,
        together: bool = False, keep_last: bool = False,
    ) -> Attempt:  # fmt: skip
        """Attack those who stand, or with `together` all images in their own batches, as a shared gradient asks.

        A plain attack is tried on all who stand under plain ones, so that its figure owes nothing to attacks before it.
        """
        subject, start, before = self._subject, time.perf_counter(), self._subject.passes
        standing = self.plain_standing if plain else self.standing.clone()
        tried = torch.ones_like(standing) if together else standing
        if together and attack.stop_when_fooled:
            # An image that leaves would change what its batch-mates see.
            attack = attack.model_copy(update={"stop_when_fooled": False})
        whose = tried.nonzero().squeeze(1)
        crafted, zero, traces = subject.images.clone(), torch.zeros_like(tried), []
        last, final = subject.images.clone(), (attack.checkpoint_steps,) if keep_last else ()
        for some in whose.split(attack.batch_size) if len(whose) else ():  # type: ignore[no-untyped-call]
            images = subject.images[some].contiguous()
            made = attack.craft(source, images, subject.labels[some], subject.threat, final, None)
            crafted[some], zero[some] = made.images.detach().to(crafted), made.zero_gradients
            traces.append(made.loss)
            for images in made.checkpoints.values():
                last[some] = images.detach().to(last)
        return self.note(
            name,
            gradient,
            crafted,
            tried,
            plain=plain,
            zero=zero,
            loss=join_traces(traces) if traces else torch.empty(0, 0),
            seconds=time.perf_counter() - start,
            passes=subject.passes - before,
            last=last if keep_last else None,
        )

    def note(
        self,
        name: str,
        gradient: str,
        crafted: Images,
        tried: Tensor,
        *,
        plain: bool = False,
        zero: Tensor | None = None,
        loss: Tensor | None = None,
        last: Images | None = None,
        seconds: float = 0.0,
        passes: int = 0,
    ) -> Attempt:
        """Judge what an attack made of the images `tried`, (N,) bool, and write it down."""
        subject = self._subject
        subject.threat.check(crafted, subject.images)
        placed = torch.where(tried.view(-1, 1, 1, 1), crafted, self.worst)
        fooled = self.judge(placed) & tried & subject.right
        if (subject.random or subject.coupled) and not plain:
            self._give_plain_another_chance()
        fell = self._fall(fooled, crafted, name)
        stage = Stage(
            name=name,
            gradient=gradient,
            plain=plain,
            tried=int((tried & subject.right).sum()),
            fell=int(fell.sum()),
            standing=int(self.standing.sum()),
            seconds=seconds,
            passes=passes,
        )
        zero = torch.zeros_like(tried) if zero is None else zero
        loss = torch.empty(0, 0) if loss is None else loss
        self.attempts.append(Attempt(stage, tried, fooled, placed, zero, loss, last))
        return self.attempts[-1]

    def judge(self, images: Images) -> Tensor:
        """(N,) bool, whose prediction is not the label, all images together."""
        return predict(self._subject.deployed, images, self._subject.batch) != self._subject.labels

    def _give_plain_another_chance(self) -> None:
        """Of a random model, or among other batch-mates, an image may fall by luck, the sooner the more it is judged.

        So the plain attacks' images are judged again whenever another attack's are, among others as they stand now:
        both have as many chances. Who falls only then fell to the plain attack, and its books and those after it are
        put right.
        """
        for place, attempt in enumerate(self.attempts):
            if not attempt.stage.plain:
                continue
            made, asked = attempt.adversarial, self._subject.right
            if self._subject.coupled:
                made = torch.where(self.standing.view(-1, 1, 1, 1), made, self.worst)
                asked = asked & self.standing
            again = self.judge(made) & asked
            self._lucky[attempt.stage.name] = self._lucky.get(attempt.stage.name, again) | again
            more = int(self._fall(again, attempt.adversarial, attempt.stage.name).sum())
            for later, other in enumerate(self.attempts[place:], place):
                changes = {"standing": other.stage.standing - more}
                if later == place:
                    changes["fell"] = other.stage.fell + more
                self.attempts[later] = replace(other, stage=other.stage.model_copy(update=changes))

    def _fall(self, fooled: Tensor, images: Images, name: str) -> Tensor:
        """(N,) bool, who of those `fooled` stood until now; their `images` are kept."""
        fell = fooled & self.standing
        self.worst = torch.where(fell.view(-1, 1, 1, 1), images, self.worst)
        self.standing = self.standing & ~fell
        self.fell_to |= dict.fromkeys(fell.nonzero().squeeze(1).tolist(), name)
        return fell

    @property
    def plain_standing(self) -> Tensor:
        """(N,) bool: who stands under the plain attacks alone."""
        return self.standing_under({attempt.stage.name for attempt in self.attempts if attempt.stage.plain})

    def standing_under(self, names: set[str]) -> Tensor:
        """(N,) bool: who stands under the attempts `names` alone, however often their images were judged."""
        standing = self._subject.right.clone()
        for attempt in self.attempts:
            if attempt.stage.name in names:
                standing &= ~attempt.fooled & ~self._lucky.get(attempt.stage.name, torch.zeros_like(standing))
        return standing

    @property
    def plain(self) -> Proportion:
        return Proportion(int(self.plain_standing.sum()), len(self.standing))

    @property
    def left(self) -> Proportion:
        """Accuracy left by all attempts."""
        return Proportion(int(self.standing.sum()), len(self.standing))

    @property
    def overestimate(self) -> Proportion:
        """Share of the images that plain attacks left standing and others felled."""
        return Proportion(int((self.plain_standing & ~self.standing).sum()), len(self.standing))

    def fell_by(self, names: set[str]) -> int:
        """Images that fell first to one of the attempts `names`."""
        return sum(name in names for name in self.fell_to.values())

    def named(self, name: str) -> Attempt | None:
        """The attempt called `name`, if it was made."""
        return next((attempt for attempt in self.attempts if attempt.stage.name == name), None)
