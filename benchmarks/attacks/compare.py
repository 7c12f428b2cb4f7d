"""Our attacks and those of AutoAttack, torchattacks and foolbox on the same networks and images, judged alike.

    python benchmarks/attacks/compare.py --out results/attacks --mnist mnist.npz

Writes table.json and table.md into --out after every entry; what is there already is not done again. README.md says
what is compared, with which settings.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from networks import CACHE, NETWORKS, clean_accuracy, read_data, trained
from peers import BATCH, PEERS, PGD_STEP, PGD_STEPS, Heard, TimedCraft
from torch import Tensor, nn

from sonet.attacks import ATTACKS, Threat, predict
from sonet.attacks.ensemble import standard
from sonet.evaluation import evaluate
from sonet.types import Images, Labels, Proportion

SLACK = 1e-5
"""By how much a pixel may leave the box, and an image the budget, for either side."""

FAMILIES = ("standard", "pgd", "apgd-ce", "apgd-dlr", "apgd-t", "fab", "square", "deepfool", "cw", "fgsm", "other")


def ours_standard(model: nn.Module, images: Images, labels: Labels, threat: Threat, seed: int) -> Images:
    """The images of `sonet.attacks.ensemble.standard`, the worst case of its members for each sample."""
    return evaluate(model, images, labels, threat, standard(seed), judge_batch=BATCH).adversarial


@dataclass(frozen=True)
class Entry:
    """One side's attack: `tool` is ours or a library, `family` says whom it is compared with."""

    tool: str
    name: str
    family: str
    norms: tuple[str, ...]
    run: TimedCraft


class Counted(nn.Module):
    """The network, counting the images it sees forward and backward: a price that does not depend on the machine."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.forwards = self.backwards = 0
        self.eval()

    def forward(self, images: Images) -> Tensor:
        self.forwards += len(images)
        logits: Tensor = self.model(images)
        if logits.requires_grad:
            logits.register_hook(lambda gradient: self._count_backward(len(images)))
        return logits

    def _count_backward(self, number: int) -> None:
        self.backwards += number


def our_attack(name: str) -> TimedCraft:
    """Our attack `name` with the call of a peer. Its time holds its own checks and its judging twice."""

    def run(model: nn.Module, images: Images, labels: Labels, norm: Any, eps: float, seed: int) -> tuple[Images, float]:
        start = time.perf_counter()
        changes = {"steps": PGD_STEPS, "step_size": PGD_STEP * eps, "random_start": True} if name == "pgd" else {}
        attack = ATTACKS[name][0](seed=seed, batch_size=BATCH, **changes)
        result = attack.run(model, images, labels, Threat(norm, eps))
        return result.adversarial, time.perf_counter() - start

    return run


def _run_standard(
    model: nn.Module, images: Images, labels: Labels, norm: Any, eps: float, seed: int
) -> tuple[Images, float]:
    start = time.perf_counter()
    return ours_standard(model, images, labels, Threat(norm, eps), seed), time.perf_counter() - start


def entries() -> list[Entry]:
    """Both sides, sorted by family, so that what is compared runs one after the other."""
    found = [Entry("ours", "standard", "standard", ("linf", "l2"), _run_standard)]
    for name, (kind, _) in ATTACKS.items():
        family = "cw" if name.startswith("cw-") else name if name in FAMILIES else "other"
        found.append(Entry("ours", name, family, kind.norms, our_attack(name)))
    for peer in PEERS.values():
        tool, _, name = peer.name.partition(" ")
        found.append(Entry(tool, name, peer.family, peer.norms, peer.run))
    return sorted(found, key=lambda entry: FAMILIES.index(entry.family))


def judge(model: nn.Module, adversarial: Images, images: Images, labels: Labels, threat: Threat) -> tuple[Tensor, int]:
    """(N,) bool, who is fooled, and how many images left box or budget; those count as not fooled.

    The one judge of both sides: argmax of the deployed network, in batches of the same size as the attacks.
    """
    finite = torch.isfinite(adversarial).flatten(1).all(1)
    inside = ((adversarial >= -SLACK) & (adversarial <= 1 + SLACK)).flatten(1).all(1)
    sound = finite & inside & (threat.distance(adversarial, images) <= threat.eps + SLACK)
    return (predict(model, adversarial, BATCH) != labels) & sound, int((~sound).sum())


def environment() -> dict[str, Any]:
    """What the seconds depend on."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    packages = ("sonet", "torch", "numpy", "pyautoattack", "torchattacks", "foolbox", "eagerpy")
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: version(name) for name in packages},
    }


def keys(name: str, threats: tuple[Threat, ...], seeds: int, only: str) -> Iterator[tuple[str, Threat, Entry, int]]:
    """What to do for a network: family by family, seed by seed; every other seed in reverse, so that none is first."""
    for threat in threats:
        suited = [entry for entry in entries() if threat.norm in entry.norms]
        for family in FAMILIES:
            members = [entry for entry in suited if entry.family == family]
            for seed in range(seeds):
                for entry in members if seed % 2 == 0 else members[::-1]:
                    key = f"{name}/{threat}/{entry.family}/{entry.tool} {entry.name}/{seed}"
                    if only in key:
                        yield key, threat, entry, seed


def attack_once(
    model: nn.Module, entry: Entry, images: Images, labels: Labels, threat: Threat, seed: int
) -> dict[str, Any]:
    counted = Counted(model)
    with Heard() as said:
        start = time.process_time()
        adversarial, seconds = entry.run(counted, images, labels, threat.norm, threat.eps, seed)
        cpu = time.process_time() - start
    fooled, violations = judge(model, adversarial, images, labels, threat)
    return {
        "left": int((~fooled).sum()),
        "n": len(labels),
        "violations": violations,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "forwards": counted.forwards / len(labels),
        "backwards": counted.backwards / len(labels),
        "warnings": said.messages,
        "fooled": "".join("1" if fell else "0" for fell in fooled.tolist()),
    }


