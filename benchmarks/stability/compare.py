"""Certified accuracy of the stable SONet beside convex potentials and other 1-Lipschitz layers: one frame, data, time.

    python benchmarks/stability/compare.py --out results/stability --mnist mnist.npz

Writes table.json and table.md into --out after every network; what is there already is not done again. README.md says
what is compared.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from layers import LAYERS
from torch import Tensor, nn

from sonet.blocks import MaxMin, SpreadChannels, UnitRows, Unshuffle
from sonet.certificate import certify
from sonet.data import Dataset, Split, load
from sonet.models import build
from sonet.training import TrainConfig, fit
from sonet.types import Proportion

RADII = (0.1, 0.25, 0.3, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Task:
    """A data set with its frame and the CPU seconds that every network may train."""

    name: str
    radius: float
    blocks: tuple[int, ...]
    strides: tuple[int, ...]
    channels: dict[str, tuple[int, ...]]
    seconds: float
    temperature: float


SMALL = ("convex-potential", *LAYERS)
TASKS = (
    Task("digits", 0.25, (2, 2), (1, 2), {"stable-sonet": (16,)} | dict.fromkeys(SMALL, (8, 16)), 45.0, 0.1),
    Task("mnist", 0.3, (1, 1, 1), (1, 2, 2), {"stable-sonet": (8,)} | dict.fromkeys(SMALL, (4, 8)), 60.0, 0.04),
)


class Frame(nn.Module):
    """The frame of the stable networks around another layer: spread, layers with MaxMin, unshuffles, unit-row head."""

    def __init__(self, layer: str, data: Dataset, task: Task, channels: int) -> None:
        super().__init__()
        size = data.size
        body: list[nn.Module] = [SpreadChannels(data.channels, channels)]
        for number, stride in zip(task.blocks, task.strides, strict=True):
            if stride == 2:
                body.append(Unshuffle())
                channels, size = 4 * channels, (-(-size[0] // 2), -(-size[1] // 2))
            for _ in range(number):
                body += [LAYERS[layer](channels, size), MaxMin()]
        self.body = nn.Sequential(*body)
        self.head = UnitRows(channels * size[0] * size[1], data.num_classes)

    def gaps(self) -> Tensor:
        return self.head.gaps()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


def make(name: str, data: Dataset, task: Task, channels: int, seed: int) -> nn.Module:
    if name in LAYERS:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Frame(name, data, task, channels)
    return build(name, like=data, seed=seed, channels=channels, blocks=task.blocks, strides=task.strides)


def epochs_for(name: str, data: Dataset, task: Task, channels: int) -> int:
    """As many as fit the task's CPU seconds, by the second epoch of a network thrown away; at least 3."""
    model = make(name, data, task, channels, seed=1000)
    config = TrainConfig(objective="margin", threat=f"l2:{task.radius}", temperature=task.temperature, epochs=1)
    fit(model, data.train, config)  # the first steps of a process are slower
    start = time.process_time()
    fit(model, data.train, config)
    return max(3, round(task.seconds / (time.process_time() - start)))


def radii_of(model: nn.Module, test: Split) -> Tensor:
    """Certified radii in l_2. Of the other layers without rounding, which is in their favour."""
    if not isinstance(model, Frame):
        return certify(model, test.images, test.labels, "l2")[0].radii
    with torch.no_grad():
        logits, gaps = model(test.images).double(), model.gaps().double()
    lead = logits.gather(1, test.labels[:, None]) - logits
    ratios = (lead / gaps.clamp_min(1e-300)[test.labels]).scatter(1, test.labels[:, None], torch.inf)
    radii = ratios.amin(1)
    return torch.where(logits.argmax(1) == test.labels, radii.clamp_min(0), torch.full_like(radii, -1.0))


