"""The peers: AutoAttack (as pyautoattack), torchattacks and foolbox, one function an attack, all called alike.

    adversarial, seconds = PEERS["autoattack standard"].run(model, images, labels, norm, eps, seed)

Each is given what its authors recommend or better: the step counts of AutoAttack's standard version where it has one,
the same steps and step size for every PGD, and, for attacks that look for the nearest image whatever its distance, the
image they found projected into the budget where it lies beyond, as for ours. README.md says what was set and why.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps

import torch
from torch import Tensor, nn

from sonet.attacks import Threat
from sonet.attacks.threat import Norm
from sonet.types import Images, Labels

os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # foolbox imports GitPython, which wants a git, for its zoo only

import foolbox
import pyautoattack
import torchattacks

BATCH = 100
PGD_STEPS = 50
PGD_STEP = 0.1
"""In eps: 50 steps of eps / 10 cross the ball 2.5 times (Madry et al. 2018's rule)."""
STEPS = 100
QUERIES = 5000
CW_STEPS = 200
CW_STEP = 0.05
CW_SEARCHES = 9
CW_CONSTANTS = (0.03, 0.1, 0.3, 1.0, 10.0)

BOTH: tuple[Norm, ...] = ("linf", "l2")
Craft = Callable[[nn.Module, Images, Labels, Norm, float, int], Images]
TimedCraft = Callable[[nn.Module, Images, Labels, Norm, float, int], tuple[Images, float]]


@dataclass(frozen=True)
class Peer:
    """An attack of another library. family: of ours, the one it is set against."""

    name: str
    family: str
    norms: tuple[Norm, ...]
    run: TimedCraft


PEERS: dict[str, Peer] = {}


def peer(name: str, family: str, norms: tuple[Norm, ...] = BOTH) -> Callable[[Craft], TimedCraft]:
    """Register a peer: seeded, timed."""

    def register(craft: Craft) -> TimedCraft:
        @wraps(craft)
        def run(
            model: nn.Module, images: Images, labels: Labels, norm: Norm, eps: float, seed: int
        ) -> tuple[Images, float]:
            torch.manual_seed(seed)
            start = time.perf_counter()
            adversarial = craft(model, images, labels, norm, eps, seed)
            return adversarial.detach(), time.perf_counter() - start

        PEERS[name] = Peer(name, family, norms, run)
        return run

    return register


def _in_batches(images: Images, labels: Labels, attack: Callable[[Images, Labels], Images]) -> Images:
    pairs = zip(torch.split(images, BATCH), torch.split(labels, BATCH), strict=True)
    return torch.cat([attack(part.contiguous(), label) for part, label in pairs])


def _within(adversarial: Tensor, images: Images, norm: Norm, eps: float) -> Images:
    """Images beyond the budget projected into it; those inside as they are."""
    threat = Threat(norm, eps)
    inside = (threat.distance(adversarial, images) <= eps).view(-1, 1, 1, 1)
    return torch.where(inside, adversarial, threat.project(adversarial, images))


# AutoAttack. In pyautoattack 0.2.0 settings are keyword-only, and both images and their predictions come back.


def _autoattack(
    model: nn.Module, images: Images, labels: Labels, norm: Norm, eps: float, seed: int, only: str | None = None
) -> Images:
    suite = pyautoattack.AutoAttack(model, norm=_capital(norm), eps=eps, seed=seed, version="standard", device="cpu")
    if only:
        # Not version="custom", which would keep five restarts: a single attack as the standard version runs it.
        suite.attacks_to_run = [only]
    adversarial, _ = suite.run_standard_evaluation(images, labels, batch_size=BATCH)
    return adversarial


def _capital(norm: Norm) -> str:
    return {"linf": "Linf", "l2": "L2"}[norm]


@peer("autoattack standard", "standard")
def autoattack_standard(model: nn.Module, images: Images, labels: Labels, norm: Norm, eps: float, seed: int) -> Images:
    return _autoattack(model, images, labels, norm, eps, seed)


@peer("autoattack apgd-ce", "apgd-ce")
def autoattack_apgd_ce(model: nn.Module, images: Images, labels: Labels, norm: Norm, eps: float, seed: int) -> Images:
    return _autoattack(model, images, labels, norm, eps, seed, "apgd-ce")


@peer("autoattack apgd-dlr", "apgd-dlr")
def autoattack_apgd_dlr(model: nn.Module, images: Images, labels: Labels, norm: Norm, eps: float, seed: int) -> Images:
    return _autoattack(model, images, labels, norm, eps, seed, "apgd-dlr")


@peer("autoattack apgd-t", "apgd-t")
def autoattack_apgd_t(model: nn.Module, images: Images, labels: Labels, norm: Norm, eps: float, seed: int) -> Images:
    return _autoattack(model, images, labels, norm, eps, seed, "apgd-t")


@peer("autoattack fab-t", "fab")
def autoattack_fab_t(model: nn.Module, images: Images, labels: Labels, norm: Norm, eps: float, seed: int) -> Images:
    return _autoattack(model, images, labels, norm, eps, seed, "fab-t")


@peer("autoattack square", "square")
def autoattack_square(model: nn.Module, images: Images, labels: Labels, norm: Norm, eps: float, seed: int) -> Images:
    return _autoattack(model, images, labels, norm, eps, seed, "square")


# torchattacks. Its defaults are 10 steps; here the counts of the papers.


@peer("torchattacks pgd", "pgd")
def torchattacks_pgd(model: nn.Module, images: Images, labels: Labels, norm: Norm, eps: float, seed: int) -> Images:
    kind = torchattacks.PGD if norm == "linf" else torchattacks.PGDL2
    return _in_batches(images, labels, kind(model, eps=eps, alpha=PGD_STEP * eps, steps=PGD_STEPS, random_start=True))


@peer("torchattacks apgd-ce", "apgd-ce")
def torchattacks_apgd_ce(model: nn.Module, images: Images, labels: Labels, norm: Norm, eps: float, seed: int) -> Images:
    attack = torchattacks.APGD(model, norm=_capital(norm), eps=eps, steps=STEPS, seed=seed, loss="ce")
    return _in_batches(images, labels, attack)


@peer("torchattacks apgd-dlr", "apgd-dlr")
def torchattacks_apgd_dlr(
    model: nn.Module, images: Images, labels: Labels, norm: Norm, eps: float, seed: int
) -> Images:
    attack = torchattacks.APGD(model, norm=_capital(norm), eps=eps, steps=STEPS, seed=seed, loss="dlr")
    return _in_batches(images, labels, attack)


@peer("torchattacks apgd-t", "apgd-t")
def torchattacks_apgd_t(model: nn.Module, images: Images, labels: Labels, norm: Norm, eps: float, seed: int) -> Images:
    attack = torchattacks.APGDT(
        model, norm=_capital(norm), eps=eps, steps=STEPS, seed=seed, n_classes=_classes(model, images)
    )
    return _in_batches(images, labels, attack)


@peer("torchattacks fab", "fab")
def torchattacks_fab(model: nn.Module, images: Images, labels: Labels, norm: Norm, eps: float, seed: int) -> Images:
    return _torchattacks_fab(model, images, labels, norm, eps, seed, targets=False)


@peer("torchattacks fab-t", "fab")
def torchattacks_fab_t(model: nn.Module, images: Images, labels: Labels, norm: Norm, eps: float, seed: int) -> Images:
    return _torchattacks_fab(model, images, labels, norm, eps, seed, targets=True)


def _torchattacks_fab(
    model: nn.Module, images: Images, labels: Labels, norm: Norm, eps: float, seed: int, targets: bool
) -> Images:
    attack = torchattacks.FAB(
        model,
        norm=_capital(norm),
        eps=eps,
        steps=STEPS,
        seed=seed,
        multi_targeted=targets,
        n_classes=_classes(model, images),
    )
    return _in_batches(images, labels, attack)


@peer("torchattacks square", "square")
def torchattacks_square(model: nn.Module, images: Images, labels: Labels, norm: Norm, eps: float, seed: int) -> Images:
    attack = torchattacks.Square(model, norm=_capital(norm), eps=eps, n_queries=QUERIES, seed=seed, resc_schedule=False)
    return _in_batches(images, labels, attack)


@peer("torchattacks deepfool", "deepfool", ("l2",))
def torchattacks_deepfool(
    model: nn.Module, images: Images, labels: Labels, norm: Norm, eps: float, seed: int
) -> Images:
    return _within(_in_batches(images, labels, torchattacks.DeepFool(model, steps=50)), images, norm, eps)


class Positive(nn.Module):
    """The same network with a constant added to each image's logits, so that all are at least 1."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, images: Images) -> Tensor:
        logits: Tensor = self.model(images)
        return logits - logits.detach().amin(1, keepdim=True) + 1


@peer("torchattacks cw", "cw", ("l2",))
def torchattacks_cw(model: nn.Module, images: Images, labels: Labels, norm: Norm, eps: float, seed: int) -> Images:
    """It has no search for the constant, so ours goes around it: of several constants the nearest image that fools.

    Twice it needs help. Its change of variable puts pixels of exactly 0 or 1 at infinity, where they never move: half
    of these images. So it is given images moved in by 5e-7, as the authors' own code does. And its margin takes the
    other classes' largest logit as 0 where all are negative, so it is given logits shifted to be positive.
    """
    threat = Threat(norm, eps)
    moved = images.clamp(5e-7, 1 - 5e-7)
    best, nearest = images.clone(), torch.full((len(images),), torch.inf)
    for constant in CW_CONSTANTS:
        found = _in_batches(moved, labels, torchattacks.CW(Positive(model), c=constant, steps=CW_STEPS, lr=CW_STEP))
        with torch.no_grad():
            fools = torch.cat([model(part).argmax(1) for part in torch.split(found, BATCH)]) != labels
        distance = threat.distance(found, images)
        nearer = fools & (distance < nearest)
        best[nearer], nearest[nearer] = found[nearer], distance[nearer]
    return _within(best, images, norm, eps)


def _classes(model: nn.Module, images: Images) -> int:
    with torch.no_grad():
        return int(model(images[:1]).shape[1])


# foolbox. It returns what it found, what it found clipped to the budget, and who was fooled: the second is judged.


def _foolbox(attack: foolbox.Attack, model: nn.Module, images: Images, labels: Labels, eps: float) -> Images:
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    return _in_batches(images, labels, lambda part, label: attack(wrapped, part, label, epsilons=eps)[1])


@peer("foolbox pgd", "pgd")
def foolbox_pgd(model: nn.Module, images: Images, labels: Labels, norm: Norm, eps: float, seed: int) -> Images:
    kind = foolbox.attacks.LinfPGD if norm == "linf" else foolbox.attacks.L2PGD
    # The default step is eps / 30 or eps / 40 whatever the number of steps, which is short; so it is always given.
    attack = kind(abs_stepsize=PGD_STEP * eps, steps=PGD_STEPS, random_start=True)
    return _foolbox(attack, model, images, labels, eps)


@peer("foolbox deepfool", "deepfool")
def foolbox_deepfool(model: nn.Module, images: Images, labels: Labels, norm: Norm, eps: float, seed: int) -> Images:
    kind = foolbox.attacks.LinfDeepFoolAttack if norm == "linf" else foolbox.attacks.L2DeepFoolAttack
    return _foolbox(kind(steps=50, candidates=None), model, images, labels, eps)


@peer("foolbox cw", "cw", ("l2",))
def foolbox_cw(model: nn.Module, images: Images, labels: Labels, norm: Norm, eps: float, seed: int) -> Images:
    attack = foolbox.attacks.L2CarliniWagnerAttack(
        binary_search_steps=CW_SEARCHES, steps=CW_STEPS, stepsize=CW_STEP, initial_const=0.1
    )
    return _foolbox(attack, model, images, labels, eps)


class Heard(logging.Handler):
    """What AutoAttack warns of while it runs: with Heard() as said: ...; said.messages."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if (message := record.getMessage()) not in self.messages:
            self.messages.append(message)

    def __enter__(self) -> Heard:
        logging.getLogger("auto-attack").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("auto-attack").removeHandler(self)
