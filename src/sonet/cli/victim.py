"""A trained network with the images it is attacked on: from a run or a publication, checked before any work."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from sonet.data import Dataset, Split
    from sonet.publishing import TrainedNetwork
    from sonet.types import Classifier


@dataclass(frozen=True)
class Victim:
    """A network on its device, the test images attacked, and what a record says of both.

    given: --data and --data-dir, where they were given, such that they can be loaded again from any folder.
    """

    run: Path
    checkpoint: TrainedNetwork
    model: nn.Module
    data: Dataset
    test: Split
    device: str
    given: dict[str, str | None]

    def deployed(self, judge_batch: int) -> Classifier:
        """The network as it is judged; one at a time, batch-wide steps are each image's own, which is much faster."""
        from sonet.blocks import ode_blocks
        from sonet.models import variant
        from sonet.solvers import Adaptive

        solvers = [block.solver for block in ode_blocks(self.model).values()]
        if judge_batch == 1 and solvers and all(isinstance(solver, Adaptive) for solver in solvers):
            return variant(self.model, scope="sample")
        return self.model

    @property
    def name(self) -> str:
        return str(self.checkpoint.description.model["kind"])

    @property
    def about(self) -> dict[str, Any]:
        """What must be the same for work on it to be gone on with."""
        described = self.checkpoint.description
        return {
            "run": str(self.run),
            "model": described.model,
            "files": described.files,
            "data": self.data.describe() | self.given,
        }


def find_victim(run: Path, data: str | None, data_dir: Path | None, images: int | None, device: str) -> Victim:
    """The network of a run or publication, and the first `images` test images of its own data, or of `data`."""
    from sonet.attacks import AttackError
    from sonet.cli.fits import check_fits
    from sonet.data import DATASETS, load
    from sonet.publishing import Publication, read_trained, restore_trained

    checkpoint = read_trained(run)
    model, known = restore_trained(checkpoint), checkpoint.description.data
    where = data_dir or (Path(known["data_dir"]) if data is None and known.get("data_dir") else None)
    source = data or known.get("load") or known.get("name")
    if source is None:
        raise AttackError(f"{run} does not say what data it was trained on; name some with --data.")
    if data is None and isinstance(checkpoint, Publication) and "load" not in known:
        raise AttackError(
            f"{run} was trained on {source}, expected a data set that is known by name: a publication does not say "
            "where others are. Name a copy with --data."
        )
    dataset = load(source, data_dir=where)
    check_fits(model, dataset.test.images[:1], source)
    dataset, device = on_device(dataset, images, device)
    model.to(device)
    given = {
        "load": data if data is None or data in DATASETS else str(Path(data).resolve()),
        "data_dir": None if data_dir is None else str(data_dir.resolve()),
    }
    return Victim(run, checkpoint, model, dataset, dataset.test, device, given)


def on_device(dataset: Dataset, images: int | None, device: str) -> tuple[Dataset, str]:
    """The dataset with its first `images` test images alone, on the device; and the device that "auto" stands for."""
    import torch

    from sonet.attacks import AttackError
    from sonet.data import Split

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise AttackError("--device cuda: this machine has no CUDA device that torch can use; take cpu.")
    test = dataset.test if images is None else dataset.test.take(images)
    if device != "cpu":
        test = Split(test.images.to(device), test.labels.to(device))
    return replace(dataset, test=test), device
