"""An attack batch by batch, each batch a file, written whole or not at all: killed, it goes on at its last batch."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sonet.attacks import Attack, GradientSource, Threat
from sonet.report import RecordError, write_whole
from sonet.types import Images, Labels


@dataclass(frozen=True)
class Made:
    """What an attack made of all images: adversarial and checkpoints (N, C, H, W), zero_gradients (N,) bool.

    minimum: (N,) distance of the nearest image that fools, None where it was not looked for. seconds: crafting, that
    before a kill included.
    """

    adversarial: Images
    zero_gradients: Tensor
    minimum: Tensor | None
    checkpoints: dict[int, Images]
    seconds: float


def craft_in_units(
    attack: Attack,
    source: GradientSource,
    images: Images,
    labels: Labels,
    threat: Threat,
    *,
    checkpoints: Sequence[int],
    folder: Path,
    about: str,
    tell: Callable[[float], None],
) -> Made:
    """Craft `attack.batch_size` images at a time with `source`; batches in `folder` are read, not made again.

    about: what the batches must be of, such as the weights' SHA-256. tell: called with the part done, in [0, 1].
    Errors: `RecordError` for a batch that cannot be read, or is of other images, another attack or other weights.
    """
    parts = list(zip(images.split(attack.batch_size), labels.split(attack.batch_size), strict=True))  # type: ignore[no-untyped-call]
    tensors: list[dict[str, Tensor]] = []
    seconds = 0.0
    for number, (some, label) in enumerate(parts):
        file = folder / f"{number:04d}.safetensors"
        mark = _mark(about, attack, threat, some, label)
        done = _read(file, mark) if file.is_file() else None
        if done is None:
            before, spent = sum(len(part) for part, _ in parts[:number]) / len(images), 0.0

            def report(image_steps: float, before: float = before) -> None:
                nonlocal spent
                spent += image_steps
                tell(min(before + spent / (attack.work * len(images)), 1.0))

            start = time.perf_counter()
            crafted = attack.craft(source, some.contiguous(), label, threat, checkpoints, report)
            made = {"images": crafted.images, "zero_gradients": crafted.zero_gradients}
            made |= {f"step-{step}": iterate for step, iterate in crafted.checkpoints.items()}
            if crafted.minimum is not None:
                made["minimum"] = crafted.minimum
            kept = {name: tensor.detach().cpu().contiguous() for name, tensor in made.items()}
            done = kept, time.perf_counter() - start
            if len(parts) > 1:  # a single batch is the cell itself, whose outcome is its file
                write_whole(file, save(kept, metadata={"mark": mark, "seconds": repr(done[1])}))
        tensors.append(done[0])
        seconds += done[1]
        tell((sum(len(part) for part, _ in parts[: number + 1])) / len(images))

    def joined(name: str) -> Tensor:
        return torch.cat([entry[name] for entry in tensors]).to(images.device)

    return Made(
        adversarial=joined("images"),
        zero_gradients=joined("zero_gradients"),
        minimum=joined("minimum") if "minimum" in tensors[0] else None,
        checkpoints={step: joined(f"step-{step}") for step in checkpoints},
        seconds=seconds,
    )


def drop(folder: Path) -> None:
    """Remove the batches of a cell whose outcome is written."""
    shutil.rmtree(folder, ignore_errors=True)


def _mark(about: str, attack: Attack, threat: Threat, images: Images, labels: Labels) -> str:
    digest = hashlib.sha256(json.dumps([about, type(attack).__name__, attack.model_dump_json(), str(threat)]).encode())
    digest.update(images.cpu().contiguous().numpy().tobytes())
    digest.update(labels.cpu().numpy().tobytes())
    return digest.hexdigest()


def _read(file: Path, mark: str) -> tuple[dict[str, Tensor], float]:
    try:
        with safe_open(file, "pt") as opened:
            about = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        seconds = float(about["seconds"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise RecordError(
            f"{file}: expected a batch of an attack, got a file that cannot be read ({error}). "
            "It was cut short or changed; remove it, and the same command makes it again."
        ) from None
    if about.get("mark") != mark:
        raise RecordError(
            f"{file}: expected a batch of this attack on these images and weights, got one of others. The network was "
            f"trained anew or the data changed; remove {file.parent}, and the same command makes its batches again."
        )
    return tensors, seconds
