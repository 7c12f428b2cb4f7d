"""A rival at work in a process of its own, as its users run it: what ours asks of the C library does not reach it."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import torch
from peers import AS_FIXED, AS_TORCHDIFFEQ, by_torchdiffeq, by_torchode, ours
from torch import nn
from work import WORK, ready

RIVALS: dict[str, Callable[[str], nn.Module]] = {
    "torchdiffeq": lambda network: by_torchdiffeq(ours(network, AS_TORCHDIFFEQ)),
    "torchode": lambda network: by_torchode(ours(network, AS_FIXED), AS_FIXED.num_steps),
}
"""From a network's name, which fixes its weights, to the network solved by the rival."""


def inputs(batch: int) -> torch.Tensor:
    return torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@contextmanager
def apart(rival: str, network: str, batch: int, threads: int) -> Iterator[Callable[[str], None]]:
    """A call that has the rival do a kind of work once, over there, and waits for it."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, rival, network, batch, threads), daemon=True)
    process.start()

    def once(work: str) -> None:
        here.send(work)
        here.recv()

    try:
        yield once
    finally:
        here.send(None)
        process.join(30)


def _serve(connection: Connection, rival: str, network: str, batch: int, threads: int) -> None:
    os.environ["SONET_KERNELS"] = "off"
    torch.set_num_threads(threads)
    model, images = RIVALS[rival](network), inputs(batch)
    models = {work: ready(model, work) for work in WORK}
    while (work := connection.recv()) is not None:
        WORK[work](models[work], images)
        connection.send(True)
