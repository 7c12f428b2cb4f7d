"""Cells over processes: longest first, each as soon as its network is trained, with progress from all of them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import connection
from pathlib import Path
from queue import Empty
from typing import Any

import torch

from sonet.experiments.cells import Cell, Outcome
from sonet.experiments.layout import cost
from sonet.experiments.plan import Plan
from sonet.experiments.work import do_cell, finished

Watch = Callable[[Cell, float, str], None]
"""Told of a cell, the part of it done, and how it goes."""

_queue: Any = None


def default_workers() -> int:
    """One process a core, each with one thread: small networks do not feed more. One on a GPU."""
    return 1 if torch.cuda.is_available() else min(8, os.cpu_count() or 1)


def do_cells(
    cells: list[Cell], plan: Plan, out: Path, *, workers: int, data_dir: Path | None, watch: Watch
) -> Iterator[tuple[Cell, Outcome]]:
    """Do all cells and yield each with its outcome as it ends; those done earlier come first, from their files."""
    trained: set[str] = set()
    waiting: list[Cell] = []
    for cell in cells:
        outcome = finished(cell, out)
        if outcome is None:
            waiting.append(cell)
            continue
        if cell.kind == "train":
            trained.add(cell.network)
        yield cell, outcome
    waiting.sort(key=lambda cell: (cell.kind != "train", -cost(cell, plan)))

    def take() -> Cell | None:
        for cell in waiting:
            if cell.kind == "train" or cell.network in trained:
                waiting.remove(cell)
                return cell
        return None

    if workers == 1:
        while (chosen := take()) is not None:
            outcome = do_cell(chosen, plan, out, data_dir, partial(watch, chosen))
            trained.add(chosen.network)
            yield chosen, outcome
        return

    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(queue,)) as pool:
        running: dict[Future[Outcome], Cell] = {}
        try:
            while waiting or running:
                while len(running) < workers and (chosen := take()) is not None:
                    running[pool.submit(_work, chosen, plan, out, data_dir)] = chosen
                ended, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                _drain(queue, {cell.key: cell for cell in running.values()}, watch)
                for future in ended:
                    cell = running.pop(future)
                    outcome = future.result()
                    if cell.kind == "train":
                        trained.add(cell.network)
                    yield cell, outcome
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            ours = set(multiprocessing.active_children()) - others
            for process in ours:
                process.terminate()
            for process in ours:
                # The pool's own thread may collect the process first, and `join` then returns before that is noted.
                while process.is_alive():
                    process.join(0.05)
                    time.sleep(0.01)
            if isinstance(error, BrokenProcessPool):
                raise ChildProcessError(
                    "a worker process was ended from outside, perhaps because memory ran out. The same command goes on "
                    "from what was written; give it fewer --workers."
                ) from None
            raise


def _start(queue: Any) -> None:
    global _queue
    _queue = queue
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would go on writing, beside the workers of the run that takes over."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # only workers come here
    connection.wait([parent.sentinel])
    os._exit(1)


def _work(cell: Cell, plan: Plan, out: Path, data_dir: Path | None) -> Outcome:
    return do_cell(cell, plan, out, data_dir, lambda done, word: _queue.put((cell.key, done, word)))


def _drain(queue: Any, running: dict[str, Cell], watch: Watch) -> None:
    while True:
        try:
            key, done, word = queue.get_nowait()
        except Empty:
            return
        if key in running:
            watch(running[key], done, word)
