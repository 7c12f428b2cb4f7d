"""`fit`: the training loop, on whatever device, precision and number of processes Accelerate finds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from sonet.attacks import predict
from sonet.blocks import ode_blocks, watch_solves
from sonet.data import Split, crop_and_flip
from sonet.solvers import Adaptive, Solution
from sonet.training.checkpoint import CheckpointError, EpochReport, find_checkpoint, load_checkpoint, save_checkpoint
from sonet.training.config import TrainConfig
from sonet.training.errors import TrainingError
from sonet.training.objectives import OBJECTIVES
from sonet.training.optimizer import make_optimizer, optimizer_state, restore_optimizer


@dataclass(frozen=True)
class BatchReport:
    """After each step: the epoch from 0, the batch from 0, its loss, accuracy and field evaluations per sample."""

    epoch: int
    epochs: int
    batch: int
    batches: int
    loss: float
    accuracy: float
    evaluations: float

    @property
    def done(self) -> float:
        """The part of the whole training done, in (0, 1]."""
        return (self.epoch + (self.batch + 1) / self.batches) / self.epochs

    def __str__(self) -> str:
        """For people who wait; NFE, the evaluations, only where there is something to solve."""
        solved = f", NFE {self.evaluations:.0f}" if self.evaluations else ""
        return f"epoch {self.epoch + 1}/{self.epochs}, loss {self.loss:.3f}, accuracy {self.accuracy:.2f}{solved}"


Progress = Callable[[BatchReport], None]


def fit(
    model: nn.Module,
    train: Split,
    config: TrainConfig | None = None,
    *,
    test: Split | None = None,
    run: Path | None = None,
    data: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> tuple[EpochReport, ...]:
    """Train `model` in place; it is left in eval mode, on the CPU, and the history of epochs is returned.

    run: folder for a checkpoint each epoch. If it holds one of the same configs, training goes on from there, and ends
        with the weights it would have had without the interruption (bit for bit on a CPU with the same threads);
        one of another network, training config or data is an error, never overwritten.
    test: judged after each epoch. data: description of the data, for the checkpoint; JSON.

    A last batch that leaves a process with a single image is left out, because BatchNorm cannot take it; the order
    changes with the epoch, so that it is another image each time.

    Every epoch's order, augmentation and dropout depend on (seed, epoch) alone; the starts of attacks, where the
    objective has some, on the image besides. Under `torchrun` each process takes its part of every batch. Batch-wide
    step sizes would then differ from those of one process: that is refused.
    """
    config = config or TrainConfig()
    accelerator = _accelerator(config)
    world, rank = accelerator.num_processes, accelerator.process_index
    if world > 1 and any(
        isinstance(block.solver, Adaptive) and block.solver.scope != "sample" for block in ode_blocks(model).values()
    ):
        raise TrainingError(
            f"step sizes are shared within a batch, and {world} processes would each share within their part only, "
            "which is another network. Use scope='sample', or one process."
        )
    if misfit := OBJECTIVES[config.objective].misfit(model):
        raise TrainingError(misfit)
    optimizer = make_optimizer(model, config)
    history: tuple[EpochReport, ...] = ()
    if run:
        if run.exists() and not run.is_dir():
            raise CheckpointError(f"{run} is a file, expected a folder for checkpoints. Choose another one.")
        run.mkdir(parents=True, exist_ok=True)  # now, not after an epoch of work that could not be written
        history = _resume(run, model, optimizer, config, data or {})
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    for epoch in range(len(history), config.epochs):
        report = _epoch(wrapped, train, config, epoch, optimizer, accelerator, rank, world, progress)
        bare = accelerator.unwrap_model(wrapped)
        if not all(bool(torch.isfinite(tensor).all()) for tensor in bare.state_dict().values()):
            # The last step's loss was still finite; written, this would take the place of the last sound checkpoint.
            raise TrainingError(
                f"the weights became infinite or NaN in the last steps of epoch {epoch + 1}. "
                "Lower the learning rate, or clip the gradient."
            )
        if test is not None:
            bare.eval()
            hits = predict(bare, test.images.to(accelerator.device), config.batch_size).cpu() == test.labels
            report = report.model_copy(update={"test_accuracy": float(hits.float().mean())})
        history = (*history, report)
        if run and accelerator.is_main_process:
            save_checkpoint(
                run, bare, optimizer_state(bare, optimizer), training=config, data=data or {}, history=history
            )
        accelerator.wait_for_everyone()
    # For mixed precision Accelerate put a `forward` of its own on the model: attacks must not meet it unasked.
    for name in ("forward", "_original_forward"):
        vars(model).pop(name, None)
    model.to("cpu").eval()
    return history


def _epoch(
    model: nn.Module,
    train: Split,
    config: TrainConfig,
    epoch: int,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    rank: int,
    world: int,
    progress: Progress | None,
) -> EpochReport:
    start = time.perf_counter()
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
    order = torch.randperm(len(train), generator=generator)
    least = min(config.batch_size, 2 * world)
    batches = [batch for batch in torch.split(order, config.batch_size) if len(batch) >= least]
    if not batches or least < world:
        raise TrainingError(
            f"{len(train)} images in batches of {config.batch_size} leave a process without two images of its own "
            f"({world} process(es)). Give more images, larger batches or fewer processes."
        )
    objective = OBJECTIVES[config.objective].of(config)
    bare = accelerator.unwrap_model(model)
    losses, hits, seen = 0.0, 0, 0
    evaluations: list[Tensor] = []
    spent = 0.0
    rate = config.lr

    def listen(_: str, solution: Solution) -> None:
        evaluations.append(solution.evaluations.float().mean())

    model.train()
    devices = [accelerator.device] if accelerator.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), watch_solves(bare, listen):
        # Not torch.manual_seed, which seeds the generators of all GPUs: nothing would restore those not in `devices`.
        torch.default_generator.manual_seed(config.seed * 1_000_003 + epoch)
        if devices:
            torch.cuda.manual_seed(config.seed * 1_000_003 + epoch)
        for number, indices in enumerate(batches):
            rate = config.learning_rate((epoch + number / len(batches)) / config.epochs)
            for group in optimizer.param_groups:
                group["lr"] = rate
            images = train.images[indices]
            if config.augment == "crop-flip":
                images = crop_and_flip(images, generator=generator)
            images = images[rank::world].contiguous().to(accelerator.device)
            labels = train.labels[indices][rank::world].to(accelerator.device)
            hard = objective.craft(bare, images, labels, config.seed * 1_000_003 + epoch)
            evaluations.clear()  # of the passes learned from; those of crafting are the attack's
            with accelerator.autocast():
                loss, logits = objective.loss(model, images, hard, labels)
            if not bool(torch.isfinite(loss)):
                raise TrainingError(
                    f"the loss became {loss.item()} in epoch {epoch + 1}, batch {number + 1} of {len(batches)}. "
                    "Lower the learning rate, clip the gradient, or look at the solver's status with watch_solves."
                )
            optimizer.zero_grad()
            accelerator.backward(loss)
            if config.clip is not None:
                accelerator.clip_grad_norm_(model.parameters(), config.clip)
            optimizer.step()
            right = int((logits.argmax(1) == labels).sum())
            needed = float(torch.stack(evaluations).sum()) if evaluations else 0.0
            losses, hits, seen = losses + loss.item() * len(labels), hits + right, seen + len(labels)
            spent += needed * len(labels)
            if progress is not None and accelerator.is_main_process:
                progress(
                    BatchReport(epoch, config.epochs, number, len(batches), loss.item(), right / len(labels), needed)
                )
    return EpochReport(
        epoch=epoch + 1,
        loss=losses / seen,
        train_accuracy=hits / seen,
        test_accuracy=None,
        evaluations=spent / seen,
        learning_rate=rate,
        seconds=time.perf_counter() - start,
    )


def _accelerator(config: TrainConfig) -> Accelerator:
    """An Accelerator for this config. Its state is one for the process: an earlier fit's setting must not linger."""
    cpu = config.device == "cpu"
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=cpu, mixed_precision=config.precision)
    if config.precision == "fp16" and accelerator.device.type == "cpu":  # Accelerate would silently use float32
        raise TrainingError("precision 'fp16' needs a GPU, and this runs on the CPU. Use 'bf16' or 'no'.")
    return accelerator


def _resume(
    run: Path, model: nn.Module, optimizer: torch.optim.Optimizer, config: TrainConfig, data: dict[str, Any]
) -> tuple[EpochReport, ...]:
    """Put the newest checkpoint of `run`, if any, into model and optimizer; returns the epochs already done."""
    if find_checkpoint(run) is None:
        return ()
    checkpoint = load_checkpoint(run)
    description = checkpoint.description
    if description.training != config or description.model != model.config.model_dump(mode="json"):  # type: ignore[union-attr,operator]
        raise CheckpointError(
            f"{checkpoint.path}: belongs to a run with another network or training config, so it is neither continued "
            "nor overwritten. Choose another folder, or remove this one."
        )
    if description.data != data:
        changed = sorted(key for key in description.data | data if description.data.get(key) != data.get(key))
        raise CheckpointError(
            f"{checkpoint.path}: belongs to a run on other data ({', '.join(changed)} differ), so it is neither "
            "continued nor overwritten. Choose another folder, or remove this one."
        )
    model.load_state_dict(checkpoint.weights)
    restore_optimizer(model, optimizer, checkpoint.momentum)
    return description.history
