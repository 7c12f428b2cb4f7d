"""Weights for FILE.py:NAME: filled in where all fit, never from a pickle."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from own_files import X, folder
from safetensors.torch import save_file

from sonet.cli.target import Target, TargetError, load_target

__all__ = ["folder"]  # a fixture


def weights(**changes: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"linear.weight": torch.ones(2, 4), "linear.bias": torch.zeros(2)} | changes


def filled(folder: Path, tensors: dict[str, torch.Tensor], name: str = "Net") -> Target:
    save_file(tensors, folder / "w.safetensors")
    return load_target(f"{folder}/net.py:{name}", folder / "w.safetensors")


def test_weights_are_filled_in(folder: Path) -> None:
    target = filled(folder, weights())
    torch.testing.assert_close(target.classifier(X), X.sum((1, 2, 3))[:, None].expand(3, 2))
    assert target.weights == (folder / "w.safetensors").resolve()
    assert len(target.about["files"]) == 2


WRONG: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "missing": ({"linear.weight": torch.ones(2, 4)}, r"has 2 weights, the file 1.*missing: linear.bias \(2,\)"),
    "unexpected": (
        weights(**{f"more.{i}": torch.ones(i + 1) for i in range(5)}),
        r"unexpected: more.0 \(1,\), more.1 \(2,\), more.2 \(3,\) and 2 more",
    ),
    "shape": (
        weights(**{"linear.weight": torch.ones(3, 4)}),
        r"of another shape: linear.weight \(file \(3, 4\), model \(2, 4\)\)",
    ),
    "prefix": ({f"module.{name}": value for name, value in weights().items()}, "All names begin with 'module.'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_weights_that_do_not_fit(folder: Path, case: str) -> None:
    tensors, said = WRONG[case]
    with pytest.raises(TargetError, match=said):
        filled(folder, tensors)


def test_weights_of_a_function(folder: Path) -> None:
    with pytest.raises(TargetError, match=r"net\.py:predict is a function, which has no weights to fill"):
        filled(folder, weights(), "predict")


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt", ".pkl"])
def test_a_pickle_is_refused_unread(folder: Path, suffix: str) -> None:
    (folder / f"w{suffix}").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(TargetError, match=r"is by its name a pickle, expected .safetensors.*save_file\("):
        load_target(f"{folder}/net.py:Net", folder / f"w{suffix}")


def test_a_pickle_under_another_name_is_refused(folder: Path) -> None:
    torch.save(weights(), folder / "w.safetensors")
    with pytest.raises(TargetError, match="is no safetensors file"):
        load_target(f"{folder}/net.py:Net", folder / "w.safetensors")


def test_no_such_weights(folder: Path) -> None:
    with pytest.raises(TargetError, match="there is no such file; expected weights as"):
        load_target(f"{folder}/net.py:Net", folder / "no.safetensors")


TIED = """
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.weight = self.one.weight
    def forward(self, x):
        return self.two(self.one(x.flatten(1)))
"""


def test_weights_used_twice_are_kept_once(folder: Path) -> None:
    (folder / "net.py").write_text(TIED)
    bias = torch.zeros(4)
    target = filled(folder, {"one.weight": 2 * torch.eye(4), "one.bias": bias, "two.bias": bias.clone()})
    torch.testing.assert_close(target.classifier(X), 4 * X.flatten(1))
