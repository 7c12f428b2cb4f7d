"""`sonet attack`."""

from __future__ import annotations

import json
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from sonet.attacks import GradientSource
    from sonet.attacks.ensemble import Member
    from sonet.cli.victim import Victim
    from sonet.evaluation import Evaluation


class StepGradientName(StrEnum):
    FROZEN = "frozen"
    FIRST = "first"
    DIFFERENTIATED = "differentiated"


class DeviceName(StrEnum):
    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


_HERE = "as-given"
"""What --step-gradient, --scope and --transfer-from make is called among the gradients."""


def attack(
    run: Annotated[Path, typer.Argument(help="Folder of a trained network.", metavar="RUN")],
    threat: Annotated[str, typer.Option(help="Norm and radius in pixel units: linf:8/255, l2:0.5.")] = "linf:8/255",
    name: Annotated[
        str,
        typer.Option("--attack", help="One of `sonet list attacks`, or an ensemble: quick, standard, ode."),
    ] = "pgd",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of the attack, KEY=VALUE; repeatable. See `sonet list attacks`."),
    ] = None,
    gradients: Annotated[
        str, typer.Option(help="Of ODE networks: own, frozen, alone, finer, jittered or states.")
    ] = "own",
    step_gradient: Annotated[
        StepGradientName | None, typer.Option(help="Craft with step sizes treated so; judge the model as it is.")
    ] = None,
    scope: Annotated[
        str | None, typer.Option(help="Craft with steps shared by: sample, batch, or a number of images.")
    ] = None,
    transfer_from: Annotated[
        list[Path] | None,
        typer.Option(help="Take gradients from this other run instead; repeatable. Of a defence, its backbone."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images attacked together.")] = 100,
    judge_batch: Annotated[int | None, typer.Option(min=1, help="Images judged together (default: the same).")] = None,
    images: Annotated[int | None, typer.Option(min=1, help="The first so many test images (default: all).")] = None,
    data: Annotated[str | None, typer.Option(help="Other data than the run was trained on.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder that holds the named data already.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the evidence (default: none; for ensembles runs/RUN-ATTACK-THREAT).")
    ] = None,
    budget: Annotated[str | None, typer.Option(help="Time to spend: 90s, 10m, 2h.")] = None,
    device: Annotated[DeviceName, typer.Option(help="Where the network runs.")] = DeviceName.AUTO,
    seed: Annotated[int, typer.Option(min=0, help="Of random starts and directions.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Attack a trained network and print the accuracy that is left, with its interval.

    An image that falls to one attack of an ensemble costs the others nothing; what is left stands under all of them.
    With --out every adversarial image is kept: `sonet verify` judges them again, and a killed run goes on.

    Example: sonet attack runs/sonet --threat linf:0.2 --attack standard
    """
    from sonet.attacks import Threat
    from sonet.attacks.ensemble import OWN
    from sonet.cli.budget import parse_budget
    from sonet.cli.progress import bar
    from sonet.cli.victim import find_victim
    from sonet.evaluation import evaluate, make_record, write_evaluation
    from sonet.report import Environment

    ball = Threat.parse(threat)
    seconds = None if budget is None else parse_budget(budget)
    victim = find_victim(run, data, data_dir, images, device.value)
    judged = judge_batch or batch_size
    deployed = victim.deployed(judged)
    sources = _sources(victim, step_gradient, scope, transfer_from or [])
    members = _members(name, settings or [], gradients, sources, batch_size, seed)
    ensemble = len(members) > 1
    place = f"{run.resolve().name}-{name}-{str(ball).replace(':', '-')}"
    folder = out or (Path("runs") / place if ensemble else None)
    versions, given = Environment.here().versions, _given(step_gradient, scope, transfer_from)
    with bar() as shown:
        found = evaluate(
            deployed,
            victim.test.images,
            victim.test.labels,
            ball,
            members,
            gradients={key: source for key, source in sources.items() if key != OWN},
            judge_batch=judged,
            out=folder,
            budget=seconds,
            about=victim.about | {"versions": versions, "attack": name, "as_given": given},
            watch=shown.update,
            say=shown.say if ensemble or seconds is not None else lambda sentence: None,
        )
    if folder is not None:
        record = make_record(
            found,
            victim.test.images,
            title=f"{victim.name}: {name} at {ball}",
            model=victim.name,
            seed=victim.checkpoint.description.training.seed,
            command=shlex.join(["sonet", *sys.argv[1:]]),
            data=victim.data.describe(),
            classes=victim.data.classes,
            settings=victim.about | given | {"judge_batch": judged, "budget": seconds},
            device=victim.device,
        )
        write_evaluation(found, record, folder)
    chosen = _HERE if _HERE in sources else gradients
    answer = _answer(found, run, name, given, chosen, batch_size, seed, folder)
    typer.echo(json.dumps(answer, indent=1) if as_json else _words(found, name, folder, ensemble))


def _members(
    name: str, settings: list[str], gradients: str, sources: dict[str, GradientSource], batch_size: int, seed: int
) -> tuple[Member, ...]:
    """The attack or the ensemble called `name`, with `settings` for each attack that has them."""
    from difflib import get_close_matches

    from sonet.attacks import ATTACKS, AttackError
    from sonet.attacks.ensemble import ENSEMBLES, OWN, Member
    from sonet.cli.settings import parse_value

    given: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise AttackError(f"--set: got {setting!r}, expected KEY=VALUE, for example steps=40.")
        given[key.strip()] = parse_value(text.strip())
    if _HERE in sources and gradients != OWN:
        raise AttackError(
            f"--gradients {gradients}: goes without --step-gradient, --scope and --transfer-from, which say themselves "
            "where gradients come from. Give one or the other."
        )
    chosen = _HERE if _HERE in sources else gradients
    if chosen not in sources:
        raise AttackError(
            f"--gradients {gradients}: this network offers {', '.join(sources)}. "
            "All but its own need ODE blocks; frozen and alone need adaptive steps."
        )
    if name in ATTACKS:
        attack = ATTACKS[name][0](**({"batch_size": batch_size, "seed": seed} | given))
        return (Member(name=name, attack=attack, gradients=chosen),)
    if name not in ENSEMBLES:
        known = [*ATTACKS, *ENSEMBLES]
        close = get_close_matches(name, known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise AttackError(f"no attack is called {name!r}, expected one of {', '.join(known)}.{hint}")
    members = ENSEMBLES[name][0](sources, seed)
    unused = [key for key in given if not any(key in type(member.attack).model_fields for member in members)]
    if unused:
        raise AttackError(f"--set: no attack of {name} has a setting {unused[0]!r}; see `sonet list attacks`.")
    result = []
    for member in members:
        kind = type(member.attack)
        mine = {"batch_size": batch_size} | {key: value for key, value in given.items() if key in kind.model_fields}
        attack = kind(**(member.attack.model_dump() | mine))
        through = chosen if member.gradients == OWN else member.gradients
        result.append(Member(name=member.name, attack=attack, gradients=through))
    return tuple(result)


def _sources(
    victim: Victim, step_gradient: StepGradientName | None, scope: str | None, transfer_from: list[Path]
) -> dict[str, GradientSource]:
    """Every gradient by name that this network offers, and the one that the options describe."""
    from sonet.attacks import AttackError, Average, Backpropagation, Guided
    from sonet.blocks import ode_blocks
    from sonet.cli.fits import check_fits
    from sonet.evaluation import gradient_sources
    from sonet.models import variant
    from sonet.training import load_model

    some = victim.data.train.take(min(500, len(victim.data.train)))
    sources = gradient_sources(victim.model, some.images.to(victim.device), some.labels.to(victim.device))
    changes: dict[str, Any] = {}
    if step_gradient is not None:
        changes["step_gradient"] = step_gradient.value
    if scope is not None:
        changes["scope"] = int(scope) if scope.isdecimal() else scope
    if changes and transfer_from:
        raise AttackError("--transfer-from takes other networks as they are; it goes without --step-gradient, --scope.")
    if changes:
        if not ode_blocks(victim.model):
            raise AttackError("--step-gradient and --scope need a network with ODE blocks; this one has none.")
        sources[_HERE] = Backpropagation(variant(victim.model, **changes))
        sources[_HERE].logits(victim.test.images[:1])  # a setting that the solver lacks shows before any work
    if transfer_from:
        others = [load_model(path).to(victim.device) for path in transfer_from]
        for other, path in zip(others, transfer_from, strict=True):
            check_fits(other, victim.test.images, f"--transfer-from {path}: the attacked network's data")
            theirs, ours = (Backpropagation(net).logits(victim.test.images[:1]) for net in (other, victim.model))
            if theirs.shape != ours.shape:
                raise AttackError(f"--transfer-from {path}: got {theirs.shape[1]} classes, expected {ours.shape[1]}.")
        guide = sources.get("frozen", sources["own"])
        sources[_HERE] = Guided(Average(tuple(map(Backpropagation, others))), guide)
    return sources


def _given(
    step_gradient: StepGradientName | None, scope: str | None, transfer_from: list[Path] | None
) -> dict[str, Any]:
    return {
        "step_gradient": step_gradient.value if step_gradient else None,
        "scope": scope,
        "transfer_from": [str(path) for path in transfer_from or []],
    }


def _answer(
    found: Evaluation,
    run: Path,
    name: str,
    given: dict[str, Any],
    gradients: str,
    batch_size: int,
    seed: int,
    folder: Path | None,
) -> dict[str, Any]:
    low, high = found.accuracy.interval
    return {
        "run": str(run),
        "attack": name,
        "threat": str(found.threat),
        **given,
        "gradients": gradients,
        "attack_batch": batch_size,
        "n": found.accuracy.n,
        "natural": found.natural.value,
        "accuracy": found.accuracy.value,
        "low": low,
        "high": high,
        "accuracy_elsewhere": found.accuracy_elsewhere.value,
        "flips": found.flips,
        "coupled": found.coupled,
        "random": found.random,
        "queries": found.queries,
        "seconds": found.seconds,
        "seed": seed,
        "out": str(folder) if folder else None,
        "unfinished": list(found.unfinished),
        "attacks": [
            {
                "name": attempt.member.name,
                "gradients": attempt.member.gradients,
                "settings": attempt.member.attack.model_dump(mode="json"),
                "tried": int(attempt.tried.sum()),
                "fell": int((found.fell_to == number).sum()),
                "standing": attempt.standing,
                "queries": int(attempt.queries.sum()),
                "zero_gradient_share": attempt.zero_gradient_share,
                "seconds": attempt.seconds,
            }
            for number, attempt in enumerate(found.attempts)
        ],
    }


def _words(found: Evaluation, name: str, folder: Path | None, ensemble: bool) -> str:
    from sonet.evaluation import duration, sentences

    lines = [f"{name}, {found.threat}: {sentences(found)} ({found.queries} queries, {duration(found.seconds)})"]
    if ensemble:
        lines += ["", f"{'attack':<16}{'tried':>7}{'fell':>6}{'stand':>7}{'queries':>11}{'seconds':>9}"]
        for number, attempt in enumerate(found.attempts):
            fell = int((found.fell_to == number).sum())
            lines.append(
                f"{attempt.member.name:<16}{int(attempt.tried.sum()):>7}{fell:>6}{attempt.standing:>7}"
                f"{int(attempt.queries.sum()):>11}{attempt.seconds:>9.1f}"
            )
    for attempt in found.attempts:
        if attempt.zero_gradient_share and attempt.member.attack.needs_gradient:
            lines.append(
                f"{attempt.member.name}: {attempt.zero_gradient_share:.1%} of the images had a gradient of exactly "
                "zero at some step: try --set loss=margin, and --attack square, which needs no gradient."
            )
    if folder is not None:
        lines += ["", f"Wrote {folder / 'record.json'} and {folder / 'report.html'}. Next: sonet verify {folder}"]
    return "\n".join(lines)
