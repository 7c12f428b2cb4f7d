"""A training epoch of SONet-64 [2, 2, 2, 2] on a GPU: 50,000 images of 3 x 32 x 32, batch 128, ours and torchdiffeq's.

    python benchmarks/speed/epoch.py                                     # without a GPU it says so, and writes no row
    python benchmarks/speed/epoch.py --device cpu --channels 4 --batch-size 2 --steps 1 --out here.json    # to try it

`--steps` training steps of each (forward, gradient of the cross-entropy to every weight, SGD) are timed in turn, in
float32, on the same weights and uniform images, after two that are not; an epoch is the median step times its steps.
Whole batch, dopri5 at tolerance 0.1, as torchdiffeq does it; that both compute the same is compared by run.py.
"""

from __future__ import annotations

import argparse
import math
import time

import torch
from latest import Latest, Row, arguments, parse
from peers import AS_TORCHDIFFEQ, by_torchdiffeq
from torch import nn
from work import Timing, train

from sonet.models import build

IMAGES = 50_000


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch_size: int, device: torch.device) -> float:
    """Seconds of one training step."""
    images = torch.rand(batch_size, 3, 32, 32, device=device)
    _wait(device)
    start = time.perf_counter()
    _, *gradients = train(model, images)
    for weight, gradient in zip(model.parameters(), gradients, strict=True):
        weight.grad = gradient
    optimizer.step()
    _wait(device)
    return time.perf_counter() - start


def measure(device: torch.device, channels: int, batch_size: int, steps: int) -> Row:
    torch.manual_seed(0)
    mine = build("sonet", seed=0, channels=channels, solver=AS_TORCHDIFFEQ).to(device)
    sides = [(model, torch.optim.SGD(model.parameters(), lr=1e-3)) for model in (mine, by_torchdiffeq(mine))]
    times: list[list[float]] = [[], []]
    for number in range(steps + 2):
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            seconds = step(*sides[which], batch_size, device)
            if number >= 2:
                times[which].append(seconds)
    timing = Timing(tuple(times[0]), tuple(times[1]), 0.0)
    low, high = timing.spread
    epoch = math.ceil(IMAGES / batch_size)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    ours, other = (epoch * sorted(side)[len(side) // 2] for side in times)
    row: Row = {"name": f"epoch/sonet-{channels}/{name}", "n": steps, "batch": batch_size, "device": name}
    return row | {"ratio": timing.ratio, "low": low, "high": high, "ours_seconds": ours, "other_seconds": other}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments(parser)
    parser.add_argument("--device", default="cuda", help="default: the GPU")
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20, help="timed steps a side")
    args = parse(parser)
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("No GPU here: the row stays empty.")
        return
    torch.set_num_threads(args.threads)
    row = measure(device, args.channels, args.batch_size, args.steps)
    Latest(args.out, replace=args.replace).keep(row)
    print(
        f"{row['name']}: {row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}], {row['ours_seconds']:.0f} s an epoch"
    )


if __name__ == "__main__":
    main()
