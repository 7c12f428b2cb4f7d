"""The one switch between the compiled kernels and the plain path."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import torch
from torch import Tensor

from sonet.kernels.build import NoKernels, library

VARIABLE = "SONET_KERNELS"
_off = 0
_counting = Lock()


@contextmanager
def plain() -> Iterator[None]:
    """Until the context ends everything is computed by PyTorch's own operators; so does SONET_KERNELS=off, always.

    In all threads. A backward pass inside is PyTorch's too, wherever the pass forwards was.
    """
    global _off
    with _counting:
        _off += 1
    try:
        yield
    finally:
        with _counting:
            _off -= 1


def why_not(dtype: torch.dtype = torch.float32) -> str:
    """Why the kernels are not used for `dtype`; empty where they are."""
    if os.environ.get(VARIABLE, "").lower() in ("off", "0", "no"):
        return f"{VARIABLE} turns them off"
    if _off:
        return "inside `plain()`"
    found = library(dtype)
    return str(found) if isinstance(found, NoKernels) else ""


def usable(*tensors: Tensor) -> bool:
    """Whether kernels may be run on these: `untouched` ones of a type that there are kernels for."""
    return untouched(*tensors) and not why_not(tensors[0].dtype)


def untouched(*tensors: Tensor) -> bool:
    """Ordinary tensors, on the CPU, and nobody who traces, transforms or casts what PyTorch computes."""
    return (
        all(_ordinary(tensor) for tensor in tensors)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and torch._C._get_tracing_state() is None
        and torch.autograd.forward_ad._current_level < 0
        and torch._C._functorch.maybe_current_level() is None
        and not torch._C._len_torch_dispatch_stack()
        and not torch._C._len_torch_function_stack()
    )


def _ordinary(tensor: Tensor) -> bool:
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and not tensor.is_neg()  # a view whose sign is not in memory yet
        and not torch._C._functorch.is_legacy_batchedtensor(tensor)  # of `autograd.grad(..., is_grads_batched=True)`
    )
