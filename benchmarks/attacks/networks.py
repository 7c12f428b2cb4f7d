"""The networks of the benchmark: trained with fixed seeds on first use, and kept as safetensors in a cache folder."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import sonet
from sonet.attacks import L2, Linf, Threat, predict
from sonet.data import Dataset, Split
from sonet.training import TrainConfig

CACHE = Path("/tmp/sonet-bench")
CRAFT_STEPS = 10

# Per-sample steps that carry no gradient, the default solver: batch-mates matter neither to outputs nor to gradients.
OWN_STEPS = sonet.Adaptive(rtol=0.1, atol=0.1)
DIGITS: dict[str, Any] = {"channels": 16, "blocks": (1, 1, 1), "strides": (1, 2, 2)}
MNIST: dict[str, Any] = {"channels": 8, "blocks": (1, 1, 1), "strides": (2, 2, 2)}


@dataclass(frozen=True)
class Network:
    """What is trained: a kind with options, on data, naturally or, where `against` is set, adversarially."""

    name: str
    data: str
    kind: str
    options: dict[str, Any]
    training: TrainConfig
    threats: tuple[Threat, ...]
    against: Threat | None = None


_NATURAL = TrainConfig(epochs=12, batch_size=64, lr=0.1, device="cpu")
_DIGITS_MADRY = TrainConfig(epochs=30, batch_size=64, lr=0.05, device="cpu")
_SONET_MADRY = TrainConfig(epochs=12, batch_size=64, lr=0.1, device="cpu")
_MNIST_MADRY = TrainConfig(epochs=10, batch_size=64, lr=0.05, device="cpu")
_ON_DIGITS = (Linf(0.1), L2(0.5))
_ON_MNIST = (Linf(0.2),)

NETWORKS = (
    Network("digits-resnet10", "digits", "resnet10", DIGITS, _NATURAL, _ON_DIGITS),
    Network("digits-resnet10-madry", "digits", "resnet10", DIGITS, _DIGITS_MADRY, _ON_DIGITS, Linf(0.1)),
    Network("digits-sonet", "digits", "sonet", DIGITS | {"solver": OWN_STEPS}, _NATURAL, _ON_DIGITS),
    Network(
        "digits-sonet-madry", "digits", "sonet", DIGITS | {"solver": OWN_STEPS}, _SONET_MADRY, _ON_DIGITS, Linf(0.1)
    ),
    Network("digits-sonet-paper", "digits", "sonet", DIGITS | {"solver": sonet.paper()}, _NATURAL, _ON_DIGITS),
    Network("mnist-resnet10", "mnist", "resnet10", MNIST, _NATURAL, _ON_MNIST),
    Network("mnist-resnet10-madry", "mnist", "resnet10", MNIST, _MNIST_MADRY, _ON_MNIST, Linf(0.2)),
)


def read_data(name: str, mnist: Path | None) -> Dataset | None:
    """The data of that name; None for MNIST where no file was given."""
    if name == "digits":
        return sonet.load("digits")
    return None if mnist is None else sonet.load(mnist)


def trained(network: Network, data: Dataset, cache: Path = CACHE, tell: Callable[[str], None] = print) -> nn.Module:
    """The network in eval mode on the CPU with frozen weights, from the cache or trained now."""
    model = sonet.build(network.kind, like=data, seed=network.training.seed, **network.options)
    definition = {
        "model": model.config.model_dump(mode="json"),
        "training": network.training.model_dump(mode="json"),
        "against": str(network.against),
        "craft_steps": CRAFT_STEPS,
        "data": data.describe() | {"source": ""},  # the source may hold a path, which makes no other network
        "n_train": len(data.train),
    }
    text = json.dumps(definition, sort_keys=True)
    file = cache / f"{network.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.safetensors"
    if not file.is_file():
        tell(f"training {network.name} ...")
        start = time.perf_counter()
        if network.against is None:
            sonet.fit(model, data.train, network.training)
        else:
            fit_adversarially(model, data.train, network.training, network.against, tell)
        seconds = time.perf_counter() - start
        cache.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}.part")
        save_file(
            {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
            part,
            metadata={"definition": text, "seconds": f"{seconds:.1f}", "torch": torch.__version__},
        )
        part.replace(file)
        tell(f"trained {network.name} in {seconds:.0f} s: {file}")
    model.load_state_dict(load_file(file))
    model.eval()
    # Some of the peers differentiate by `backward`, which would spend time on gradients of the weights too.
    return model.requires_grad_(False)


def fit_adversarially(
    model: nn.Module, train: Split, config: TrainConfig, threat: Threat, tell: Callable[[str], None] = print
) -> None:
    """Adversarial training (Madry et al. 2018, arXiv:1706.06083), in place: SGD on images of PGD-10 at each step.

    The images are crafted in eval mode, so that a batch's statistics do not move while it is attacked, and trained on
    in train mode. Steps of eps / 4 from a uniform start.
    """
    optimizer = torch.optim.SGD(
        model.parameters(), config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )
    generator = torch.Generator().manual_seed(config.seed)
    for epoch in range(config.epochs):
        order = torch.randperm(len(train), generator=generator)
        batches = [batch for batch in torch.split(order, config.batch_size) if len(batch) > 1]
        losses, hits, seen = 0.0, 0, 0
        for number, indices in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate((epoch + number / len(batches)) / config.epochs)
            images, labels = train.images[indices], train.labels[indices]
            model.eval()
            hard = craft(model, images, labels, threat, generator)
            model.train()
            logits = model(hard)
            loss = F.cross_entropy(logits, labels)
            if not bool(torch.isfinite(loss)):
                raise RuntimeError(f"the loss became {loss.item()} in epoch {epoch + 1}; lower lr={config.lr}")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses, seen = losses + loss.item() * len(labels), seen + len(labels)
            hits += int((logits.argmax(1) == labels).sum())
        tell(f"  epoch {epoch + 1}/{config.epochs}: loss {losses / seen:.3f}, accuracy under attack {hits / seen:.2f}")
    model.eval()


def craft(model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, generator: torch.Generator) -> Tensor:
    """PGD-10 on the cross-entropy, last iterate."""
    hard = images + (2 * torch.rand(images.shape, generator=generator) - 1) * threat.eps
    hard = threat.project(hard, images)
    for _ in range(CRAFT_STEPS):
        hard.requires_grad_(True)
        (slope,) = torch.autograd.grad(F.cross_entropy(model(hard), labels, reduction="sum"), hard)
        hard = threat.project(hard.detach() + threat.eps / 4 * threat.steepest(slope), images)
    return hard


def clean_accuracy(model: nn.Module, test: Split, batch: int) -> float:
    return float((predict(model, test.images, batch) == test.labels).float().mean())
