"""Whole attacks, end to end: PGD-20 against foolbox's, `standard` against AutoAttack's, on the same trained SONet.

    python -m pip install foolbox==3.3.4
    python -m pip install --no-deps pyautoattack==0.2.0
    python benchmarks/speed/attacks.py --runs runs/bench --data-dir DIR    # DIR/mnist-part.npz as well
    python benchmarks/speed/attacks.py --runs runs/bench --only pgd/digits
    python benchmarks/speed/attacks.py --runs runs/bench --quick           # PGD on 100 digits

The rival attacks the network solved by torchdiffeq, ours the same weights solved by ours: `same-work` the same
computation, image by image and step by step (compared in float64 first, void where it differs); `active-set` and
`default` do less work, and are rows of their own. Each side is judged on the network that it attacked.

Seconds are of the call as its user makes it: ours checks its input and judges its result twice, foolbox judges once.
Sides take turns, call by call. What is done is kept under --runs, a file a side and call, and not done again: after
changing the code under test give another --runs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from latest import Latest, Row, arguments, environment, parse
from rivals import FAMILIES, WHOLE_BATCH, Budget, Side, at_torchdiffeq, foolbox_pgd, pgd, solved_by
from torch import nn

import sonet
from sonet.attacks import Linf, predict
from sonet.data import Dataset, Split
from sonet.report.write import RecordError, claim, write_whole
from sonet.training import TrainConfig
from sonet.types import Images, Labels, Proportion

sys.path.append(str(Path(__file__).parents[1] / "attacks"))  # its networks.py trains and keeps; its peers.py is another
from networks import OWN_STEPS, Network, trained

TRAINING = TrainConfig(epochs=8, batch_size=64, lr=0.1, device="cpu")
SMALL: dict[str, Any] = {"channels": 8, "blocks": (1, 1), "solver": OWN_STEPS}
NETWORKS = (
    Network("digits", "digits", "sonet", SMALL | {"strides": (1, 2)}, TRAINING, (Linf(0.1),)),
    Network("mnist", "mnist-part.npz", "sonet", SMALL | {"strides": (2, 2)}, TRAINING, (Linf(0.1),)),
    Network("mnist-16", "mnist-part.npz", "sonet", SMALL | {"channels": 16, "strides": (2, 2)}, TRAINING, (Linf(0.1),)),
)
SLACK = 1e-5
BATCHES = {"pgd": 100, "standard": 250}
"""Images in a pass through the network."""
CALLS = {"pgd": 500, "standard": 250}
"""Images handed over at once; others move up for those that fell."""
IMAGES = 1000


class Pieces:
    """The finished pieces under --runs: a side in a call, whole or not at all, of one setting on one machine."""

    def __init__(self, folder: Path, setting: dict[str, Any]) -> None:
        self.folder = folder
        text = json.dumps(setting, indent=1)
        if not claim(folder, "setting.json", text):
            write_whole(folder / "setting.json", text)

    def get(self, side: Side, start: int) -> dict[str, Any] | None:
        file = self._file(side, start)
        return dict(json.loads(file.read_text())) if file.is_file() else None

    def put(self, side: Side, start: int, piece: dict[str, Any]) -> None:
        write_whole(self._file(side, start), json.dumps(piece))

    def _file(self, side: Side, start: int) -> Path:
        return self.folder / f"{side.name}-{start}.json"


def compare(family: str, network: Network, model: nn.Module, test: Split, budget: Budget, runs: Path) -> Iterator[Row]:
    """A row for each of our sides, once every side has attacked every image."""
    rival, mine = FAMILIES[family]
    sides = (rival, *mine)
    here = environment()
    setting = {
        "network": network.name,
        "weights": _fingerprint(model),
        "eps": budget.eps,
        "call": CALLS[family],
        "batch": budget.batch,
        "seed": budget.seed,
        "threads": torch.get_num_threads(),
        "cpu": here["cpu"],
        "torch": here["versions"]["torch"],
    }
    pieces = Pieces(runs / f"{family}-{network.name}-{budget.batch}-{budget.seed}", setting)
    done: dict[str, list[dict[str, Any]]] = {side.name: [] for side in sides}
    prepared = {side.name: side.prepare(model) for side in sides}
    for number, start in enumerate(range(0, len(test), CALLS[family])):
        call = slice(start, start + CALLS[family])
        images, labels = test.images[call], test.labels[call]
        for turn in range(len(sides)):
            side = sides[(number + turn) % len(sides)]
            piece = pieces.get(side, start)
            if piece is None or piece["n"] != len(labels):
                piece = attack_once(side, prepared[side.name], images, labels, budget)
                pieces.put(side, start, piece)
                print(
                    f"{family}/{network.name}/{side.name} {start}: {piece['left']}/{piece['n']} left, "
                    f"{piece['seconds']:.1f} s",
                    flush=True,
                )
            done[side.name].append(piece)
    for side in mine:
        name = f"attacks/{family}/{network.name}/{side.name}/n={len(test)}"
        row: Row = {"name": name, "note": side.note, "rival": rival.name, "eps": budget.eps, "batch": budget.batch}
        row |= {"seed": budget.seed, "threads": torch.get_num_threads(), "n": len(test)}
        if side.name == "same-work":
            row["images_differ"] = iterates_differ(model, test.images[:8], test.labels[:8], budget)
            if not row["images_differ"] <= 1e-6:
                yield row | {"ratio": None, "low": None, "high": None, "void": "results differ"}
                continue
        yield row | _figures(done[side.name], done[rival.name])


def attack_once(side: Side, model: nn.Module, images: Images, labels: Labels, budget: Budget) -> dict[str, Any]:
    """Seconds of crafting, and how many images its own network still gets right, before and after."""
    start = time.perf_counter()
    adversarial = side.craft(model, images, labels, budget)
    seconds = time.perf_counter() - start
    distance = (adversarial - images).flatten(1).abs().amax(1)
    inside = ((adversarial >= -SLACK) & (adversarial <= 1 + SLACK)).flatten(1).all(1)
    sound = adversarial.isfinite().flatten(1).all(1) & inside & (distance <= budget.eps + SLACK)
    fooled = (predict(model, adversarial, budget.batch) != labels) & sound
    clean = int((predict(model, images, budget.batch) == labels).sum())
    return {
        "n": len(labels),
        "seconds": seconds,
        "left": int((~fooled).sum()),
        "clean": clean,
        "out": int((~sound).sum()),
    }


def iterates_differ(model: nn.Module, images: Images, labels: Labels, budget: Budget) -> float:
    """The largest difference of a pixel after three steps of ours and of foolbox's, in float64."""
    ends = []
    for prepare, craft in ((solved_by(WHOLE_BATCH), pgd(steps=3, keep="last")), (at_torchdiffeq, foolbox_pgd(steps=3))):
        ends.append(craft(prepare(model).double(), images.double(), labels, budget))
    return float((ends[0] - ends[1]).abs().max())


