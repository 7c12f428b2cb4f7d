"""`sonet train`."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sonet.cli.data_dir import DataDir

if TYPE_CHECKING:
    from sonet.cli.progress import Bar


def train(
    model: Annotated[str, typer.Argument(help="Network: see `sonet list models`.", metavar="MODEL")],
    data: Annotated[str, typer.Option(help="Name, .npz file or folder: see `sonet list data`.")] = "digits",
    data_dir: DataDir = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run (default: runs/MODEL).")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the images (default: 12).")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate (default: 0.1, for margin 0.01).")] = None,
    objective: Annotated[str | None, typer.Option(help="natural, madry, trades, fast or margin.")] = None,
    threat: Annotated[str | None, typer.Option(help="Radius trained against, NORM:EPS; of margin in l2.")] = None,
    beta: Annotated[float | None, typer.Option(help="Of trades: weight of the KL, 1/lambda (default: 6).")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**32 - 1, help="Of weights, order and augmentation (default: 0).")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with the tables model and training.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="One setting, e.g. model.channels=16, model.solver=paper, training.schedule=paper."),
    ] = None,
    limit_train: Annotated[int | None, typer.Option(min=1, help="Use the first so many training images.")] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Log for TensorBoard too (an extra).")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a network, with a checkpoint each epoch; the same command goes on with an interrupted run.

    Naturally; on images attacked at every step: madry (Madry et al. 2018), trades (Zhang et al. 2019), fast with one
    step (Wong et al. 2020); or for a certified radius: margin, of the networks that know their constants.

    `sonet list training` has all settings, such as training.average; docs/training.md says what they do.

    Example: sonet train sonet --set model.channels=16 --set model.solver=paper --out runs/sonet

    Example: sonet train resnet10 --objective trades --threat linf:0.1 --beta 6

    Example: sonet train resnet10 --objective fast --threat linf:0.1 --set training.alignment=0.2

    Example: sonet train stable-sonet --objective margin --threat l2:0.25 --epochs 30
    """
    from pydantic import ValidationError

    from sonet.cli.fits import check_fits
    from sonet.cli.progress import TrainWatch, bar
    from sonet.cli.settings import read_settings
    from sonet.data import DATASETS, load
    from sonet.errors import explain
    from sonet.job import main_process, stoppable
    from sonet.models import ConfigError, build
    from sonet.training import TrainConfig, deployed, fit

    given = read_settings(config, settings or [])
    options = {"epochs": epochs, "lr": lr, "objective": objective, "threat": threat, "beta": beta, "seed": seed}
    training = given["training"] | {key: value for key, value in options.items() if value is not None}
    try:
        setting = TrainConfig.model_validate(training)
    except ValidationError as error:
        if not any(item["type"] == "extra_forbidden" for item in error.errors()):
            raise
        known = ", ".join(TrainConfig.model_fields)
        raise ConfigError(f"{explain(error)}. Settings of training are: {known}.") from None
    images = load(data, data_dir=data_dir, limit_train=limit_train)
    network = build(model, like=images, seed=setting.seed, **given["model"])
    check_fits(network, images.train.images, data)
    folder = out or Path("runs") / model
    # So that the run can be attacked from another working folder.
    found = data if data in DATASETS else str(Path(data).resolve())
    found_in = None if data_dir is None else str(data_dir.resolve())
    with stoppable(), bar() as shown, _said_by(shown):
        history = fit(
            network,
            images.train,
            setting,
            test=images.test,
            run=folder,
            data=images.describe() | {"load": found, "data_dir": found_in},
            progress=TrainWatch(shown, f"train {model}"),
            tensorboard=folder / "tensorboard" if tensorboard else None,
        )
    if not main_process():
        return  # under torchrun the main process alone speaks
    last = deployed(history)
    if as_json:
        answer = {"run": str(folder), "objective": setting.objective, "threat": setting.threat}
        typer.echo(json.dumps(answer | {"history": [epoch.model_dump() for epoch in history]}, indent=1))
        return
    against = "" if setting.threat is None else f" trained with {setting.objective} at {setting.threat}"
    following = f"sonet attack {folder} --threat {setting.threat or 'linf:0.1'}"
    if setting.objective == "margin":
        following = f"sonet certify {folder}"
    stopped = ""
    if len(history) > last.epoch:
        stopped = (
            f"\nStopped in epoch {len(history)} of {setting.epochs}: accuracy under PGD on the watched images "
            f"fell from {last.watched_pgd:.2f} to {history[-1].watched_pgd:.2f}; epoch {last.epoch} was kept."
        )
    epochs_done = f"{last.epoch} epoch{'' if last.epoch == 1 else 's'}"
    typer.echo(
        f"{model} on {data}{against}: test accuracy {last.test_accuracy:.4f} on {len(images.test)} images after "
        f"{epochs_done} (loss {last.loss:.4f}, NFE {last.evaluations:.0f}).{stopped}\n"
        f"Wrote {folder}. Next: {following}"
    )


@contextmanager
def _said_by(shown: Bar) -> Iterator[None]:
    """What training warns of, as sentences beside the progress and not as lines of our code."""
    from sonet.training import TrainingWarning

    with warnings.catch_warnings():
        warnings.simplefilter("always", TrainingWarning)
        usual = warnings.showwarning

        def say(
            message: Warning | str, category: type[Warning], filename: str, lineno: int, *rest: Any, **more: Any
        ) -> None:
            if issubclass(category, TrainingWarning):
                shown.say(f"warning: {message}")
            else:
                usual(message, category, filename, lineno, *rest, **more)

        warnings.showwarning = say
        yield
