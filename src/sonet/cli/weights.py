"""Weights from a safetensors file into a module; never from a pickle, which runs code of whoever wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sonet.cli.own_code import TargetError

if TYPE_CHECKING:
    from torch import Tensor, nn

_PICKLES = {".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".tar"}
_SHOWN = 3
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
"""What DataParallel, torch.compile and training frameworks put before the names of weights."""


def load_weights(model: nn.Module, file: Path) -> None:
    """Every weight of `model` from `file`. `TargetError` unless names and shapes are the same.

    Of weights that the model uses twice, safetensors keeps one; the other need not be in the file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if file.suffix in _PICKLES:
        raise TargetError(
            f"--weights {file}: is by its name a pickle, expected .safetensors. A pickle can run any code when it is "
            "read. Where you trust it, load it into the model with PyTorch once and write "
            f"safetensors.torch.save_file(model.state_dict(), {str(file.with_suffix('.safetensors'))!r})."
        )
    if not file.is_file():
        raise TargetError(f"--weights {file}: there is no such file; expected weights as .safetensors.")
    try:
        given = load_file(file)
    except SafetensorError as error:
        raise TargetError(
            f"--weights {file}: is no safetensors file ({error}). Write it with "
            "safetensors.torch.save_file(model.state_dict(), file)."
        ) from None
    own = model.state_dict()
    missing = set(own) - set(given)
    tied = {name for name in missing if any(_same(own[name], own[other]) for other in set(own) & set(given))}
    try:
        if missing == tied:
            model.load_state_dict(given | {name: _twin(own, given, name) for name in tied})
            return
        model.load_state_dict(given)
    except RuntimeError:
        raise TargetError(f"--weights {file}: {_difference(own, given, missing - tied)}") from None


def _same(one: Tensor, other: Tensor) -> bool:
    return one.data_ptr() == other.data_ptr() != 0 and one.shape == other.shape and one.stride() == other.stride()


def _twin(own: dict[str, Tensor], given: dict[str, Tensor], name: str) -> Tensor:
    return next(given[other] for other in own if other in given and _same(own[name], own[other]))


def _difference(own: dict[str, Tensor], given: dict[str, Tensor], missing: set[str]) -> str:
    unexpected = [name for name in given if name not in own]
    shapes = [
        f"{name} (file {tuple(given[name].shape)}, model {tuple(own[name].shape)})"
        for name in own
        if name in given and own[name].shape != given[name].shape
    ]
    said = [
        f"{what}: {', '.join(names[:_SHOWN])}{f' and {len(names) - _SHOWN} more' if len(names) > _SHOWN else ''}"
        for what, names in (
            ("missing", [f"{name} {tuple(own[name].shape)}" for name in own if name in missing]),
            ("unexpected", [f"{name} {tuple(given[name].shape)}" for name in unexpected]),
            ("of another shape", shapes),
        )
        if names
    ]
    remedy = "Build the model with the settings that it was trained with."
    for prefix in _PREFIXES:
        if unexpected and {name.removeprefix(prefix) for name in given} == set(own):
            remedy = f"All names begin with {prefix!r}; write the file without it."
    return f"the model has {len(own)} weights, the file {len(given)}, and they do not fit: {'; '.join(said)}. {remedy}"
