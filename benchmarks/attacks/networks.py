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
from safetensors.torch import load_file, save_file
from torch import nn

import sonet
from sonet.attacks import L2, Linf, Threat, predict
from sonet.data import Dataset, Split
from sonet.training import TrainConfig

CACHE = Path("/tmp/sonet-bench")

# Per-sample steps that carry no gradient, the default solver: batch-mates matter neither to outputs nor to gradients.
OWN_STEPS = sonet.Adaptive(rtol=0.1, atol=0.1)
DIGITS: dict[str, Any] = {"channels": 16, "blocks": (1, 1, 1), "strides": (1, 2, 2)}
MNIST: dict[str, Any] = {"channels": 8, "blocks": (1, 1, 1), "strides": (2, 2, 2)}


@dataclass(frozen=True)
class Network:
    """What is trained: a kind with options, on data."""

    name: str
    data: str
    kind: str
    options: dict[str, Any]
    training: TrainConfig
    threats: tuple[Threat, ...]

    @property
    def against(self) -> str | None:
        """The threat it is trained against; None where naturally."""
        return self.training.threat


_NATURAL = TrainConfig(epochs=12, batch_size=64, lr=0.1, device="cpu")
_DIGITS_MADRY = TrainConfig(objective="madry", threat="linf:0.1", epochs=30, batch_size=64, lr=0.05, device="cpu")
_SONET_MADRY = TrainConfig(objective="madry", threat="linf:0.1", epochs=12, batch_size=64, lr=0.1, device="cpu")
_MNIST_MADRY = TrainConfig(objective="madry", threat="linf:0.2", epochs=10, batch_size=64, lr=0.05, device="cpu")
_ON_DIGITS = (Linf(0.1), L2(0.5))
_ON_MNIST = (Linf(0.2),)

NETWORKS = (
    Network("digits-resnet10", "digits", "resnet10", DIGITS, _NATURAL, _ON_DIGITS),
    Network("digits-resnet10-madry", "digits", "resnet10", DIGITS, _DIGITS_MADRY, _ON_DIGITS),
    Network("digits-sonet", "digits", "sonet", DIGITS | {"solver": OWN_STEPS}, _NATURAL, _ON_DIGITS),
    Network("digits-sonet-madry", "digits", "sonet", DIGITS | {"solver": OWN_STEPS}, _SONET_MADRY, _ON_DIGITS),
    Network("digits-sonet-paper", "digits", "sonet", DIGITS | {"solver": sonet.paper()}, _NATURAL, _ON_DIGITS),
    Network("mnist-resnet10", "mnist", "resnet10", MNIST, _NATURAL, _ON_MNIST),
    Network("mnist-resnet10-madry", "mnist", "resnet10", MNIST, _MNIST_MADRY, _ON_MNIST),
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
        "data": data.describe() | {"source": ""},  # the source may hold a path, which makes no other network
        "n_train": len(data.train),
    }
    text = json.dumps(definition, sort_keys=True)
    file = cache / f"{network.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.safetensors"
    if not file.is_file():
        tell(f"training {network.name} ...")
        start = time.perf_counter()
        sonet.fit(model, data.train, network.training)
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


def clean_accuracy(model: nn.Module, test: Split, batch: int) -> float:
    return float((predict(model, test.images, batch) == test.labels).float().mean())
