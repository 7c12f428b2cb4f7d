"""A file as a user may write it, in a folder with neighbours."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

SOURCE = '''
"""A file as a user may write it."""
import functools
import torch
from torch import nn
from torch.nn import Linear
from layers import SCALE

print("hello")

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)
        self.drop = nn.Dropout(0.5)
    def forward(self, x):
        return SCALE * self.linear(self.drop(x.flatten(1)))

class Wide(nn.Module):
    def __init__(self, width, depth=1):
        super().__init__()

class Stubborn(Net):
    def train(self, mode=True):
        return super().train(True)

net = Net().eval()
fresh = Net()
wide = functools.partial(Wide, depth=2)
state = net.state_dict()
number = 3
names = {"a": net}

def build():
    import layers
    return Net().eval()

def build_some(width=4):
    return Net()

def build_function():
    return predict

def build_nothing():
    pass

def build_class():
    return Net

def build_badly():
    return [][1]

def build_late():
    import late
    return late.make()

def predict(x):
    return net(x)

def predict_two(x, y):
    return net(x)

def predict_at(x, temperature=1.0, *rest, **more):
    return net(x) / temperature

class Group:
    inner = net
    Inner = Net
    class Callable:
        def __call__(self, x):
            return net(x)
    @property
    def bad(self):
        return 1 / 0

group = Group()
'''


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "net.py").write_text(SOURCE)
    (tmp_path / "layers.py").write_text("SCALE = 1.0\n")
    (tmp_path / "late.py").write_text("def make():\n    raise OSError('no weights')\n")
    before = list(sys.path)
    yield tmp_path
    assert sys.path == before
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


X = torch.rand(3, 1, 2, 2)
