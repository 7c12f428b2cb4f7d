"""`sonet attack`."""

from __future__ import annotations

import json
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sonet.cli.data_dir import DataDir


class StepGradientName(StrEnum):
    FROZEN = "frozen"
    FIRST = "first"
    DIFFERENTIATED = "differentiated"


class DeviceName(StrEnum):
    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


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
    data_dir: DataDir = None,
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
    Under torchrun the processes share the work; the record is that of one.

    Example: sonet attack runs/sonet --threat linf:0.2 --attack standard

    Example: torchrun --nproc-per-node 4 -m sonet attack runs/sonet --attack standard
    """
    from sonet.attacks import Threat
    from sonet.attacks.ensemble import OWN
    from sonet.cli.answer import as_answer, as_words
    from sonet.cli.budget import parse_budget
    from sonet.cli.progress import bar
    from sonet.cli.recipe import AS_GIVEN, as_given, choose_attacks, choose_gradients
    from sonet.cli.victim import find_victim
    from sonet.evaluation import evaluate, joined, make_record, write_evaluation
    from sonet.report import Environment

    with joined() as processes:
        if device is not DeviceName.CPU:
            processes.take_device()
        ball = Threat.parse(threat)
        seconds = None if budget is None else parse_budget(budget)
        victim = find_victim(run, data, data_dir, images, device.value)
        judged = judge_batch or batch_size
        deployed = victim.deployed(judged)
        treated = None if step_gradient is None else step_gradient.value
        sources = choose_gradients(victim, treated, scope, transfer_from or [])
        members = choose_attacks(name, settings or [], gradients, sources, batch_size, seed)
        ensemble = len(members) > 1
        place = f"{run.resolve().name}-{name}-{str(ball).replace(':', '-')}"
        folder = out or (Path("runs") / place if ensemble else None)
        versions, given = Environment.here().versions, as_given(treated, scope, transfer_from or [])
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
                processes=processes,
                watch=shown.update,
                say=shown.say if ensemble or seconds is not None else lambda sentence: None,
            )
        if not processes.main:
            return
        if folder is not None:
            record = make_record(
                found,
                victim.test.images,
                title=f"{victim.name}: {name} at {ball}",
                model=victim.name,
                seed=victim.checkpoint.description.training.seed,
                objective=victim.checkpoint.description.training.objective,
                command=shlex.join(["sonet", *sys.argv[1:]]),
                data=victim.data.describe(),
                classes=victim.data.classes,
                settings=victim.about
                | given
                | {"attack": name, "batch_size": batch_size, "judge_batch": judged, "budget": seconds, "seed": seed},
                device=victim.device,
            )
            write_evaluation(found, record, folder)
        if as_json:
            chosen = AS_GIVEN if AS_GIVEN in sources else gradients
            typer.echo(json.dumps(as_answer(found, run, name, given, chosen, batch_size, seed, folder), indent=1))
        else:
            typer.echo(as_words(found, name, folder, ensemble))
