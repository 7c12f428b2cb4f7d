"""The exponential moving average of the weights: what is deployed in place of the weights that are trained on."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

Some = tuple[Tensor, ...] | list[Tensor]


class Average:
    r"""w_1 = v_1, w_{n+1} = d_n w_n + (1 - d_n) v_{n+1} with d_n = min(decay, (1 + n) / (10 + n)).

    v_n: the weights that are trained, after step n. The smaller d_n of the first steps lets even a short training
    forget them. Buffers of floating point, such as BatchNorm's running statistics, are averaged alike; counters are
    copied. decay: in (0, 1). `model` is copied before Accelerate puts anything on it: the average answers in the
    precision of its weights.
    """

    def __init__(self, model: nn.Module, decay: float, device: torch.device) -> None:
        def average(kept: Some, learned: Some, done: Tensor | int) -> None:
            n = int(done)
            rate = 1 - min(decay, (1 + n) / (10 + n))
            for old, new in zip(kept, learned, strict=True):
                if old.is_floating_point():
                    old.lerp_(new, rate)
                else:
                    old.copy_(new)

        self._averaged = AveragedModel(model, device=device, multi_avg_fn=average, use_buffers=True)

    @property
    def model(self) -> nn.Module:
        """The network with averaged weights."""
        module: nn.Module = self._averaged.module
        return module

    @property
    def steps(self) -> Tensor:
        """The number of steps averaged, a scalar of int64."""
        return self._averaged.n_averaged

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after a step."""
        self._averaged.update_parameters(model)

    def restore(self, weights: dict[str, Tensor], steps: Tensor) -> None:
        """Go on from the average that a checkpoint holds."""
        self.model.load_state_dict(weights)
        self._averaged.n_averaged.copy_(steps)
