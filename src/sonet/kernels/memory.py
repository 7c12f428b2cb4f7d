"""What the C library does with freed memory."""

from __future__ import annotations

import ctypes

TRIM, MMAP = -1, -3
"""M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h."""


def keep_memory(trim: int = 256 << 20, mmap: int = 32 << 20) -> bool:
    """Let glibc keep freed tensors of up to 32 MiB, and 256 MiB in all, instead of giving them back at once.

    A step frees and takes the same megabytes many times; each time the system would hand out pages filled with zeros,
    which costs as much as the arithmetic on them. Done once, when the kernels are loaded; MALLOC_TRIM_THRESHOLD_ and
    MALLOC_MMAP_THRESHOLD_ do the same for programs without them. False where the C library is another one.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(TRIM, trim)) and bool(mallopt(MMAP, mmap))
