"""`sonet publish`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def publish(
    run: Annotated[str, typer.Argument(help="Folder of a trained network, or of a publication.", metavar="RUN")],
    out: Annotated[Path, typer.Option(help="Folder to write: new, empty, or an earlier publication.")],
    record: Annotated[
        list[Path] | None,
        typer.Option(help="A record.json, audit.json or certificate.json of this network, or its folder; repeatable."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name on the card (default: the folder's).")] = None,
    license: Annotated[
        str | None, typer.Option(help="Identifier of the hub, such as apache-2.0 (default: none is named).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write a trained network as a folder for the Hugging Face hub: weights, config, and a card made from records.

    The card states what the checkpoint and the records say, and "Not measured" for the rest. A record of another
    network is refused. Nothing is uploaded; every command that takes a RUN takes the folder too.

    Example: sonet publish runs/sonet --out published/sonet --record runs/sonet-standard-linf-0.2
    """
    from sonet.publishing import publish

    found = publish(run, out, record or [], name=name, license=license)
    if as_json:
        answer = {
            "out": str(out),
            "sha256": found.config.files,
            "records": [one.title for one in found.records],
        }
        typer.echo(json.dumps(answer, indent=1))
        return
    count = len(found.records)
    said = (
        f"with {count} record{'' if count == 1 else 's'}" if count else "without records: what is left is not measured"
    )
    typer.echo(
        f"Wrote {out}, its card {said}. Read {out / 'README.md'} before you upload it.\n"
        f"Next: sonet audit {out}, or: hf upload ORG/NAME {out}"
    )
