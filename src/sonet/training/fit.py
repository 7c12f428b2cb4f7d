"""`fit`: the training loop, on whatever device, precision and number of processes Accelerate finds."""

from __future__ import annotations

import warnings
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast
from torch import nn

from sonet.attacks import predict
from sonet.data import Split
from sonet.job import alone, unmet
from sonet.training.checkpoint import CheckpointError, save_checkpoint
from sonet.training.collapse import Watch, best
from sonet.training.config import TrainConfig
from sonet.training.epoch import Trainer
from sonet.training.errors import TrainingError, TrainingRefused, TrainingWarning
from sonet.training.history import EpochReport, History
from sonet.training.keeping import Keeping, copied
from sonet.training.log import Board, need_tensorboard, write_log
from sonet.training.misfits import refuse_misfits
from sonet.training.objectives import OBJECTIVES
from sonet.training.optimizer import make_optimizer, optimizer_state
from sonet.training.precision import as_built, in_float32
from sonet.training.progress import Progress
from sonet.training.resume import resume
from sonet.training.together import demand_same_start, together


def fit(
    model: nn.Module,
    train: Split,
    config: TrainConfig | None = None,
    *,
    test: Split | None = None,
    run: Path | None = None,
    data: dict[str, Any] | None = None,
    progress: Progress | None = None,
    tensorboard: Path | None = None,
) -> History:
    """Train `model` in place; it is left in eval mode, on the CPU, and the history of epochs is returned.

    run: folder for a checkpoint each epoch, and the history as log.csv. If it holds a checkpoint of the same configs,
        training goes on from there, and ends with the weights it would have had without the interruption (bit for bit
        on a CPU with the same threads); one of another network, training config or data is an error, never overwritten.
    test: judged after each epoch. data: description of the data, for the checkpoint; JSON.
    tensorboard: folder for the history as TensorBoard's scalars; TrainingError without that package.

    The weights at the end are the averaged ones, where the config averages. Where the objective stops in time, they are
    those of the best epoch: `deployed(history)`.

    A last batch that leaves a process with a single image is left out, because BatchNorm cannot take it; the order
    changes with the epoch, so that it is another image each time.

    Every epoch's order, augmentation and dropout depend on (seed, epoch) alone; the starts of attacks, where the
    objective has some, on the image besides. Under `torchrun` each process takes its part of every batch. Batch-wide
    step sizes would then differ from those of one process: that is refused, and so it is for batches done in parts.
    """
    config = config or TrainConfig()
    accelerator = _accelerator(config)
    refuse_misfits(model, config, accelerator.num_processes)
    if tensorboard is not None:
        need_tensorboard()
    optimizer = make_optimizer(model, config)
    keeping = Keeping(model, config, accelerator.device)
    history: History = ()
    if run:
        if run.exists() and not run.is_dir():
            raise CheckpointError(f"{run} is a file, expected a folder for checkpoints. Choose another one.")
        run.mkdir(parents=True, exist_ok=True)  # now, not after an epoch of work that could not be written
        history = resume(run, model, optimizer, keeping, config, data or {})
    with together(accelerator.num_processes):
        demand_same_start(accelerator, config, model, train, data or {}, history)
    if not _ended(history, config):
        if run and history and accelerator.is_main_process:
            write_log(run, history)  # a kill between log and checkpoint leaves a row too many
        wrapped, optimizer = accelerator.prepare(model, optimizer)
        main = accelerator.is_main_process
        objective = OBJECTIVES[config.objective].of(config)
        watch = objective.watch(config, train)
        bare = accelerator.unwrap_model(wrapped)
        trainer = Trainer(wrapped, bare, optimizer, accelerator, objective, config, train, keeping, progress)
        wanted = tensorboard if main else None
        with (
            together(accelerator.num_processes),
            nullcontext() if wanted is None else closing(Board(wanted, history)) as board,
        ):
            while not _ended(history, config):
                report = trainer.epoch(len(history))
                _one_network(bare, keeping, accelerator)
                _demand_finite(bare, report.epoch)
                if main and report.over_budget and not any(epoch.over_budget for epoch in history):
                    _warn_of_budget(report, config)
                kept = keeping.deployed(bare)
                history = (*history, _judged(report, kept, config, test, watch, accelerator))
                if watch is not None:
                    history = _stopped_or_kept(history, watch, keeping, kept)
                if run and main:
                    write_log(run, history)  # first, so that a finished run has its log whole
                    save_checkpoint(
                        run,
                        kept,
                        optimizer_state(bare, optimizer),
                        training=config,
                        data=data or {},
                        history=history,
                        state=keeping.state(bare),
                    )
                if board is not None:
                    board.add(history[-1])
                accelerator.wait_for_everyone()
    elif tensorboard is not None and accelerator.is_main_process:
        Board(tensorboard, history).close()
    if keeping.average is not None:
        model.load_state_dict(keeping.average.model.state_dict())
    as_built(model).to("cpu").eval()
    return history


