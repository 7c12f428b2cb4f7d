"""The audit on networks that nobody planted: other widths, seeds, radii and data, and a module that calls torchdiffeq.

    python benchmarks/audit/others.py --out results/audit --mnist mnist.npz --cifar cifar10.npz

What is right is not known here. What an owner would have measured (PGD-20, the paper's steps of eps / 8, from the image
itself) stands beside what the audit leaves and says. others.json is written after every network and gone on from.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import foreign
import torch
from torch import nn

import sonet
from sonet.attacks import PGD, Threat
from sonet.audit import audit
from sonet.data import Dataset
from sonet.report import write_whole
from sonet.training import TrainConfig
from sonet.types import Proportion

OWN = sonet.Adaptive(rtol=0.1, atol=0.1)
SMALL = {"blocks": (1, 1, 1), "strides": (1, 2, 2)}
MEDIUM = {"blocks": (1, 1, 1), "strides": (2, 2, 2)}


@dataclass(frozen=True)
class Network:
    """What is trained on which data, and the radius it is audited at."""

    name: str
    data: str
    eps: str
    make: Callable[[Dataset], nn.Module]


def ours(kind: str, shape: dict[str, Any], channels: int, seed: int, solver: Any, recipe: dict[str, Any]) -> Any:
    def make(data: Dataset) -> nn.Module:
        options = {"channels": channels, **shape} | ({} if solver is None else {"solver": solver})
        model = sonet.build(kind, like=data, seed=seed, **options)
        settings = {"epochs": 12, "lr": 0.1, "device": "cpu", "seed": seed} | recipe
        sonet.fit(model, data.train, TrainConfig.model_validate(settings))
        return model.eval()

    return make


def networks() -> list[Network]:
    found = [
        Network(f"torchdiffeq, tolerance {tolerance:g}, seed {seed}", "digits", "linf:0.2",
                lambda data, seed=seed, tolerance=tolerance: foreign.trained(seed, tolerance))
        for seed, tolerance in ((1, 0.1), (1, 0.001), (2, 0.1), (3, 0.1), (4, 0.1))
    ]  # fmt: skip
    for seed in (11, 12):
        build = partial(ours, seed=seed, recipe={})
        found += [
            Network(f"sonet of 8, paper, seed {seed}", "digits", "linf:0.15",
                    build("sonet", SMALL, 8, solver=sonet.paper())),
            Network(f"sonet of 8, own steps, seed {seed}", "digits", "linf:0.1", build("sonet", SMALL, 8, solver=OWN)),
            Network(f"soblock-resnet10 of 8, paper, seed {seed}", "digits", "linf:0.15",
                    build("soblock-resnet10", SMALL, 8, solver=sonet.paper())),
            Network(f"resnet10 of 16, seed {seed}", "digits", "linf:0.1", build("resnet10", SMALL, 16, solver=None)),
        ]  # fmt: skip
    trades = {"objective": "trades", "threat": "linf:0.2", "beta": 6.0, "attack_steps": 5, "attack_step_size": 0.05}
    recipe = {"batch_size": 100, "schedule": "one-cycle", **trades}
    for seed in (21, 22):
        build = partial(ours, "sonet", SMALL, 16, seed, recipe=recipe)
        found += [
            Network(f"sonet of 16, paper, TRADES 6, seed {seed}", "digits", "linf:0.2", build(sonet.paper())),
            Network(f"sonet of 16, frozen steps, TRADES 6, seed {seed}", "digits", "linf:0.2",
                    build(sonet.paper(step_gradient="frozen"))),
        ]  # fmt: skip
    mnist = partial(ours, shape=MEDIUM, channels=8, seed=11)
    for name, kind, solver, recipe in (
        ("sonet of 8, paper", "sonet", sonet.paper(), {"epochs": 5}),
        ("sonet of 8, own steps", "sonet", OWN, {"epochs": 5}),
        ("resnet10 of 8", "resnet10", None, {}),
        (
            "resnet10 of 8, TRADES",
            "resnet10",
            None,
            {"objective": "trades", "threat": "linf:0.2", "beta": 6.0, "lr": 0.05},
        ),
    ):
        found.append(Network(f"mnist part: {name}", "mnist", "linf:0.2", mnist(kind, solver=solver, recipe=recipe)))
    cifar = partial(ours, shape=MEDIUM, channels=8, seed=11)
    for name, kind, solver, recipe in (
        ("sonet of 8, paper", "sonet", sonet.paper(), {"epochs": 6}),
        ("sonet of 8, own steps", "sonet", OWN, {"epochs": 6}),
        ("resnet10 of 8", "resnet10", None, {}),
        ("resnet10 of 8, Madry", "resnet10", None, {"objective": "madry", "threat": "linf:8/255", "lr": 0.05}),
    ):
        title = f"CIFAR-10 (JPEG), 6,000 images: {name}"
        found.append(Network(title, "cifar", "linf:8/255", cifar(kind, solver=solver, recipe=recipe)))
    return found


def measure(network: Network, data: Dataset, seed: int) -> dict[str, Any]:
    started = time.perf_counter()
    model = network.make(data)
    trained = time.perf_counter() - started
    threat = Threat.parse(network.eps)
    test = data.test.take(64)
    owner = PGD(steps=20).run(model, test.images, test.labels, threat)
    found = audit(model, test, threat, effort="quick", seed=seed, name=network.name).record
    return {
        "network": network.name,
        "threat": network.eps,
        "verdict": found.verdict,
        "n": found.natural.n,
        "natural": found.natural.value,
        "pgd20": owner.accuracy.value,
        "plain": found.plain.value,
        "worst": found.worst.value,
        "raised": [each.name for each in found.findings if each.raised],
        "cause": found.cause,
        "causes": [each.model_dump() for each in found.causes],
        "decisive": found.decisive,
        "train_seconds": trained,
        "audit_seconds": found.seconds,
        "environment": found.environment.model_dump(mode="json"),
    }


def render(rows: list[dict[str, Any]]) -> str:
    lines = [
        "n = 64 images each, `--quick`; intervals at n = 64 are up to 0.12 to either side.",
        "",
        "| network | threat | natural | PGD-20 leaves | all leave | verdict | raised about the gradient |",
        "|" + "---|" * 7,
    ]
    gradient = (
        "zero-gradients",
        "cross-sample-leak",
        "finite-differences",
        "tolerance-ladder",
        "step-gradient",
        "adjoint",
    )
    for row in rows:
        low, high = Proportion(round(row["worst"] * row["n"]), row["n"]).interval
        raised = ", ".join(name for name in row["raised"] if name in gradient)
        lines.append(
            f"| {row['network']} | {row['threat']} | {row['natural']:.2f} | {row['pgd20']:.2f} | {row['worst']:.2f} "
            f"[{low:.2f}, {high:.2f}] | {row['verdict']} | {raised} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--mnist", type=Path)
    parser.add_argument("--cifar", type=Path, help="an .npz of CIFAR-10; titles say JPEG-coded, 6,000 training images")
    parser.add_argument("--only", default="")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "others.json"
    rows = json.loads(file.read_text()) if file.is_file() else []
    sources = {"digits": "digits", "mnist": args.mnist, "cifar": args.cifar}
    for network in networks():
        if sources[network.data] is None or args.only not in network.name:
            continue
        if any(row["network"] == network.name for row in rows):
            continue
        rows.append(measure(network, sonet.load(sources[network.data]), seed=11))
        write_whole(file, json.dumps(rows, indent=1) + "\n")
        write_whole(args.out / "others.md", render(rows))
        last = rows[-1]
        print(network.name, last["verdict"], last["pgd20"], last["worst"], f"{last['audit_seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