def render(table: dict[str, Any]) -> str:
    """The table for people: a section for each network and threat, a row for each attack, seeds together."""
    lines = [
        "Accuracy left, mean over seeds (least - most where they differ), the Wilson interval at 95 %; seconds and "
        "CPU seconds, median over seeds; forward, backward: passes by image; missed: images that some entry of the "
        "section fooled and this one never did; out: images outside box or budget, which do not count as fooled.",
    ]
    sections: dict[tuple[str, str], dict[tuple[str, str], list[dict[str, Any]]]] = {}
    for entry in table["entries"].values():
        rows = sections.setdefault((entry["network"], entry["threat"]), {})
        rows.setdefault((entry["tool"], entry["attack"]), []).append(entry)
    for (network, threat), rows in sections.items():
        about = table["networks"][network]
        everyone = _together([entry for runs in rows.values() for entry in runs])
        lines += [
            "",
            f"## {network}, {threat}",
            "",
            f"Trained against {about['trained against']}; accuracy without attack {about['clean']:.3f}; "
            f"left by all entries together {everyone.count('0') / len(everyone):.3f}.",
            "",
            "| family | tool | attack | accuracy left | interval | seconds | CPU | forward | backward | missed | out |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        for (tool, attack), runs in sorted(rows.items(), key=lambda row: (FAMILIES.index(row[1][0]["family"]), row[0])):
            left, n = [run["left"] for run in runs], runs[0]["n"]
            low, high = Proportion(round(mean(left)), n).interval
            spread = f" ({min(left) / n:.3f} - {max(left) / n:.3f})" if min(left) < max(left) else ""
            missed = everyone.count("1") - _together(runs).count("1")
            out = max(run["violations"] for run in runs)
            lines.append(
                f"| {runs[0]['family']} | {tool} | {attack} | {mean(left) / n:.3f}{spread} | {low:.3f} - {high:.3f} "
                f"| {median(run['seconds'] for run in runs):.2f} | {median(run['cpu_seconds'] for run in runs):.2f} "
                f"| {mean(run['forwards'] for run in runs):.0f} "
                f"| {mean(run['backwards'] for run in runs):.0f} | {missed} | {out} |"
            )
        heard = sorted(
            {f"{run['attack']}: {text}" for runs in rows.values() for run in runs for text in run["warnings"]}
        )
        if heard:
            lines += ["", "AutoAttack warned:", "", *(f"- {text}" for text in heard)]
    return "\n".join(lines)


def _together(runs: list[dict[str, Any]]) -> str:
    """Who was fooled by any of the runs, a 0 or 1 for each image."""
    return "".join(max(marks) for marks in zip(*(run["fooled"] for run in runs), strict=True))


def write(out: Path, table: dict[str, Any]) -> None:
    for name, text in (("table.json", json.dumps(table, indent=1)), ("table.md", render(table))):
        part = out / f"{name}.part"
        part.write_text(text + "\n")
        part.replace(out / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for table.json and table.md")
    parser.add_argument("--mnist", type=Path, help="an .npz of MNIST; without it those networks are left out")
    parser.add_argument("--cache", type=Path, default=CACHE, help=f"folder for trained networks, default {CACHE}")
    parser.add_argument("--images", type=int, default=300, help="test images, default 300")
    parser.add_argument("--seeds", type=int, default=1, help="runs of every attack, default 1")
    parser.add_argument("--threads", type=int, help="threads of torch, default its own choice")
    parser.add_argument(
        "--only", default="", help="only entries whose key NETWORK/THREAT/FAMILY/TOOL NAME/SEED contains this"
    )
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "table.json"
    table: dict[str, Any] = {"images": args.images, "batch": BATCH, "environments": [], "networks": {}, "entries": {}}
    if file.is_file():
        table = json.loads(file.read_text())
        if (table["images"], table["batch"]) != (args.images, BATCH):
            sys.exit(
                f"{file} is of {table['images']} images in batches of {table['batch']}, asked for {args.images} in "
                f"{BATCH}: they cannot be compared. Choose another --out."
            )
    here = environment()
    if here not in table["environments"]:
        table["environments"].append(here)
    for network in NETWORKS:
        todo = [
            item
            for item in keys(network.name, network.threats, args.seeds, args.only)
            if item[0] not in table["entries"]
        ]
        if not todo:
            continue
        data = read_data(network.data, args.mnist)
        if data is None:
            print(f"{network.name}: left out, no --mnist was given")
            continue
        model, test = trained(network, data, args.cache), data.test.take(args.images)
        table["networks"][network.name] = {
            "clean": clean_accuracy(model, test, BATCH),
            "trained against": str(network.against or "nothing"),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "config": model.config.model_dump(mode="json"),
        }
        for key, threat, entry, seed in todo:
            try:
                done = attack_once(model, entry, test.images, test.labels, threat, seed)
            except Exception as error:  # one attack's error must not end a run of hours; it is tried again next time
                traceback.print_exc()
                print(f"{key}: {type(error).__name__}, left out")
                continue
            table["entries"][key] = {
                "network": network.name,
                "threat": str(threat),
                "family": entry.family,
                "tool": entry.tool,
                "attack": entry.name,
                "seed": seed,
                "environment": table["environments"].index(here),
                **done,
            }
            write(args.out, table)
            print(f"{key}: {done['left']}/{done['n']} left, {done['seconds']:.1f} s", flush=True)


if __name__ == "__main__":
    main()
