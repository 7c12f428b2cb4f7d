"""`sonet attack`."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from torch import nn

    from sonet.attacks import PGD, SPSA
    from sonet.types import Classifier


class AttackName(StrEnum):
    PGD = "pgd"
    SPSA = "spsa"


class LossName(StrEnum):
    CE = "ce"
    MARGIN = "margin"


class StepGradientName(StrEnum):
    FROZEN = "frozen"
    FIRST = "first"
    DIFFERENTIATED = "differentiated"


class KeepName(StrEnum):
    BEST = "best"
    LAST = "last"


def attack(
    run: Annotated[Path, typer.Argument(help="Folder of a trained network.", metavar="RUN")],
    threat: Annotated[str, typer.Option(help="Norm and radius in pixel units: linf:8/255, l2:0.5.")] = "linf:8/255",
    name: Annotated[AttackName, typer.Option("--attack", help="See `sonet list attacks`.")] = AttackName.PGD,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the attack.")] = 20,
    step_size: Annotated[float | None, typer.Option(help="Length of a step (default: eps / 8; spsa eps / 4).")] = None,
    loss: Annotated[LossName | None, typer.Option(help="What is driven up (default: ce; for spsa margin).")] = None,
    random_start: Annotated[bool, typer.Option("--random-start", help="Start anywhere in the ball (pgd).")] = False,
    restarts: Annotated[int, typer.Option(min=1, help="Runs from random starts; the best counts (pgd).")] = 1,
    keep: Annotated[KeepName, typer.Option(help="Which iterate counts; last is the paper's (pgd).")] = KeepName.BEST,
    samples: Annotated[int, typer.Option(min=1, help="Directions of one estimate (spsa).")] = 64,
    batch_size: Annotated[int, typer.Option(min=1, help="Images attacked together.")] = 100,
    judge_batch: Annotated[int | None, typer.Option(min=1, help="Images judged together (default: the same).")] = None,
    images: Annotated[int | None, typer.Option(min=1, help="The first so many test images (default: all).")] = None,
    step_gradient: Annotated[
        StepGradientName | None, typer.Option(help="Craft with step sizes treated so; judge the model as it is.")
    ] = None,
    scope: Annotated[
        str | None, typer.Option(help="Craft with steps shared by: sample, batch, or a number of images.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Other data than the run was trained on.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder that holds the named data already.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of random starts and directions.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Attack a trained network and print the accuracy that is left, with its interval.

    Example: sonet attack runs/sonet --threat linf:0.2 --step-gradient frozen
    """
    from sonet.attacks import AttackError, Threat
    from sonet.cli.fits import check_fits
    from sonet.cli.progress import bar
    from sonet.data import load
    from sonet.training import load_checkpoint, restore

    ball = Threat.parse(threat)
    chosen = _attack(name, steps, step_size, loss, random_start, restarts, keep, samples, batch_size, seed)
    checkpoint = load_checkpoint(run)
    model, known = restore(checkpoint), checkpoint.description.data
    where = data_dir or (Path(known["data_dir"]) if data is None and known.get("data_dir") else None)
    source = data or known.get("load") or known.get("name")
    if source is None:
        raise AttackError(f"{run} does not say what data it was trained on; name some with --data.")
    test = load(source, data_dir=where).test
    test = test if images is None else test.take(images)
    check_fits(model, test.images, source)
    total = len(test) * steps * (restarts if name is AttackName.PGD else 1)
    done = 0.0
    with bar() as shown:

        def tell(image_steps: float) -> None:
            nonlocal done
            done += image_steps
            shown.update(f"{name.value} {ball}", min(done / total, 1.0))

        result = chosen.run(
            model,
            test.images,
            test.labels,
            ball,
            gradients_from=_crafting(model, step_gradient, scope),
            judge_batch=judge_batch,
            progress=tell,
        )
    low, high = result.accuracy.interval
    answer: dict[str, Any] = {
        "run": str(run),
        "attack": name.value,
        "steps": steps,
        "threat": str(ball),
        "step_gradient": step_gradient.value if step_gradient else None,
        "scope": scope,
        "attack_batch": batch_size,
        "n": result.accuracy.n,
        "natural": result.natural.value,
        "accuracy": result.accuracy.value,
        "low": low,
        "high": high,
        "accuracy_elsewhere": result.accuracy_elsewhere.value,
        "flips": result.flips,
        "zero_gradient_share": result.zero_gradient_share,
        "queries": result.queries,
        "seconds": result.seconds,
        "seed": seed,
    }
    if as_json:
        typer.echo(json.dumps(answer, indent=1))
        return
    typer.echo(
        f"{name.value.upper()}-{steps}, {ball}: {result.accuracy.value:.3f} [{low:.3f}, {high:.3f}] of "
        f"{result.accuracy.n} images still right, {result.natural.value:.3f} without attack "
        f"({result.queries} queries, {result.seconds:.1f} s)."
    )
    if result.flips:
        typer.echo(
            f"{result.flips} predictions change when the same images are judged in batches of another size "
            f"({result.accuracy_elsewhere.value:.3f} right there): this model's answer depends on its batch-mates."
        )
    if result.zero_gradient_share:
        typer.echo(
            f"{result.zero_gradient_share:.1%} of the images had a gradient of exactly zero at some step: "
            "try --loss margin, and --attack spsa, which needs no gradient."
        )


def _attack(
    name: AttackName,
    steps: int,
    step_size: float | None,
    loss: LossName | None,
    random_start: bool,
    restarts: int,
    keep: KeepName,
    samples: int,
    batch_size: int,
    seed: int,
) -> PGD | SPSA:
    from sonet.attacks import PGD, SPSA, AttackError

    if name is AttackName.SPSA:
        if random_start or restarts > 1 or keep is not KeepName.BEST:
            raise AttackError("spsa has no --random-start, --restarts or --keep: it starts at the image.")
        wanted = loss or LossName.MARGIN
        return SPSA(
            steps=steps, samples=samples, step_size=step_size, loss=wanted.value, batch_size=batch_size, seed=seed
        )
    return PGD(
        steps=steps,
        step_size=step_size,
        loss=(loss or LossName.CE).value,
        random_start=random_start,
        restarts=restarts,
        keep=keep.value,
        batch_size=batch_size,
        seed=seed,
    )


def _crafting(model: nn.Module, step_gradient: StepGradientName | None, scope: str | None) -> Classifier | None:
    """The variant to craft on, if any setting asks for one."""
    from sonet.attacks import AttackError
    from sonet.blocks import ode_blocks
    from sonet.models import variant

    changes: dict[str, Any] = {}
    if step_gradient is not None:
        changes["step_gradient"] = step_gradient.value
    if scope is not None:
        changes["scope"] = int(scope) if scope.isdecimal() else scope
    if not changes:
        return None
    if not ode_blocks(model):
        raise AttackError("--step-gradient and --scope need a network with ODE blocks; this one has none.")
    return variant(model, **changes)
