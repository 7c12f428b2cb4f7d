"""Ours against torchdiffeq and torchode on the same weights; writes benchmarks/latest.json.

    make bench                                    # under ten minutes on two cores
    python benchmarks/speed/run.py --only torchdiffeq/sonet/ --repeats 7

Every row compares results first, in float64: outputs to 1e-8, gradients to 1e-6 of their largest entry. A row whose
results differ is void: it has no ratio, and says by how much.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from apart import apart, inputs
from floors import FLOORS, floors
from latest import Latest, arguments, parse
from peers import AS_FIXED, AS_TORCHDIFFEQ, NETWORKS, by_torchdiffeq, by_torchode, ours
from torch import Tensor, nn
from work import WORK, Timing, interleaved, ready

from sonet.solvers import Adaptive


@dataclass(frozen=True)
class Row:
    """`name`: ratio = seconds of `other` / seconds of ours. rival: whose `other` is, if not ours: both must then
    compute the same, and the rival is timed in a process of its own."""

    name: str
    work: str
    mine: nn.Module
    other: nn.Module
    rival: str = ""
    network: str = ""
    note: str = ""


def rows() -> Iterator[Row]:
    """Against the rivals, then ours with another setting against ours as torchdiffeq does it."""
    sample = Adaptive.model_validate(AS_TORCHDIFFEQ.model_dump() | {"scope": "sample"})
    for network in NETWORKS:
        whole, fixed = ours(network, AS_TORCHDIFFEQ), ours(network, AS_FIXED)
        for work in WORK:
            yield Row(f"torchdiffeq/{network}/{work}", work, whole, by_torchdiffeq(whole), "torchdiffeq", network)
        for work in WORK:
            yield Row(
                f"torchode/{network}/{work}",
                work,
                fixed,
                by_torchode(fixed, AS_FIXED.num_steps),
                "torchode",
                network,
                "both in 2 fixed steps: torchode's controller is another one",
            )
        for work in WORK:
            other = ours(network, sample)
            yield Row(f"per-sample/{network}/{work}", work, other, whole, note="whole batch over per sample")
        for setting in ("frozen", "differentiated"):
            solver = Adaptive.model_validate(AS_TORCHDIFFEQ.model_dump() | {"step_gradient": setting})
            for work in ("attack", "train"):
                yield Row(f"{setting}/{network}/{work}", work, ours(network, solver), whole, note="first over this")


def difference(row: Row, images: Tensor) -> tuple[float, float]:
    """(largest difference of outputs, of gradients over their largest entry), in float64."""
    mine, other = (ready(model, row.work).double() for model in (row.mine, row.other))
    pairs = list(zip(WORK[row.work](mine, images.double()), WORK[row.work](other, images.double()), strict=True))
    row.mine.float(), row.other.float()
    outputs = float((pairs[0][0] - pairs[0][1]).abs().max())
    # Against the largest gradient of all: some weights have none, but for rounding.
    largest = max((float(b.abs().max()) for _, b in pairs[1:]), default=1.0)
    return outputs, max((float((a - b).abs().max()) / largest for a, b in pairs[1:]), default=0.0)


def measure(row: Row, images: Tensor, repeats: int, threads: int) -> dict[str, Any]:
    answer: dict[str, Any] = {"name": row.name, "n": repeats, "note": row.note}
    if row.rival:
        outputs, gradients = difference(row, images[:4])
        answer |= {"outputs_differ": outputs, "gradients_differ": gradients}
        if not (outputs <= 1e-8 and gradients <= 1e-6):
            return answer | {"ratio": None, "low": None, "high": None, "void": "results differ"}
    mine, other = ready(row.mine, row.work), ready(row.other, row.work)
    work = WORK[row.work]
    if row.rival:
        with apart(row.rival, row.network, row.work, len(images), threads) as theirs:
            return answer | _figures(interleaved(lambda: work(mine, images), theirs, repeats))
    return answer | _figures(interleaved(lambda: work(mine, images), lambda: work(other, images), repeats))


def measure_floor(network: str, work: str, images: Tensor, repeats: int, only: str) -> Iterator[dict[str, Any]]:
    """The bare evaluations of the fields, and of their convolutions, over ours: what share of our time they are."""
    model = ready(ours(network, AS_TORCHDIFFEQ), work)
    for name, bare in floors(model, images, work).items():
        row = f"floor-{name}/{network}/{work}"
        if only in row:
            timing = interleaved(lambda: WORK[work](model, images), bare, repeats)
            yield {"name": row, "n": repeats, "note": "share of our time"} | _figures(timing)


def _figures(timing: Timing) -> dict[str, Any]:
    low, high = timing.spread
    return {
        "ratio": timing.ratio,
        "low": low,
        "high": high,
        "ours_seconds": sorted(timing.first)[len(timing.first) // 2],
        "other_seconds": sorted(timing.second)[len(timing.second) // 2],
        "memory_growth_mib": timing.growth,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments(parser, repeats=3)
    parser.add_argument("--batch", type=int, default=100, help="as the paper attacks and trains; default 100")
    args = parse(parser)
    torch.set_num_threads(args.threads)
    images = inputs(args.batch)
    latest = Latest(
        args.out, replace=args.replace, threads=args.threads, batch=args.batch, images="3 x 32 x 32, uniform"
    )

    def keep(row: dict[str, Any]) -> None:
        latest.keep(row)
        said = row.get("void") or f"{row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
        print(f"{row['name']}: {said}", flush=True)

    for row in rows():
        if args.only in row.name:
            keep(measure(row, images, args.repeats, args.threads))
    for network in NETWORKS:
        for work in WORK:
            if any(args.only in f"floor-{name}/{network}/{work}" for name in FLOORS):
                for floor in measure_floor(network, work, images, args.repeats, args.only):
                    keep(floor)


if __name__ == "__main__":
    main()
