"""The command `sonet`: parse, call, print, exit code. Heavy imports wait inside the commands, so that help is quick.

Exit codes: 0 done; 2 bad input or usage; 1 a failure while working; 130 interrupted; 143 stopped by SIGTERM (`train`,
`attack`). `audit` has 3 masked and 4 inconclusive besides.
"""

from __future__ import annotations

import signal
import sys
from typing import Annotated

import typer
from rich.console import Console

from sonet import __version__
from sonet.cli.attack import attack
from sonet.cli.audit import audit
from sonet.cli.certify import certify
from sonet.cli.listing import listing
from sonet.cli.publish import publish
from sonet.cli.reproduce import report, reproduce
from sonet.cli.selftest import selftest
from sonet.cli.train import train
from sonet.cli.verify import verify
from sonet.job import STOPPED, alone, announced

app = typer.Typer(
    name="sonet",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Train stabilized neural-ODE networks, attack them, and see where their robustness comes from.",
    epilog="Start with: sonet reproduce digits --quick",
)
app.command()(reproduce)
app.command()(train)
app.command()(attack)
app.command()(audit)
app.command()(certify)
app.command()(verify)
app.command()(publish)
app.command()(selftest)
app.command("list")(listing)
app.command()(report)


_SHARED = ("train", "attack")
"""Commands whose work the processes of one torchrun share."""


@app.callback(invoke_without_command=True)
def _before(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit
    if not alone() and context.invoked_subcommand not in (None, *_SHARED):
        raise typer.BadParameter(
            f"{context.invoked_subcommand} runs in one process, got WORLD_SIZE={announced()}: each would do all of it, "
            f"into the same folder. Start it without torchrun, which shares the work of {' and '.join(_SHARED)}."
        )


def main() -> None:
    """Run the command; an error that a user can mend is one sentence on stderr, not a traceback."""
    try:
        app()
    except SystemExit as stop:
        if stop.code == 130:  # typer turns Ctrl-C into it, without a word
            _say("interrupted; the same command goes on from what was written.")
        if stop.code == STOPPED:
            why = ", which torchrun sends to all when one has ended" if not alone() else ""
            _say(f"stopped by SIGTERM{why}; the same command goes on from what was written.")
        raise
    except Exception as error:
        if not alone():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's to all: this is the way out already
        code = _exit_code(error)
        if code is None:
            raise
        _say(_sentence(error))
        sys.exit(code)


def _say(text: str) -> None:
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False).print(f"sonet: {text}")


def _exit_code(error: Exception) -> int | None:
    """2 for input that a user can mend, 1 for work that failed with a known reason, None for a bug of ours."""
    from pydantic import ValidationError

    from sonet.attacks import AttackError, ThreatError
    from sonet.audit import CannotAudit
    from sonet.certificate import CannotCertify, CertificateBroken
    from sonet.cli.own_code import TargetError
    from sonet.data import DataError
    from sonet.evaluation import ProcessLost
    from sonet.experiments import PlanError
    from sonet.job import JobError
    from sonet.models import ConfigError
    from sonet.publishing import PublicationError
    from sonet.report import RecordError
    from sonet.solvers import SolveError
    from sonet.training import CheckpointError, TrainingError, TrainingRefused

    if isinstance(
        error,
        ValidationError
        | AttackError
        | ThreatError
        | DataError
        | JobError
        | PlanError
        | ConfigError
        | RecordError
        | CheckpointError
        | TrainingRefused
        | PublicationError
        | TargetError
        | CannotAudit
        | CannotCertify,
    ):
        return 2
    if isinstance(error, SolveError | TrainingError | CertificateBroken | ProcessLost | OSError):
        return 1
    return None


def _sentence(error: Exception) -> str:
    from pydantic import ValidationError

    from sonet.errors import explain

    return " ".join((explain(error) if isinstance(error, ValidationError) else str(error)).split())
