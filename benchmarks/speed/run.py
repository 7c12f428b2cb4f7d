"""Ours against torchdiffeq and torchode on the same weights; writes benchmarks/latest.json.

    make bench                                    # under ten minutes on two cores
    python benchmarks/speed/run.py --only torchdiffeq/sonet/ --repeats 7

Every row compares results first, in float64: outputs to 1e-8, gradients to 1e-6 of their largest entry. A row whose
results differ is void: it has no ratio, and says by how much.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import torch
from apart import apart, inputs
from floors import FLOORS, floors
from latest import Latest, arguments, parse
from peers import AS_FIXED, AS_TORCHDIFFEQ, NETWORKS, by_torchdiffeq, by_torchode, ours
from torch import Tensor, nn
from work import WORK, Timing, in_turn, interleaved, ready

from sonet.solvers import Adaptive

SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "per-sample": ({"scope": "sample"}, "whole batch over per sample"),
    "frozen": ({"step_gradient": "frozen"}, "first over this"),
    "differentiated": ({"step_gradient": "differentiated"}, "first over this"),
}
"""Ours otherwise than torchdiffeq does it: what changes, and what the ratio is."""


@dataclass(frozen=True)
class Row:
    """`name`: ratio = seconds of the rival's `other` / seconds of ours. Both must compute the same; the rival is timed
    in a process of its own."""

    name: str
    work: str
    mine: nn.Module
    other: nn.Module
    rival: str
    network: str
    note: str = ""


def rows() -> Iterator[Row]:
    """Against the rivals."""
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


def difference(row: Row, images: Tensor) -> tuple[float, float]:
    """(largest difference of outputs, of gradients over their largest entry), in float64."""
    mine, other = (ready(model, row.work).double() for model in (row.mine, row.other))
    pairs = list(zip(WORK[row.work](mine, images.double()), WORK[row.work](other, images.double()), strict=True))
    row.mine.float(), row.other.float()
    outputs = float((pairs[0][0] - pairs[0][1]).abs().max())
    # Against the largest gradient of all: some weights have none, but for rounding.
    largest = max((float(b.abs().max()) for _, b in pairs[1:]), default=1.0)
    return outputs, max((float((a - b).abs().max()) / largest for a, b in pairs[1:]), default=0.0)


def measure(row: Row, images: Tensor, repeats: int, theirs: Callable[[str], None]) -> dict[str, Any]:
    """theirs: has the rival do a kind of work once."""
    answer: dict[str, Any] = {"name": row.name, "n": repeats, "note": row.note}
    outputs, gradients = difference(row, images[:4])
    answer |= {"outputs_differ": outputs, "gradients_differ": gradients}
    if not (outputs <= 1e-8 and gradients <= 1e-6):
        return answer | {"ratio": None, "low": None, "high": None, "void": "results differ"}
    mine = partial(WORK[row.work], ready(row.mine, row.work), images)
    return answer | _figures(interleaved(mine, partial(theirs, row.work), repeats))


def measure_own(network: str, work: str, images: Tensor, repeats: int, only: str) -> Iterator[dict[str, Any]]:
    """Ours in turn with our other settings, and with its floors: what share of our time they are."""

    def wanted(kind: str) -> bool:
        return only in f"{kind}/{network}/{work}"

    def prepared(change: dict[str, Any]) -> nn.Module:
        return ready(ours(network, Adaptive.model_validate(AS_TORCHDIFFEQ.model_dump() | change)), work)

    model = prepared({})
    calls: dict[str, Callable[[], object]] = {
        kind: partial(WORK[work], prepared(change), images)
        for kind, (change, _) in SETTINGS.items()
        if wanted(kind) and (work != "forward" or "step_gradient" not in change)
    }
    if any(wanted(f"floor-{name}") for name in FLOORS):
        bare = {f"floor-{name}": call for name, call in floors(model, images, work).items()}
        calls |= {kind: call for kind, call in bare.items() if wanted(kind)}
    if not calls:
        return
    (mine, *others), growth = in_turn([partial(WORK[work], model, images), *calls.values()], repeats)
    for kind, seconds in zip(calls, others, strict=True):
        own = kind in SETTINGS
        timing = Timing(seconds, mine, growth) if own else Timing(mine, seconds, growth)
        note = SETTINGS[kind][1] if own else "share of our time"
        yield {"name": f"{kind}/{network}/{work}", "n": repeats, "note": note} | _figures(timing)


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

    asked = (row for row in rows() if args.only in row.name)
    for (rival, network), some in groupby(asked, lambda row: (row.rival, row.network)):
        with apart(rival, network, args.batch, args.threads) as theirs:
            for row in some:
                keep(measure(row, images, args.repeats, theirs))
    for network in NETWORKS:
        for work in WORK:
            for own in measure_own(network, work, images, args.repeats, args.only):
                keep(own)


if __name__ == "__main__":
    main()