def measure(name: str, data: Dataset, task: Task, channels: int, seed: int, epochs: int) -> dict[str, Any]:
    model = make(name, data, task, channels, seed)
    config = TrainConfig(
        objective="margin", threat=f"l2:{task.radius}", temperature=task.temperature, epochs=epochs, seed=seed
    )
    start = time.process_time()
    fit(model, data.train, config)
    spent = time.process_time() - start
    radii = radii_of(model.eval(), data.test)
    return {
        "task": task.name,
        "network": name,
        "channels": channels,
        "seed": seed,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "epochs": epochs,
        "cpu_seconds": spent,
        "n": len(radii),
        "natural": int((radii >= 0).sum()),
        "certified": {str(eps): int((radii > eps).sum()) for eps in RADII},
        "radii": [round(value, 4) for value in radii.tolist()],
    }


def render(rows: list[dict[str, Any]]) -> str:
    lines = [
        "Mean over seeds (single seeds), n test images each; at the radius trained for the Wilson interval at 95 % "
        "of all seeds' images. Certified radii in l2; those of spectral, aol and cayley count no rounding.",
    ]
    for task in TASKS:
        mine = [row for row in rows if row["task"] == task.name]
        if not mine:
            continue
        shown = [eps for eps in RADII if eps != task.radius]
        lines += [
            "",
            f"## {task.name}: trained for l2 {task.radius} with T = {task.temperature:g}, {task.seconds:g} CPU s each; "
            f"{mine[0]['n']} test images",
            "",
            f"| network | channels | parameters | epochs | CPU s | seeds | natural | certified at {task.radius} | "
            + " | ".join(f"{eps:g}" for eps in shown)
            + " |",
            "|" + "---|" * (8 + len(shown)),
        ]
        groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for row in mine:
            groups.setdefault((row["network"], row["channels"]), []).append(row)
        for (name, channels), some in groups.items():
            n = some[0]["n"]
            natural = [row["natural"] / n for row in some]
            held = [row["certified"][str(task.radius)] for row in some]
            low, high = Proportion(sum(held), n * len(held)).interval
            lines.append(
                f"| {name} | {channels} | {some[0]['parameters']} | {some[0]['epochs']} "
                f"| {mean(row['cpu_seconds'] for row in some):.0f} | {len(some)} "
                f"| {mean(natural):.3f} ({', '.join(f'{value:.3f}' for value in natural)}) "
                f"| {mean(held) / n:.3f} [{low:.3f}, {high:.3f}] ({', '.join(f'{value / n:.3f}' for value in held)}) | "
                + " | ".join(f"{mean(row['certified'][str(eps)] for row in some) / n:.3f}" for eps in shown)
                + " |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for table.json and table.md")
    parser.add_argument("--mnist", type=Path, help="an .npz of MNIST; without it that task is left out")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of every network, default 3")
    parser.add_argument("--only", default="", help="only entries whose key TASK/NETWORK/CHANNELS/SEED contains this")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "table.json"
    table: dict[str, Any] = {"environment": {}, "epochs": {}, "rows": {}}
    if file.is_file():
        table = json.loads(file.read_text())
    table["environment"] = {
        "cores": os.cpu_count(),
        "threads": 1,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: version(name) for name in ("sonet", "torch")},
    }
    for task in TASKS:
        if task.name == "mnist" and args.mnist is None:
            print("mnist: left out, no --mnist was given")
            continue
        data = load("digits" if task.name == "digits" else str(args.mnist))
        for seed in range(args.seeds):
            for name, widths in task.channels.items():
                for channels in widths:
                    key = f"{task.name}/{name}/{channels}/{seed}"
                    if key in table["rows"] or args.only not in key:
                        continue
                    frame = f"{task.name}/{name}/{channels}"
                    if frame not in table["epochs"]:
                        table["epochs"][frame] = epochs_for(name, data, task, channels)
                    row = measure(name, data, task, channels, seed, table["epochs"][frame])
                    table["rows"][key] = row
                    for target, text in (
                        (file, json.dumps(table, indent=1) + "\n"),
                        (args.out / "table.md", render(list(table["rows"].values()))),
                    ):
                        part = target.with_suffix(target.suffix + ".part")
                        part.write_text(text)
                        part.replace(target)
                    print(
                        f"{key}: natural {row['natural']}, certified {row['certified']}, {row['cpu_seconds']:.0f} s",
                        flush=True,
                    )


if __name__ == "__main__":
    sys.exit(main())
