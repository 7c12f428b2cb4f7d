"""`sonet reproduce` and `sonet report`."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from sonet.cli.data_dir import DataDir


def reproduce(
    name: Annotated[str, typer.Argument(help="Which table; `digits` needs no download.", metavar="TABLE")],
    only: Annotated[
        list[str] | None,
        typer.Option(help="A row (sonet-32/natural), network, its kind or objective; may be repeated (default: all)."),
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Networks of each kind (default: the plan's).")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of record and report (default: runs/NAME).")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A shorter form: one seed, fewer attacks.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes (default: one a core).")] = None,
    data_dir: DataDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON instead of tables.")] = False,
) -> None:
    """Train a table's networks, attack them, and say where their robustness comes from.

    Writes record.json and report.html (one file, open it in a browser) and prints the same table. Interrupted or
    killed, the same command goes on where it stopped; with another --only it adds rows to the same folder.

    Example: sonet reproduce digits --quick
    """
    from sonet.cli.progress import CellWatch, bar
    from sonet.experiments import load_plan
    from sonet.experiments import reproduce as run
    from sonet.report import show

    plan = load_plan(name, quick=quick, seeds=seeds)
    plan = plan.select(only) if only else plan
    folder = out or Path("runs") / (f"{name}-quick" if quick else name)
    words = ["sonet", "reproduce", name, *(["--quick"] if quick else [])]
    words += ["--seeds", str(plan.seeds), *(["--data-dir", str(data_dir)] if data_dir else [])]
    with bar() as shown:
        record = run(
            plan,
            folder,
            command=shlex.join(words),
            workers=workers,
            data_dir=data_dir,
            watch=CellWatch(shown, plan),
        )
    if as_json:
        typer.echo(record.model_dump_json(by_alias=True, indent=1))
        return
    show(record)
    if not record.data.get("official") and not record.data.get("title"):
        typer.echo(
            "\nThe images come from a file that does not say what they are: an array `title` in the .npz, such as "
            "'CIFAR-10 (JPEG)', is told in every report."
        )
    typer.echo(f"\nWrote {folder / 'record.json'} and {folder / 'report.html'}; open the second in a browser.")


def report(
    run: Annotated[Path, typer.Argument(help="Folder with a record, an audit or a certificate, or the file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON instead of tables.")] = False,
) -> None:
    """Print a record's tables again, and write its report.html anew beside it.

    Example: sonet report runs/digits
    """
    from sonet.report import (
        AuditRecord,
        CertificateRecord,
        read_any,
        render,
        render_audit,
        render_certificate,
        show,
        show_audit,
        show_certificate,
        write_whole,
    )

    record = read_any(run)
    match record:
        case AuditRecord():
            page, display = render_audit(record), partial(show_audit, record)
        case CertificateRecord():
            page, display = render_certificate(record), partial(show_certificate, record)
        case _:
            page, display = render(record), partial(show, record)
    write_whole((run if run.is_dir() else run.parent) / "report.html", page)
    if as_json:
        typer.echo(record.model_dump_json(by_alias=True, indent=1))
    else:
        display()
