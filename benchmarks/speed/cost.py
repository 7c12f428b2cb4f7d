"""Time of a forward pass and of an attack step against evaluations, width and batch, with a line fitted to each.

    python benchmarks/speed/cost.py                          # all axes
    python benchmarks/speed/cost.py --quick                  # one axis, four points
    python benchmarks/speed/cost.py --only cost/attack/width

SONet [1, 1, 1, 1] on 3 x 32 x 32, solved in equal steps of dopri5, so that the work at each point is known. Points are
measured in turn, round by round, every other round backwards; a point's time is its median.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

import torch
from fit import polynomial, verdict
from latest import Latest, Row, arguments, parse
from torch import Tensor, nn
from work import WORK, ready

from sonet.blocks import watch_solves
from sonet.models import build
from sonet.solvers import Fixed, Solution

QUICK = ("cost/forward/evaluations",)


@dataclass(frozen=True)
class Place:
    """Where on an axis, x, and the network's steps, width and batch there."""

    x: int
    steps: int = 2
    width: int = 16
    batch: int = 16

    def model(self) -> nn.Module:
        solver = Fixed(method="dopri5", num_steps=self.steps)
        return build("sonet", seed=0, solver=solver, channels=self.width, blocks=(1, 1, 1, 1)).eval()

    def images(self) -> Tensor:
        return torch.rand(self.batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def axes() -> Iterator[tuple[str, str, list[Place]]]:
    """(row's name, axis, its places)."""
    steps = [Place(_evaluations(Place(0, steps=steps)), steps=steps) for steps in (1, 2, 3, 4, 6, 8)]
    widths = [Place(width, width=width, batch=8) for width in (8, 16, 32, 64)]
    batches = [Place(batch, batch=batch) for batch in (1, 2, 4, 8, 16, 32, 64)]
    for work in ("forward", "attack"):
        for axis, places in (("evaluations", steps), ("width", widths), ("batch", batches)):
            yield f"cost/{work}/{axis}", axis, places


def measure(name: str, axis: str, places: list[Place], repeats: int, threads: int) -> Row:
    """ratio: dearest over cheapest point; the fit and what it says are in `fit` and `words`."""
    work = name.split("/")[1]
    runs = [_run(place, work) for place in places]
    times: list[list[float]] = [[] for _ in places]
    for round_number in range(repeats + 1):
        order = range(len(places)) if round_number % 2 == 0 else reversed(range(len(places)))
        for which in order:
            start = time.perf_counter()
            runs[which]()
            if round_number:  # the first round loads and lays out, and is not counted
                times[which].append(time.perf_counter() - start)
    x, seconds = [float(place.x) for place in places], [median(own) for own in times]
    line = polynomial(x, seconds, 1)
    straight, words = verdict(axis, x, seconds)
    pairs = sorted(last / first for first, last in zip(times[0], times[-1], strict=True))
    return {
        "name": name,
        "n": repeats,
        "threads": threads,
        "note": f"time at {axis} {x[-1]:g} over that at {x[0]:g}",
        "ratio": seconds[-1] / seconds[0],
        "low": pairs[0],
        "high": pairs[-1],
        "axis": axis,
        "x": x,
        "seconds": seconds,
        "least": [min(own) for own in times],
        "most": [max(own) for own in times],
        "fit": {"constant": line.coefficients[0], "each": line.coefficients[1], "residuals": list(line.residuals)},
        "straight": straight,
        "words": words,
    }


def _run(place: Place, work: str) -> Callable[[], object]:
    model, images = ready(place.model(), work), place.images()
    return lambda: WORK[work](model, images)


def _evaluations(place: Place) -> int:
    """Evaluations of fields in a forward pass, all blocks together."""
    counts: list[int] = []

    def listen(name: str, solution: Solution) -> None:
        counts.append(int(solution.evaluations.max()))

    model = place.model()
    with watch_solves(model, listen), torch.no_grad():
        model(place.images()[:1])
    return sum(counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments(parser, repeats=5)
    parser.add_argument("--quick", action="store_true", help="one axis, three rounds")
    args = parse(parser)
    torch.set_num_threads(args.threads)
    latest = Latest(args.out, replace=args.replace)
    for name, axis, places in axes():
        if args.only in name and (not args.quick or name in QUICK):
            row = measure(name, axis, places, 3 if args.quick else args.repeats, args.threads)
            latest.keep(row)
            print(f"{name}: {row['words']}", flush=True)


if __name__ == "__main__":
    main()
