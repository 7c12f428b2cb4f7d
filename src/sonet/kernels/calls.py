"""What a kernel is called with. Every tensor is dense, of one dtype and of one layout: the callers see to it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from sonet.kernels.build import NoKernels, library

Pointers = ctypes.Array[ctypes.c_void_p]
Doubles = ctypes.Array[ctypes.c_double]


def library_for(values: Tensor) -> ctypes.CDLL:
    found = library(values.dtype)
    if isinstance(found, NoKernels):
        raise found
    return found


def address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def pointers_to(terms: Sequence[Tensor]) -> Pointers:
    return _pointer_arrays(len(terms))(*(term.data_ptr() for term in terms))


def doubles(values: Sequence[float]) -> Doubles:
    return _double_arrays(len(values))(*values)


def sizes(values: Tensor) -> tuple[int, int, int]:
    return values.shape[0], values.numel() // values.shape[0], threads()


def threads() -> int:
    """PyTorch's number; 1 in a forked process, where OpenMP would wait for threads that were left behind."""
    return 1 if _forked else torch.get_num_threads()


@cache
def _pointer_arrays(count: int) -> type[Pointers]:
    """Kept: ctypes makes the class anew once nobody holds it, which takes longer than a call, and leaves cycles."""
    return ctypes.c_void_p * count


@cache
def _double_arrays(count: int) -> type[Doubles]:
    return ctypes.c_double * count


_forked = False


def _note_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)