def _ended(history: History, config: TrainConfig) -> bool:
    return len(history) >= config.epochs or (bool(history) and history[-1].kept is not None)


def _judged(
    report: EpochReport,
    kept: nn.Module,
    config: TrainConfig,
    test: Split | None,
    watch: Watch | None,
    accelerator: Accelerator,
) -> EpochReport:
    """With the accuracies of the network to be deployed: its weights, in float32."""
    found: dict[str, float] = {}
    kept.eval()
    with in_float32(kept):
        if test is not None:
            hits = predict(kept, test.images.to(accelerator.device), config.batch_size).cpu() == test.labels
            found["test_accuracy"] = float(hits.float().mean())
        if watch is not None:
            found["watched_step"], found["watched_pgd"] = watch.judge(kept)
    if accelerator.num_processes > 1 and found:  # one decides, or some would stop and the others wait for them
        mine = torch.tensor(list(found.values()), dtype=torch.float64, device=accelerator.device)
        found = dict(zip(found, broadcast(mine).tolist(), strict=True))
    return report.model_copy(update=found)


def _stopped_or_kept(history: History, watch: Watch, keeping: Keeping, kept: nn.Module) -> History:
    """Back to the best weights, and the history says so, where the last epoch collapsed; else the best are kept."""
    if watch.collapsed(history):
        assert keeping.best is not None, "a fall has an epoch before it"
        kept.load_state_dict(keeping.best)
        return (*history[:-1], history[-1].model_copy(update={"kept": best(history).epoch}))
    if best(history) is history[-1]:
        keeping.best = copied(kept)
    return history


def _one_network(bare: nn.Module, keeping: Keeping, accelerator: Accelerator) -> None:
    """Give all processes the main one's buffers, so that going on does not differ from going on after a restart."""
    if accelerator.num_processes > 1:
        for network in (bare, keeping.deployed(bare)):  # in the same order everywhere
            for buffer in network.buffers():
                broadcast(buffer)


def _demand_finite(bare: nn.Module, epoch: int) -> None:
    if not all(bool(torch.isfinite(tensor).all()) for tensor in bare.state_dict().values()):
        # The last step's loss was still finite; written, this would take the place of the last sound checkpoint.
        raise TrainingError(
            f"the weights became infinite or NaN in the last steps of epoch {epoch}. "
            "Lower the learning rate, or clip the gradient."
        )


def _warn_of_budget(report: EpochReport, config: TrainConfig) -> None:
    warnings.warn(
        f"epoch {report.epoch} needed {report.nfe:.1f} evaluations of fields for an image and pass, more than "
        f"nfe_budget {config.nfe_budget:g}. The solver works harder as the fields stiffen: "
        f"{'regularise with' if config.kinetic is None else 'raise'} kinetic, or raise the tolerance or the budget.",
        TrainingWarning,
        stacklevel=3,
    )


def _accelerator(config: TrainConfig) -> Accelerator:
    """An Accelerator for this config. Its state is one for the process: an earlier fit's setting must not linger."""
    cpu = config.device == "cpu" or not torch.accelerator.is_available()
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        PartialState(cpu=cpu)
    except (RuntimeError, ValueError) as error:  # of torch.distributed: an address is missing, a process does not come
        if alone():
            raise
        raise TrainingRefused(f"{unmet(error)}, on a machine with GPUs no more of them than it has.") from None
    accelerator = Accelerator(cpu=cpu, mixed_precision=config.precision)
    if config.precision == "fp16" and accelerator.device.type == "cpu":  # Accelerate would silently use float32
        raise TrainingRefused("precision 'fp16' needs a GPU, and this runs on the CPU. Use 'bf16' or 'no'.")
    return accelerator
