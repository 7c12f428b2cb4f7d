"""`sonet verify`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sonet.cli.data_dir import DataDir


def verify(
    evidence: Annotated[Path, typer.Argument(help="The --out folder of `sonet attack`.", metavar="EVIDENCE")],
    run: Annotated[Path | None, typer.Option(help="The network's folder, if it has moved.")] = None,
    data: Annotated[str | None, typer.Option(help="The data, if they have moved.")] = None,
    data_dir: DataDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Judge saved adversarial images again, in other batch sizes and orders, and say where the answer differs.

    Exit code 0 where every judgement agrees with the record and every image is inside its threat, 1 where not.

    Example: sonet verify runs/sonet-standard-linf-0.2
    """
    from sonet.cli.victim import find_victim
    from sonet.evaluation import read_evidence
    from sonet.evaluation import verify as judge
    from sonet.report import RecordError

    kept = read_evidence(evidence)
    setting, about = kept.setting, kept.setting.about
    if run is None and "run" not in about:
        raise RecordError(f"{evidence} does not say which network was attacked; give its folder with --run.")
    known = about.get("data")
    if data is None and isinstance(known, dict):
        data, kept_in = known.get("load"), known.get("data_dir")
        data_dir = data_dir or (Path(kept_in) if kept_in else None)
    victim = find_victim(run or Path(about["run"]), data, data_dir, setting.n, "auto")
    batch = setting.judge_batch
    found = judge(victim.deployed(batch), victim.test.images, victim.test.labels, kept, batch)
    if as_json:
        typer.echo(json.dumps({"agrees": found.agrees} | asdict(found), indent=1))
    else:
        typer.echo(f"{evidence}: {found.recorded} of {found.n} images stand in the record, {kept.threat}.")
        for judgement in found.judgements:
            where = "agrees"
            if judgement.disagree:
                some = ", ".join(map(str, judgement.disagree[:8])) + (" ..." if len(judgement.disagree) > 8 else "")
                where = f"disagrees on {len(judgement.disagree)} images: {some}"
            typer.echo(f"  judged {judgement.how}: {where}")
        if found.outside:
            typer.echo(f"  {len(found.outside)} images left box or budget, or have other labels: {found.outside[:8]}")
        if not found.agrees:
            typer.echo(
                "The model's answer depends on more than the image, or the files are not of this model and data."
            )
    if not found.agrees:
        raise typer.Exit(1)
