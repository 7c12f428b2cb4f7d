"""The processes that share an evaluation: who is who, what one tells the others, and how they end together."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from sonet.attacks import AttackError, predict
from sonet.errors import in_short
from sonet.job import announced, stoppable, unmet
from sonet.types import Classifier, Images

T = TypeVar("T")

_MEETING, _LONGEST_UNIT = timedelta(minutes=5), timedelta(days=1)
_QUIET = 2.0
"""Seconds that a process waits which ends because another did: the launcher should see that one first."""


class ProcessLost(RuntimeError):
    """Another process of this evaluation ended before its part was done."""


@dataclass(frozen=True)
class Processes:
    """This process, `rank` of 0 .. `world` - 1. Rank 0 is the main one: it decides, prints and writes the record.

    Every process must make the same calls of `decide`, `share` and `predict` in the same order. They talk over gloo:
    what they exchange lies in CPU memory, and several of them may use one GPU. Bytes and JSON only, no pickle.
    """

    rank: int = 0
    world: int = 1

    @property
    def main(self) -> bool:
        return self.rank == 0

    def take_device(self) -> None:
        """Make one of this machine's GPUs this process's "cuda": the LOCAL_RANK-th, modulo their number."""
        if self.world > 1 and torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", self.rank)) % torch.cuda.device_count())

    def share(self, content: bytes | None, owner: int) -> bytes:
        """What process `owner` holds, told to all; the others' own content plays no part.

        Errors: ProcessLost where one of them has ended.
        """
        if self.world == 1:
            return content or b""
        mine = bytearray(content or b"") if self.rank == owner else bytearray()
        size = torch.tensor([len(mine)])
        try:
            dist.broadcast(size, owner)
            if self.rank != owner:
                mine = bytearray(int(size))
            if mine:
                dist.broadcast(torch.frombuffer(mine, dtype=torch.uint8), owner)
        except RuntimeError as error:
            waiting = f", while it waited for process {owner}" if self.rank != owner else ""
            raise ProcessLost(
                f"process {self.rank} of {self.world} lost the others{waiting} ({in_short(error)}): a process or a "
                "machine of this job has ended, or a unit took more than a day. What --out holds is kept; the same "
                "command, in any number of processes, goes on from there."
            ) from None
        return bytes(mine)

    def decide(self, make: Callable[[], T]) -> T:
        """What the main process makes of it, in all processes. JSON's types: numbers, strings, lists, None."""
        if self.world == 1:
            return make()
        answer: T = json.loads(self.share(json.dumps(make()).encode() if self.main else None, 0))
        return answer

    def collect(self, mine: T) -> list[T]:
        """What every process holds, by rank, in all processes; JSON's types."""
        return [json.loads(self.share(json.dumps(mine).encode(), owner)) for owner in range(self.world)]

    def predict(self, classifier: Classifier, images: Images, batch_size: int) -> Tensor:
        """`sonet.attacks.predict`, its batches shared out; all processes get the same answers, whoever gave them."""
        if self.world == 1:
            return predict(classifier, images, batch_size)
        mine = [predict(classifier, part, batch_size).tolist() for part in self._mine(images.split(batch_size))]  # type: ignore[no-untyped-call]
        told = self.collect(mine)
        batches = -(-len(images) // batch_size)
        flat = [label for number in range(batches) for label in told[number % self.world][number // self.world]]
        return torch.tensor(flat, device=images.device)

    def _mine(self, items: Sequence[T]) -> Sequence[T]:
        return items[self.rank :: self.world]


ALONE = Processes()
"""One process."""


@contextmanager
def joined() -> Iterator[Processes]:
    """The processes that torchrun started with this one; `ALONE` without it.

    When one fails, all end: the first one with its own error, the others without a word and with exit code 1.
    SIGTERM, by which schedulers and torchrun stop a process, ends it as Ctrl-C does, with exit code `STOPPED`.

    Errors: JobError where the launcher's WORLD_SIZE is none; AttackError where the processes cannot meet.
    """
    world = announced()
    with stoppable():
        if world == 1:
            yield ALONE
            return
        store = _meet(world)
        try:
            yield Processes(dist.get_rank(), world)
        except BaseException as error:
            _end_with_the_others(store, error)
        dist.destroy_process_group()


def _meet(world: int) -> Store:
    """Open the processes' connections; their common store."""
    if dist.is_initialized():
        raise AttackError("this process belongs to a group of torch.distributed already, expected none: join once.")
    try:
        store, rank, world = next(iter(rendezvous("env://", timeout=_MEETING)))
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=_LONGEST_UNIT)
    except (RuntimeError, ValueError) as error:
        raise AttackError(
            f"{unmet(error)}; where machines have several networks, name one in GLOO_SOCKET_IFNAME."
        ) from None
    return PrefixStore("sonet", store)


def _end_with_the_others(store: Store, error: BaseException) -> NoReturn:
    """Raise the error in the first process that comes here; end the others quietly."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):  # torchrun's to the others; this is the way out already
            signal.signal(number, signal.SIG_IGN)
    try:
        first = store.add("ended", 1) == 1
    except RuntimeError:  # the process that kept the store has ended, and said why
        first = False
    dist.destroy_process_group()  # those that wait for this process must not wait on
    if first:
        raise error
    time.sleep(_QUIET)
    raise SystemExit(1) from None