def _figures(mine: list[dict[str, Any]], other: list[dict[str, Any]]) -> dict[str, Any]:
    """ratio: all seconds of the rival over all of ours; low, high: of the calls."""
    pairs = sorted(b["seconds"] / a["seconds"] for a, b in zip(mine, other, strict=True))
    found: dict[str, Any] = {}
    for who, pieces in (("ours", mine), ("other", other)):
        n = sum(piece["n"] for piece in pieces)
        left = Proportion(sum(piece["left"] for piece in pieces), n)
        found |= {
            f"{who}_seconds": sum(piece["seconds"] for piece in pieces),
            f"{who}_left": left.value,
            f"{who}_interval": list(left.interval),
            f"{who}_clean": sum(piece["clean"] for piece in pieces) / n,
            f"{who}_out": sum(piece["out"] for piece in pieces),
        }
    return found | {"ratio": found["other_seconds"] / found["ours_seconds"], "low": pairs[0], "high": pairs[-1]}


def _fingerprint(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:16]


def read(network: Network, folder: Path | None) -> Dataset | None:
    """The network's data; None for MNIST where no folder was given."""
    if network.data == "digits":
        return sonet.load("digits")
    return None if folder is None else sonet.load(folder / network.data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments(parser)
    parser.add_argument("--runs", type=Path, required=True, help="folder for trained networks and finished pieces")
    parser.add_argument("--data-dir", type=Path, help="folder with mnist-part.npz; without it MNIST is left out")
    parser.add_argument("--images", type=int, help="test images; default 1000, or all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="PGD on 100 digits")
    args = parse(parser)
    torch.set_num_threads(args.threads)
    latest = Latest(args.out, replace=args.replace)
    for network in NETWORKS:
        for family in FAMILIES:
            wanted = args.only in f"attacks/{family}/{network.name}/"
            if not wanted or (args.quick and (family, network.name) != ("pgd", "digits")):
                continue
            data = read(network, args.data_dir)
            if data is None:
                print(f"{network.name}: left out, no --data-dir was given")
                continue
            model = trained(network, data, args.runs / "weights")
            images = 100 if args.quick else args.images or IMAGES
            budget = Budget(network.threats[0].eps, BATCHES[family], args.seed)
            test = data.test.take(min(images, len(data.test)))
            try:
                for row in compare(family, network, model, test, budget, args.runs):
                    latest.keep(row)
                    said = row.get("void") or f"{row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
                    print(f"{row['name']}: {said}", flush=True)
            except RecordError as error:
                raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
