"""One epoch: batches in parts, their losses, and a step each."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from sonet.blocks import ode_blocks, watch_solves
from sonet.data import Split, crop_and_flip
from sonet.solvers import Solution
from sonet.training.config import TrainConfig
from sonet.training.energy import Energy, watch_energy
from sonet.training.errors import TrainingError, TrainingRefused
from sonet.training.history import EpochReport
from sonet.training.keeping import Keeping
from sonet.training.objectives import Objective
from sonet.training.progress import BatchReport, Progress
from sonet.types import Images, Labels


@dataclass
class Tally:
    """Sums over samples, or over steps for the last three; added over parts, batches and processes."""

    loss: float = 0.0
    hits: float = 0.0
    seen: float = 0.0
    evaluations: float = 0.0
    passes: float = 0.0
    kinetic: float = 0.0
    steps: float = 0.0
    clipped: float = 0.0
    skipped: float = 0.0

    def add(self, other: Tally) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def over_processes(self, accelerator: Accelerator) -> Tally:
        """The sums over all processes."""
        if accelerator.num_processes == 1:
            return self
        mine = torch.tensor(list(vars(self).values()), device=accelerator.device, dtype=torch.float64)
        return Tally(*accelerator.reduce(mine, "sum").tolist())


@dataclass
class Trainer:
    """Everything that an epoch works on; `model` as Accelerate prepared it, `bare` the network in it."""

    model: nn.Module
    bare: nn.Module
    optimizer: torch.optim.Optimizer
    accelerator: Accelerator
    objective: Objective
    config: TrainConfig
    train: Split
    keeping: Keeping
    progress: Progress | None = None
    evaluations: list[Tensor] = field(default_factory=list)
    energy: Energy | None = None

    def epoch(self, epoch: int) -> EpochReport:
        """Train for the epoch of this number, from 0. Its draws depend on (seed, epoch) alone.

        Errors: TrainingError where images are too few, or a loss is not finite.
        """
        start = time.perf_counter()
        config, accelerator = self.config, self.accelerator
        seed = config.seed * 1_000_003 + epoch
        generator = torch.Generator().manual_seed(seed)
        batches = self._batches(torch.randperm(len(self.train), generator=generator))
        rate, total = config.lr, Tally()
        self.model.train()
        with self._watched(seed):
            for number, indices in enumerate(batches):
                rate = config.learning_rate((epoch + number / len(batches)) / config.epochs)
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
                images = self.train.images[indices]
                if config.augment == "crop-flip":
                    images = crop_and_flip(images, generator=generator)
                where = f"epoch {epoch + 1}, batch {number + 1} of {len(batches)}"
                done = self._batch(images, self.train.labels[indices], seed, where)
                total.add(done)
                if self.progress is not None and accelerator.is_main_process:
                    means = done.loss / done.seen, done.hits / done.seen, done.evaluations / done.seen
                    self.progress(BatchReport(epoch, config.epochs, number, len(batches), *means))
        total = total.over_processes(accelerator)
        per_pass = total.evaluations / total.passes if total.passes else 0.0
        return EpochReport(
            epoch=epoch + 1,
            loss=total.loss / total.seen,
            train_accuracy=total.hits / total.seen,
            test_accuracy=None,
            evaluations=total.evaluations / total.seen,
            learning_rate=rate,
            seconds=time.perf_counter() - start,
            clipped=None if config.clip is None else total.clipped / total.steps,
            skipped=round(total.skipped / accelerator.num_processes),
            kinetic=None if config.kinetic is None else total.kinetic / total.seen,
            nfe=per_pass,
            over_budget=config.nfe_budget is not None and per_pass > config.nfe_budget,
        )

    def _batches(self, order: Tensor) -> list[Tensor]:
        size, world = self.config.batch_size, self.accelerator.num_processes
        least = min(size, 2 * world)
        batches = [batch for batch in torch.split(order, size) if len(batch) >= least]
        if not batches or least < world:
            raise TrainingRefused(
                f"{len(order)} images in batches of {size} leave a process without two images of its own "
                f"({world} process(es)). Give more images, larger batches or fewer processes."
            )
        return batches

    @contextmanager
    def _watched(self, seed: int) -> Iterator[None]:
        """Seeded, with every solve listened to, and the generators left as they were."""

        def listen(_: str, solution: Solution) -> None:
            self.evaluations.append(solution.evaluations.float().mean())

        devices = [self.accelerator.device] if self.accelerator.device.type == "cuda" else []
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=devices))
            stack.enter_context(watch_solves(self.bare, listen))
            if self.config.kinetic is not None:
                self.energy = stack.enter_context(watch_energy(self.bare))
            # Not torch.manual_seed, which seeds all GPUs' generators: nothing would restore those not in `devices`.
            torch.default_generator.manual_seed(seed)
            if devices:
                torch.cuda.manual_seed(seed)
            yield

    def _batch(self, images: Images, labels: Labels, seed: int, where: str) -> Tally:
        """One step on this process's part of a batch, done in parts of two images at least."""
        accelerator, whole = self.accelerator, len(labels)
        world, rank = accelerator.num_processes, accelerator.process_index
        images = images[rank::world].contiguous().to(accelerator.device)
        labels = labels[rank::world].to(accelerator.device)
        parts = max(1, min(self.config.accumulate, len(labels) // 2))
        tally = Tally(steps=1.0)
        self.optimizer.zero_grad()
        for number, (some, truth) in enumerate(
            zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True), start=1
        ):
            # Gradients of several processes are averaged once, in the last part.
            with nullcontext() if number == parts else accelerator.no_sync(self.model):
                loss, done = self._part(some, truth, seed, where)
                # Processes' gradients are averaged as equals: a part weighs as many images as it has.
                accelerator.backward(loss * (len(truth) * world / whole))
            tally.add(done)
        if self.config.clip is not None:
            norm = accelerator.clip_grad_norm_(self.model.parameters(), self.config.clip)
            tally.clipped = float(norm > self.config.clip)
        self.optimizer.step()
        tally.skipped = float(accelerator.optimizer_step_was_skipped)
        if self.keeping.average is not None and not tally.skipped:
            self.keeping.average.update(self.bare)
        return tally

    def _part(self, images: Images, labels: Labels, seed: int, where: str) -> tuple[Tensor, Tally]:
        hard = self.objective.craft(self.bare, images, labels, seed)
        self.evaluations.clear()  # of the passes learned from; those of crafting are the attack's
        if self.energy is not None:
            self.energy.clear()
        with self.accelerator.autocast():
            loss, logits = self.objective.loss(self.model, images, hard, labels)
            penalty = self.objective.penalty(self.bare, images, labels, seed)
        if penalty is not None:
            loss = loss + penalty
        _demand_finite(loss, where)
        n = len(labels)
        tally = Tally(seen=n, hits=float((logits.argmax(1) == labels).sum()))
        if self.energy is not None:
            assert self.config.kinetic is not None
            energy = self.energy.total()
            tally.kinetic = energy.item() * n
            loss = loss + self.config.kinetic * energy
            _demand_finite(loss, where)
        tally.loss = loss.item() * n
        if self.evaluations:
            tally.evaluations = float(torch.stack(self.evaluations).sum()) * n
            tally.passes = len(self.evaluations) / len(ode_blocks(self.bare)) * n
        return loss, tally


def _demand_finite(loss: Tensor, where: str) -> None:
    if not bool(torch.isfinite(loss)):
        raise TrainingError(
            f"the loss became {loss.item()} in {where}. "
            "Lower the learning rate, clip the gradient, or look at the solver's status with watch_solves."
        )
