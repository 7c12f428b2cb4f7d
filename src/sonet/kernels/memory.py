"""What the C library does with freed memory."""

from __future__ import annotations

import ctypes
import os
import sys

TRIM, PAD, MMAP = -1, -2, -3
"""M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_THRESHOLD of glibc's malloc.h."""

HUGE_PAGES = 14
"""MADV_HUGEPAGE of Linux."""

MIB = 1 << 20
HUGE = 2 * MIB
LARGEST = 2**31 - HUGE
"""What fits the int that mallopt takes."""


def keep_memory(heap: int | None = None) -> bool:
    """Let glibc keep the memory of freed tensors, `heap` bytes of it, and put it on huge pages.

    heap: default an eighth of the machine's memory, at most 2 GiB; tensors of more than 32 MiB are not among it.

    A step frees and takes the same megabytes many times; each time the system would hand out small pages filled with
    zeros, which costs as much as the arithmetic on them. The heap takes no memory until it is used. Done once, when the
    kernels are loaded; MALLOC_TRIM_THRESHOLD_, MALLOC_MMAP_THRESHOLD_ and GLIBC_TUNABLES=glibc.malloc.hugetlb=1 do the
    like for programs without them. False where the C library is another one.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL(None)
        mallopt, malloc, free, sbrk, madvise = libc.mallopt, libc.malloc, libc.free, libc.sbrk, libc.madvise
    except (OSError, AttributeError):
        return False
    malloc.restype = sbrk.restype = ctypes.c_void_p
    malloc.argtypes, free.argtypes, sbrk.argtypes = [ctypes.c_size_t], [ctypes.c_void_p], [ctypes.c_ssize_t]
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    heap = min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 8 if heap is None else heap, LARGEST)
    if not (mallopt(TRIM, heap) and mallopt(MMAP, 32 * MIB) and mallopt(PAD, heap - 32 * MIB)):
        return False
    first = sbrk(0)
    free(malloc(16 * MIB))  # the heap grows by this and the padding, and stays
    mallopt(PAD, 128 << 10)
    start, end = -(-(first or 0) // HUGE) * HUGE, (sbrk(0) or 0) // HUGE * HUGE
    return end > start and madvise(start, end - start, HUGE_PAGES) == 0
