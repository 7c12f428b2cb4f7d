"""`evaluate`: an ensemble of attacks on a model, worst case per sample, resumable at every unit of work."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sonet.attacks import AttackError, Backpropagation, GradientSource
from sonet.attacks.attack import other_batch
from sonet.attacks.ensemble import OWN, Member
from sonet.attacks.input import check_eval_mode, check_images, check_logits
from sonet.attacks.threat import Threat
from sonet.evaluation.company import Company, keeps_company
from sonet.evaluation.forecast import Clock, Pace, duration, further_rounds
from sonet.evaluation.outcome import EARLIER, STANDS, WRONG, Evaluation
from sonet.evaluation.processes import ALONE, Processes
from sonet.evaluation.run import Run, Watch
from sonet.evaluation.setting import Setting
from sonet.evaluation.store import Store
from sonet.types import Classifier, Images, Labels


def evaluate(
    classifier: Classifier,
    images: Images,
    labels: Labels,
    threat: Threat,
    members: Sequence[Member],
    *,
    gradients: Mapping[str, GradientSource] | None = None,
    judge_batch: int = 100,
    earlier: Evaluation | None = None,
    out: Path | None = None,
    budget: float | None = None,
    about: Mapping[str, Any] | None = None,
    processes: Processes = ALONE,
    watch: Watch = lambda name, done, word: None,
    say: Callable[[str], None] = lambda sentence: None,
) -> Evaluation:
    """Run `members` one after the other on the images that still stand; an image that fell costs no more.

    Whether an image falls does not depend on the order of attacks, images or batches, as each attack's result for an
    image does not. For a model whose samples depend on their batch-mates (found out first) nothing is dropped: every
    attack sees all images, in the same batches, and order still plays no part.

    Args:
        classifier: what is deployed and judged, (N, C, H, W) in [0, 1] -> logits; modules in eval mode.
        gradients: sources by the names that members use; "own", the classifier's, need not be given.
        judge_batch: images judged together, as in deployment.
        earlier: the evaluation at a smaller radius. What fell there falls here too, to the same image, and costs
            nothing: a larger radius then never leaves more accuracy, on any image.
        out: folder of the evidence. Killed at any moment, the same call goes on and ends with the same outcome.
        budget: seconds. A forecast above it shortens every attack by one factor; time left is spent on further rounds
            with new seeds on the images that stand.
        about: goes into the setting: model, data, versions. A folder is only taken up again where it is the same.
        processes: who shares the work, each with the same arguments, the same `out` among them (`joined`). Each unit is
            made by one of them; all end with the outcome that one process would have, on the same kind of device.
        watch, say: progress, and sentences worth a line: the forecast, a model that is coupled or random; of the main
            process.
    """
    sources = {OWN: Backpropagation(classifier), **(gradients or {})}
    images, labels = _checked(classifier, images, labels, threat, members, sources, judge_batch)
    if not processes.main:
        watch, say = _silent, _silent
    clock, full = Clock(budget), tuple(members)
    setting = Setting.of(threat, full, judge_batch, images, labels, budget, dict(about or {})).model_dump_json(indent=1)
    _check_same(setting, processes)
    company = Company(*processes.decide(lambda: astuple(keeps_company(classifier, images, judge_batch))))
    clean = processes.predict(classifier, images, judge_batch)
    right = clean == labels
    some = images[: min(len(images), members[0].attack.batch_size)]
    pace = Pace(*processes.decide(lambda: astuple(Pace.measure(classifier, some, labels, processes.world))))
    fell_to = torch.where(right, STANDS, WRONG)
    adversarial = images.clone()
    if earlier is not None:
        known = _earlier(earlier, threat, labels, company.coupled) & right
        fell_to = torch.where(known, EARLIER, fell_to)
        adversarial = torch.where(known.view(-1, 1, 1, 1), earlier.adversarial, adversarial)
    count = len(images) if company.coupled else int((fell_to == STANDS).sum())
    forecast = pace.forecast(full, count)
    store = Store(out)
    begun = processes.decide(lambda: store.claim(setting))
    store.check_shared(processes)
    members = full
    if budget is not None:
        planned = 1.0 if forecast <= 0.9 * budget else max(0.01, 0.9 * budget / forecast)
        share = processes.decide(lambda: store.plan(lambda: planned))
        members = tuple(_shortened(member, share) for member in full)
    _tell(say, forecast, pace.forecast(members, count), budget, begun, company.coupled, company.random)

    run = Run(
        classifier,
        sources,
        images,
        labels,
        threat,
        judge_batch,
        company.coupled,
        store,
        clock,
        processes,
        watch,
        fell_to=fell_to,
        adversarial=adversarial,
    )
    for member in members:
        run.attempt(member)
    if budget is not None:
        for member in further_rounds(full):
            if not bool(run.standing.any()) or not run.time_for(member, pace):
                break
            run.attempt(member)
    together = processes.predict(classifier, run.adversarial, judge_batch)
    elsewhere = processes.predict(classifier, run.adversarial, other_batch(min(judge_batch, len(images))))
    return Evaluation(
        threat=threat,
        labels=labels,
        clean=clean,
        adversarial=run.adversarial,
        fell_to=run.fell_to,
        attempts=tuple(run.attempts),
        coupled=company.coupled,
        random=company.random,
        together=together,
        elsewhere=elsewhere,
        seconds=clock.spent,
        unfinished=tuple(run.unfinished),
    )


def _silent(*_: Any) -> None:
    pass


def _check_same(setting: str, processes: Processes) -> None:
    """`AttackError` where a process was given other work than the main one."""
    asked = processes.collect(hashlib.sha256(setting.encode()).hexdigest())
    other = [rank for rank, digest in enumerate(asked) if digest != asked[0]]
    if other:
        raise AttackError(
            f"process {other[0]} of {processes.world} has another setting, model, data or version of a library than "
            "the main one: its results would be of other work. Give all of them the same files and the same command."
        )


def _checked(
    classifier: Classifier,
    images: Images,
    labels: Labels,
    threat: Threat,
    members: Sequence[Member],
    sources: Mapping[str, GradientSource],
    judge_batch: int,
) -> tuple[Images, Labels]:
    if not members:
        raise AttackError("expected at least one attack, got none; take an ensemble, e.g. standard().")
    names = [member.name for member in members]
    if len(set(names)) < len(names):
        raise AttackError(f"expected every attack once, got {', '.join(names)}: their evidence would share a file.")
    missing = {member.gradients for member in members} - set(sources)
    if missing:
        raise AttackError(
            f"no gradients are called {', '.join(sorted(missing))}, expected one of {', '.join(sources)}. "
            "Other gradients than the model's own need a network with ODE blocks."
        )
    if judge_batch < 1:
        raise AttackError(f"judge_batch must be >= 1, got {judge_batch}; it is the number of images judged together.")
    for member in members:
        member.attack.check_threat(threat)
    check_eval_mode(classifier, *sources.values())
    images = check_images(images, labels)
    check_logits(classifier, images, labels)
    return images, labels


def _earlier(earlier: Evaluation, threat: Threat, labels: Labels, coupled: bool) -> Tensor:
    """(N,) bool, what fell at the smaller radius; of a coupled model nothing counts, as its batches were others."""
    inside = earlier.threat.norm == threat.norm and earlier.threat.eps <= threat.eps
    if not inside or not torch.equal(earlier.labels, labels):
        raise AttackError(
            f"earlier: got an evaluation of {len(earlier.labels)} images at {earlier.threat}, expected the same images "
            f"at a radius up to that of {threat}. Only there what fell must fall again."
        )
    fell = (earlier.fell_to != STANDS) & (earlier.fell_to != WRONG)
    return torch.zeros_like(fell) if coupled else fell


def _shortened(member: Member, share: float) -> Member:
    return member if share >= 1 else member.model_copy(update={"attack": member.attack.shortened(share)})


def _tell(
    say: Callable[[str], None],
    whole: float,
    planned: float,
    budget: float | None,
    begun: bool,
    coupled: bool,
    random: bool,
) -> None:
    say(f"Forecast: at most {duration(whole)}, if no image falls; images that fall save time.")
    if budget is not None:
        shorter = f" Every attack is shortened, to at most {duration(planned)} in all." if planned < whole else ""
        say(f"Budget: {duration(budget)}.{shorter} What is left goes into further rounds on the images that stand.")
    if begun:
        say("Going on from what was written earlier.")
    if coupled:
        say("This model's answer depends on its batch-mates: every attack sees all images, in batches as deployed.")
    if random:
        say("This model's answer changes from call to call: a single figure for it means little.")
