"""Is the audit itself right? It judges networks whose answer is known, planted and trained, over several seeds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sonet.attacks.threat import Threat
from sonet.audit.planted import MASK_EPS, MASKS, KWinners, plain
from sonet.audit.run import audit
from sonet.data import Dataset
from sonet.models import build
from sonet.report import Verdict, write_whole
from sonet.solvers import Adaptive, Fixed, paper
from sonet.training import TrainConfig, fit
from sonet.types import Classifier

CALIBRATION = "calibration.json"
SMALL: dict[str, Any] = {"channels": 8, "blocks": (1, 1, 1), "strides": (1, 2, 2)}
SONET: dict[str, Any] = SMALL | {"channels": 16}

Tell = Callable[[float, str], None]
"""Called with the share done, in [0, 1], and a word on what is under way."""


@dataclass(frozen=True)
class Calibrated:
    """One verdict on a network of known answer. Accuracies are shares of the `n` images audited."""

    case: str
    seed: int
    masks: bool
    verdict: Verdict
    n: int
    natural: float
    plain: float
    worst: float
    overestimate: float
    decisive: list[str]
    cause: str
    seconds: float

    @property
    def right(self) -> bool:
        """An inconclusive verdict is not right, whatever the network."""
        return self.verdict == ("masked" if self.masks else "no masking found")


class Networks:
    """The networks of one seed on some data, each trained once, when it is first asked for."""

    def __init__(self, data: Dataset, seed: int) -> None:
        self._data, self._seed = data, seed
        self._shape = data.train.images.shape[1:]

    def _fitted(self, model: nn.Module, **recipe: Any) -> nn.Module:
        settings = {"epochs": 12, "lr": 0.1, "device": "cpu", "seed": self._seed} | recipe
        fit(model, self._data.train, TrainConfig.model_validate(settings))
        return model.eval()

    def _resnet(self, **recipe: Any) -> nn.Module:
        return self._fitted(build("resnet10", like=self._data, seed=self._seed, **SMALL), **recipe)

    @cached_property
    def base(self) -> nn.Module:
        shape, classes = (self._shape[0], self._shape[1], self._shape[2]), self._data.num_classes
        return self._fitted(plain(shape, classes, seed=self._seed), epochs=20)

    @cached_property
    def linear(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self._seed)
            model = nn.Sequential(nn.Flatten(), nn.Linear(self._shape.numel(), self._data.num_classes))
        return self._fitted(model, epochs=20)

    @cached_property
    def kwinners(self) -> nn.Module:
        shape = (self._shape[0], self._shape[1], self._shape[2])
        return self._fitted(KWinners(shape, self._data.num_classes, seed=self._seed), **KWinners.recipe)

    @cached_property
    def resnet(self) -> nn.Module:
        return self._resnet()

    @cached_property
    def madry(self) -> nn.Module:
        return self._resnet(objective="madry", threat="linf:0.1")

    @cached_property
    def trades(self) -> nn.Module:
        return self._resnet(objective="trades", threat="linf:0.1", beta=6.0)

    @cached_property
    def sonet(self) -> nn.Module:
        """The paper's network, trained naturally with the paper's solver."""
        return self._fitted(build("sonet", like=self._data, seed=self._seed, solver=paper(), **SONET))

    def sonet_with(self, solver: Fixed | Adaptive) -> nn.Module:
        """The very weights of `sonet`, deployed with another solver."""
        model = build("sonet", like=self._data, solver=solver, **SONET)
        model.load_state_dict(self.sonet.state_dict())
        return model.eval()


@dataclass(frozen=True)
class Case:
    """A network of known answer."""

    masks: bool
    make: Callable[[Networks], Classifier]


def _around_base(mask: Callable[[Classifier], nn.Module], nets: Networks) -> Classifier:
    return mask(nets.base)


CASES: dict[str, Case] = {
    **{name: Case(True, partial(_around_base, mask)) for name, mask in MASKS.items()},
    "k winners": Case(True, lambda nets: nets.kwinners),
    "sonet, the paper's solver": Case(True, lambda nets: nets.sonet),
    "linear": Case(False, lambda nets: nets.linear),
    "two-layer network": Case(False, lambda nets: nets.base),
    "resnet10": Case(False, lambda nets: nets.resnet),
    "resnet10, adversarially trained": Case(False, lambda nets: nets.madry),
    "resnet10, TRADES": Case(False, lambda nets: nets.trades),
    "sonet, own frozen steps": Case(False, lambda nets: nets.sonet_with(Adaptive(rtol=0.1, atol=0.1))),
    "sonet, fixed steps": Case(False, lambda nets: nets.sonet_with(Fixed(method="rk4", num_steps=4))),
}
"""The same weights of a SONet stand on both sides: what masks is the solver's setting, not what was learned."""


def calibrate(
    data: Dataset,
    seeds: Iterable[int],
    *,
    names: Iterable[str] | None = None,
    eps: float = MASK_EPS,
    out: Path | None = None,
    tell: Tell = lambda done, word: None,
) -> list[Calibrated]:
    """Audit the cases `names`, all by default, at the quick effort, each with networks and images of every seed.

    The images of seed s are 64 test images from place 64 s on, going round. out: a folder where each verdict is kept as
    it is made; a call that was killed goes on from there.
    """
    pairs = [(seed, name) for seed in seeds for name in (CASES if names is None else names)]
    file = None if out is None else out / CALIBRATION
    kept = list(_read(file))
    done = {(each.seed, each.case): each for each in kept}
    nets: tuple[int, Networks] | None = None
    for number, (seed, name) in enumerate(pairs):
        if (seed, name) in done:
            continue
        tell(number / len(pairs), f"seed {seed}: {name}")
        if nets is None or nets[0] != seed:
            nets = seed, Networks(data, seed)
        done[seed, name] = _judge(name, seed, nets[1], data, eps)
        if file is not None:
            write_whole(file, json.dumps([asdict(each) for each in done.values()], indent=1) + "\n")
    tell(1.0, "done")
    return [done[pair] for pair in pairs]


def _judge(name: str, seed: int, nets: Networks, data: Dataset, eps: float) -> Calibrated:
    started, case = time.perf_counter(), CASES[name]
    model = case.make(nets)
    count = len(data.test)
    places = torch.arange(64 * seed, 64 * seed + 64) % count
    chosen = data.test.images[places].contiguous(), data.test.labels[places]
    found = audit(model, chosen, Threat("linf", eps), effort="quick", seed=seed, name=name).record
    return Calibrated(
        case=name,
        seed=seed,
        masks=case.masks,
        verdict=found.verdict,
        n=found.natural.n,
        natural=found.natural.value,
        plain=found.plain.value,
        worst=found.worst.value,
        overestimate=found.overestimate.value,
        decisive=found.decisive,
        cause=found.cause,
        seconds=time.perf_counter() - started,
    )


def _read(file: Path | None) -> Iterator[Calibrated]:
    if file is not None and file.is_file():
        for entry in json.loads(file.read_text()):
            yield Calibrated(**entry)


def table(found: list[Calibrated]) -> list[tuple[str, str, list[Calibrated]]]:
    """(case, what it must be called, its verdicts by seed), in the order of `CASES`."""
    return [
        (name, "masked" if case.masks else "no masking found", [each for each in found if each.case == name])
        for name, case in CASES.items()
        if any(each.case == name for each in found)
    ]
