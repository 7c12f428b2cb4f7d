"""Peak memory of an attack step and of a training step, stored, recomputed, and by torchdiffeq.

    python benchmarks/speed/memory.py                         # all points
    python benchmarks/speed/memory.py --quick                 # two points
    python benchmarks/speed/memory.py --only attack/batch

Peak: the largest resident set (ru_maxrss) of a process of its own that takes the step once, minus the resident set
right before it. Before that the process has built the network and its images and taken the same step with one image of
8 x 8, so that code loaded on first use is in neither. Where the step did not raise the process's peak the figure is an
upper bound. Memory that the allocator keeps for later counts: it is what the process needs. Besides, the bytes that
autograd keeps of the forward pass.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from kept import kept
from latest import Latest, Row, arguments, parse
from peers import AS_TORCHDIFFEQ, by_torchdiffeq, ours
from torch import nn
from work import WORK, ready, resident

from sonet.blocks import recomputed
from sonet.solvers import Adaptive, Fixed

BATCH, TOLERANCE = 32, 0.1
QUICK = ("memory/attack/batch=16", "memory/train/steps=4")


@dataclass(frozen=True)
class Point:
    """One step to take. way: "stored", "recomputed" or "torchdiffeq". steps: of dopri5; None for adaptive steps."""

    work: str
    batch: int = BATCH
    tolerance: float = TOLERANCE
    steps: int | None = None
    way: str = "stored"

    def model(self) -> nn.Module:
        solver: Fixed | Adaptive = AS_TORCHDIFFEQ.model_copy(update={"rtol": self.tolerance, "atol": self.tolerance})
        if self.steps is not None:
            solver = Fixed(method="dopri5", num_steps=self.steps)
        model = ready(ours("sonet", solver), self.work)
        return by_torchdiffeq(model, self.tolerance) if self.way == "torchdiffeq" else model


def points() -> Iterator[tuple[str, Point]]:
    """By name; one axis at a time, the others at batch 32 and tolerance 0.1."""
    for work in ("attack", "train"):
        for batch in (8, 16, 32, 64):
            yield f"memory/{work}/batch={batch}", Point(work, batch=batch)
        for tolerance in (1e-2, 1e-3):
            yield f"memory/{work}/tolerance={tolerance:g}", Point(work, tolerance=tolerance)
        for steps in (1, 2, 4, 8):
            yield f"memory/{work}/steps={steps}", Point(work, steps=steps)


def take(point: Point) -> dict[str, Any]:
    """In a process of its own: peak and kept in MiB, whether the peak is only a bound, seconds, and a checksum."""
    model, work = point.model(), WORK[point.work]
    images = torch.rand(point.batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with recomputed(model) if point.way == "recomputed" else nullcontext():
        work(model, torch.rand(1, 3, 8, 8))
        gc.collect()
        before, peak_before = resident(), _peak()
        start = time.perf_counter()
        results = work(model, images)
        seconds = time.perf_counter() - start
        peak = _peak()
        graph = kept(model, images)
    checksum = sum(float(part.double().square().sum()) for part in results)
    return {"mib": peak - before, "bound": peak <= peak_before, "seconds": seconds, "kept": graph, "checksum": checksum}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def measure(name: str, point: Point, repeats: int, threads: int) -> Row:
    """All ways in turn, `repeats` times. ratio: peak stored over recomputed."""
    ways = ("stored", "recomputed") if point.steps is not None else ("stored", "recomputed", "torchdiffeq")
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for number in range(repeats):
        for way in ways if number % 2 == 0 else ways[::-1]:
            found[way].append(_in_a_process(Point(**(asdict(point) | {"way": way})), threads))
    pairs = sorted(a["mib"] / b["mib"] for a, b in zip(found["stored"], found["recomputed"], strict=True))
    mib = {f"{way}_mib": median(run["mib"] for run in runs) for way, runs in found.items()}
    return {
        "name": name,
        "n": repeats,
        "threads": threads,
        "note": "peak memory stored over recomputed",
        "ratio": mib["stored_mib"] / mib["recomputed_mib"],
        "low": pairs[0],
        "high": pairs[-1],
        **mib,
        **{f"{way}_kept": median(run["kept"] for run in runs) for way, runs in found.items()},
        **{f"{way}_seconds": median(run["seconds"] for run in runs) for way, runs in found.items()},
        "bounds": [way for way, runs in found.items() if any(run["bound"] for run in runs)],
        "same_numbers": len({run["checksum"] for way in ("stored", "recomputed") for run in found[way]}) == 1,
    }


def _in_a_process(point: Point, threads: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--take", json.dumps(asdict(point)), "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{point}: its process ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments(parser, repeats=3)
    parser.add_argument("--quick", action="store_true", help="two points, each once")
    parser.add_argument("--take", help=argparse.SUPPRESS)
    args = parse(parser)
    torch.set_num_threads(args.threads)
    if args.take:
        print(json.dumps(take(Point(**json.loads(args.take)))))
        return
    latest = Latest(args.out, replace=args.replace)
    for name, point in points():
        if args.only in name and (not args.quick or name in QUICK):
            row = measure(name, point, 1 if args.quick else args.repeats, args.threads)
            latest.keep(row)
            print(f"{name}: " + ", ".join(f"{key} {row[key]:.0f}" for key in row if key.endswith("_mib")), flush=True)


if __name__ == "__main__":
    main()
