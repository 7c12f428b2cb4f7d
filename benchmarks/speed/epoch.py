"""A training epoch of SONet-64 [2, 2, 2, 2] on a GPU: 50,000 images of 3 x 32 x 32, batch 128, ours and torchdiffeq's.

    python benchmarks/speed/epoch.py                                     # without a GPU it says so, and writes no row
    python benchmarks/speed/epoch.py --device cpu --channels 4 --batch-size 2 --steps 1 --out here.json    # to try it

`--steps` training steps of each (forward, gradient of the cross-entropy to every weight, SGD) are timed in turn, in
float32, on the same weights and uniform images, after one that is not; an epoch is the median step times its steps.
Whole batch, dopri5 at tolerance 0.1, as torchdiffeq does it; that both compute the same is compared by run.py.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from statistics import median

import torch
from latest import Latest, Row, arguments, parse
from peers import AS_TORCHDIFFEQ, by_torchdiffeq
from torch import Tensor, nn
from work import interleaved, train

from sonet.models import build

IMAGES = 50_000


def stepping(model: nn.Module, images: Tensor) -> Callable[[], None]:
    """A training step, and the wait for the device to have done it."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step() -> None:
        _, *gradients = train(model, images)
        for weight, gradient in zip(model.parameters(), gradients, strict=True):
            weight.grad = gradient
        optimizer.step()
        if images.is_cuda:
            torch.cuda.synchronize(images.device)

    return step


def measure(device: torch.device, channels: int, batch_size: int, steps: int) -> Row:
    torch.manual_seed(0)
    images = torch.rand(batch_size, 3, 32, 32, device=device)
    mine = build("sonet", seed=0, channels=channels, solver=AS_TORCHDIFFEQ).to(device)
    timing = interleaved(stepping(mine, images), stepping(by_torchdiffeq(mine), images), steps)
    low, high = timing.spread
    epoch = math.ceil(IMAGES / batch_size)
    name = torch.cuda.get_device_name(device) if images.is_cuda else "CPU"
    row: Row = {"name": f"epoch/sonet-{channels}/{name}", "n": steps, "batch": batch_size, "device": name}
    row |= {"ratio": timing.ratio, "low": low, "high": high}
    return row | {"ours_seconds": epoch * median(timing.first), "other_seconds": epoch * median(timing.second)}


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
