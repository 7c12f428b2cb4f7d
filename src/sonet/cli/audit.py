"""`sonet audit`."""

from __future__ import annotations

import shlex
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sonet.cli.attack import DeviceName
from sonet.cli.data_dir import DataDir

if TYPE_CHECKING:
    from sonet.audit.effort import Level
    from sonet.data import Dataset
    from sonet.types import Classifier

BATCH = 100
"""Images answered together, unless said otherwise."""


@dataclass(frozen=True)
class Accused:
    """The classifier under audit with its data, its name, and what the record says of both."""

    classifier: Classifier
    name: str
    data: Dataset
    about: dict[str, Any]
    notes: tuple[str, ...] = ()


def audit(
    model: Annotated[str, typer.Argument(help="Folder of a trained network, or FILE.py:NAME.", metavar="MODEL")],
    threat: Annotated[str, typer.Option(help="Norm and radius in pixel units: linf:8/255, l2:0.5.")] = "linf:8/255",
    data: Annotated[
        str | None, typer.Option(help="Name, folder of images or .npz (default: a run's own data).")
    ] = None,
    data_dir: DataDir = None,
    quick: Annotated[bool, typer.Option("--quick", help="64 images, a minute or two for small networks.")] = False,
    thorough: Annotated[bool, typer.Option("--thorough", help="1,000 images, with more of everything.")] = False,
    images: Annotated[int | None, typer.Option(min=1, help="Audit so many test images.")] = None,
    budget: Annotated[str | None, typer.Option(help="Time to spend at most: 90s, 10m, 2h.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images answered together, as deployed.")] = BATCH,
    backbone: Annotated[
        str | None, typer.Option(help="Of a defence the undefended network, as MODEL; attacks transfer from it.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="A .safetensors file for the module of FILE.py:NAME.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of audit.json and report.html (default: in runs/).")] = None,
    device: Annotated[DeviceName, typer.Option(help="Where the network runs.")] = DeviceName.AUTO,
    seed: Annotated[int, typer.Option(min=0, help="Of random starts and directions.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
) -> None:
    """Say whether a network's accuracy under attack is masked, why, and what to run next.

    Exit code: 0 no masking found, 3 masked, 4 inconclusive. No masking found is no proof that there is none.

    Example: sonet audit my_models.py:defended --data digits --threat linf:0.2 --quick
    """
    from sonet.attacks import AttackError, Threat
    from sonet.audit import EFFORTS, audit
    from sonet.cli.budget import parse_budget
    from sonet.cli.progress import bar
    from sonet.report import AUDIT, render_audit, show_audit, write_audit, write_whole

    if quick and thorough:
        raise AttackError("--quick and --thorough: got both, expected one of them, or none for the middle.")
    ball, seconds = Threat.parse(threat), None if budget is None else parse_budget(budget)
    level: Level = "quick" if quick else "thorough" if thorough else "normal"
    effort = EFFORTS[level] if images is None else EFFORTS[level].model_copy(update={"images": images})
    accused = find_accused(model, data, data_dir, device.value, weights)
    other = None if backbone is None else find_backbone(backbone, accused)
    folder = out or Path("runs") / f"audit-{plain_name(accused.name)}-{str(ball).replace(':', '-')}"
    check_place(folder, AUDIT, "the audit")
    untold = list(accused.notes)
    # What the network's own code prints must not get between the lines of an answer in JSON.
    with bar() as shown, redirect_stdout(sys.stderr):

        def tell(done: float, word: str) -> None:
            while untold:  # said once the audit goes on: a model that cannot be audited gets one sentence
                shown.say(untold.pop(0))
            shown.update("audit", done, word)

        found = audit(
            accused.classifier,
            accused.data,
            ball,
            effort=effort,
            budget=seconds,
            batch=batch_size,
            backbone=other,
            seed=seed,
            name=accused.name,
            about=accused.about | {"notes": list(accused.notes), "backbone": backbone},
            command=shlex.join(["sonet", *sys.argv[1:]]),
            again=again(model, threat, data, data_dir, weights, backbone, batch_size),
            tell=tell,
        )
    write_audit(found.record, folder)
    write_whole(folder / "report.html", render_audit(found.record))
    if as_json:
        typer.echo(found.record.model_dump_json(indent=1))
    else:
        show_audit(found.record)
        typer.echo(f"Wrote {folder / 'audit.json'} and {folder / 'report.html'}.")
    raise typer.Exit(found.exit_code)


def find_accused(model: str, data: str | None, data_dir: Path | None, device: str, weights: Path | None) -> Accused:
    """The network that MODEL names, on its device, with the data to audit it on."""
    from torch import nn

    from sonet.attacks import AttackError
    from sonet.cli.target import load_target, parse_target
    from sonet.cli.victim import find_victim, on_device
    from sonet.data import load

    if isinstance(parse_target(model), Path):
        if weights is not None:
            raise AttackError("--weights: a run has its own weights; it is for FILE.py:NAME only.")
        victim = find_victim(Path(model), data, data_dir, None, device)
        return Accused(victim.model, Path(model).resolve().name, victim.data, victim.about)
    if data is None:
        raise AttackError("--data: a file does not say what its model's images are; name a data set, folder or .npz.")
    target = load_target(model, weights)
    dataset, where = on_device(load(data, data_dir=data_dir), None, device)
    classifier = target.classifier.to(where) if isinstance(target.classifier, nn.Module) else target.classifier
    return Accused(classifier, target.name, dataset, target.about | {"data": dataset.describe()}, target.notes)


def find_backbone(name: str, accused: Accused) -> Classifier:
    """The undefended network, on the device of the accused's images, which it must take and answer in as many classes.

    `AttackError` where it does not, before any attack.
    """
    from torch import nn

    from sonet.attacks import AttackError
    from sonet.audit.failure import ask
    from sonet.cli.target import load_target, parse_target
    from sonet.publishing import load_trained

    images = accused.data.test.images[:2]
    run = isinstance(parse_target(name), Path)
    network: Classifier = load_trained(Path(name)) if run else load_target(name).classifier
    if isinstance(network, nn.Module):
        network = network.to(images.device).eval()
    with redirect_stdout(sys.stderr):
        reply, own = ask(network, images), ask(accused.classifier, images).logits
    if reply.logits is None:
        raise AttackError(
            f"--backbone {name}: {reply.trouble.rstrip('.')}, at images of the audited network. It must take the same "
            "images; give the network that the defence was built on."
        )
    if own is not None and own.shape != reply.logits.shape:
        raise AttackError(
            f"--backbone {name}: got {reply.logits.shape[1]} classes, expected {own.shape[1]}, as the audited network "
            "has; give the network that the defence was built on."
        )
    return network


def check_place(folder: Path, mark: str, what: str, evidence: str = "") -> None:
    """`RecordError` for a folder that cannot be made, or that holds something else than an earlier `mark`.

    evidence: the folder in it that is written before `mark`, and so is all that a killed run leaves.
    """
    from sonet.report import RecordError

    there = next(place for place in (folder, *folder.parents) if place.exists())
    if not there.is_dir():
        raise RecordError(f"{there} is a file, expected a folder for {what}; give another one with --out.")
    foreign = [entry for entry in folder.iterdir() if entry.name != evidence] if folder.is_dir() else []
    if foreign and not (folder / mark).is_file():
        raise RecordError(f"{folder} is not empty and holds no {mark}; give a new folder with --out.")


def again(
    model: str, threat: str, data: str | None, data_dir: Path | None, weights: Path | None, backbone: str | None,
    batch_size: int,
) -> str:  # fmt: skip
    """The same audit, to be typed again with another effort."""
    given = {"--data": data, "--data-dir": data_dir, "--weights": weights, "--backbone": backbone}
    words = ["sonet", "audit", model, "--threat", threat]
    for option, value in given.items():
        if value is not None:
            words += [option, str(value)]
    if batch_size != BATCH:
        words += ["--batch-size", str(batch_size)]
    return shlex.join(words)


def plain_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)
