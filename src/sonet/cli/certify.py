"""`sonet certify`."""

from __future__ import annotations

import shlex
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sonet.cli.data_dir import DataDir

if TYPE_CHECKING:
    from torch import nn

    from sonet.attacks.threat import Norm
    from sonet.data import Split


EVIDENCE = "evidence"
"""The folder of the attacks' images, beside the certificate."""


class NormName(StrEnum):
    L2 = "l2"
    LINF = "linf"


class EnsembleName(StrEnum):
    NONE = "none"
    QUICK = "quick"
    STANDARD = "standard"


def certify(
    model: Annotated[str, typer.Argument(help="A run's folder, or FILE.py:NAME, an nn.Sequential.", metavar="MODEL")],
    norm: Annotated[NormName, typer.Option(help="l2, or linf by way of l2.")] = NormName.L2,
    radii: Annotated[
        str | None,
        typer.Option(help="Radii of the curve, with commas (default: ten up to where nothing is certified)."),
    ] = None,
    name: Annotated[
        EnsembleName, typer.Option("--attack", help="Attacks run beside, at every radius: quick, standard or none.")
    ] = EnsembleName.QUICK,
    images: Annotated[int | None, typer.Option(min=1, help="The first so many test images (default: all).")] = None,
    data: Annotated[str | None, typer.Option(help="Other data than the run was trained on.")] = None,
    data_dir: DataDir = None,
    weights: Annotated[Path | None, typer.Option(help="A safetensors file for the network of FILE.py:NAME.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the certificate (default: runs/MODEL-certify-NORM).")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the attacks.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
) -> None:
    """Prove within which radius no attack can change an answer, image by image, and attack right up to it.

    For networks whose every layer has a bound: stable-sonet, convex-potential, and others as far as they are covered,
    see docs/stability.md. A certified image that falls to any attack would be an error, and exit code 1.

    Example: sonet train stable-sonet --objective margin --threat l2:0.25 --epochs 30 --out runs/stable

    Example: sonet certify runs/stable
    """
    from torch import nn

    from sonet.attacks.ensemble import ENSEMBLES
    from sonet.certificate import CannotCertify, certify_model, make_certificate
    from sonet.cli.audit import check_place, find_accused, plain_name
    from sonet.cli.progress import bar
    from sonet.report import CERTIFICATE, render_certificate, show_certificate, write_certificate, write_whole

    accused = find_accused(model, data, data_dir, "cpu", weights)
    network, dataset = accused.classifier, accused.data
    if images is not None:
        dataset = replace(dataset, test=dataset.test.take(images))
    if not isinstance(network, nn.Module):
        raise CannotCertify(f"{model} is a function, expected a torch.nn.Module: bounds are of its layers.")
    folder = out or Path("runs") / f"{plain_name(accused.name)}-certify-{norm.value}"
    check_place(folder, CERTIFICATE, "the certificate", EVIDENCE)
    members = () if name is EnsembleName.NONE else ENSEMBLES[name.value][0]((), seed)
    about = accused.about | {"norm": norm.value, "attack": name.value, "seed": seed}
    with bar() as shown, redirect_stdout(sys.stderr):
        refuse_uncovered(network, dataset.test, as_json)
        grid = parse_radii(radii) if radii else default_radii(network, dataset.test, norm.value)
        found = certify_model(
            network,
            dataset.test,
            norm.value,
            grid,
            members,
            out=folder / EVIDENCE if members else None,
            about=about,
            watch=shown.update,
            say=shown.say,
        )
    record = make_certificate(
        found,
        dataset,
        model=accused.name,
        attack=name.value,
        command=shlex.join(["sonet", *sys.argv[1:]]),
        settings=about | {"radii": grid, "batch": 100},
    )
    write_certificate(record, folder)
    write_whole(folder / "report.html", render_certificate(record))
    if as_json:
        typer.echo(record.model_dump_json(indent=1))
        return
    show_certificate(record)
    typer.echo(f"Wrote {folder / CERTIFICATE} and {folder / 'report.html'}.")


def refuse_uncovered(model: nn.Module, test: Split, as_json: bool) -> None:
    """`CannotCertify` for a network that has no certificate, after the table of what is known of its blocks."""
    from sonet.blocks.stability import format_stability, stability
    from sonet.certificate import CannotCertify, bound_network

    try:
        bound_network(model, test.images[:1])
    except CannotCertify:
        try:
            rows = () if as_json else stability(model, test.images[:4])
        except (RuntimeError, ValueError, IndexError):  # not even an answer to these images
            rows = ()
        if rows:
            typer.echo(f"No certificate. What is known of each block, in l2:\n\n{format_stability(rows)}\n", err=True)
        raise


def parse_radii(text: str) -> list[float]:
    """Radii with commas between them, in increasing order, 0 put first: natural accuracy is part of the curve."""
    from sonet.attacks import ThreatError
    from sonet.attacks.threat import parse_eps

    found = sorted({parse_eps(part.strip()) for part in text.split(",") if part.strip()} | {0.0})
    if len(found) < 2:
        raise ThreatError(f"--radii: got {text!r}, expected radii above 0 with commas between them, as 0.1,0.25,0.5.")
    return found


def default_radii(model: nn.Module, test: Split, norm: Norm) -> list[float]:
    """0 and ten radii up to where hardly an image is certified, in round steps."""
    from math import floor, log10

    from sonet.certificate import certify

    radii = certify(model, test.images, test.labels, norm)[0].radii
    top = max(float(radii.clamp_min(0).quantile(0.98)), 1e-4)
    unit = 10.0 ** floor(log10(top / 10))
    step = next(unit * size for size in (1, 2, 2.5, 5, 10) if unit * size * 10 >= top)
    return [float(f"{step * number:.6g}") for number in range(11)]
