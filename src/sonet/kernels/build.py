"""The compiled kernels: built by the machine's own C++ compiler at first use, kept in the user's cache."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from importlib.resources import files
from pathlib import Path

import torch

from sonet.kernels.memory import keep_memory

FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi")
REALS = {torch.float32: "float", torch.float64: "double"}

_POINTER, _INT, _DOUBLE, _THREADS = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double, ctypes.c_int
SIGNATURES: dict[str, tuple[type, ...]] = {
    "act_norm": (*(_POINTER,) * 6, *(_INT,) * 4, *(_DOUBLE,) * 3, _THREADS),
    "act_norm_back": (*(_POINTER,) * 4, _INT, *(_POINTER,) * 9, *(_INT,) * 4, *(_DOUBLE,) * 2, _THREADS),
    "weighted_sum": (*(_POINTER,) * 4, *(_INT,) * 2, *(_POINTER,) * 3, *(_INT,) * 2, _THREADS),
    "sum_norm": (*(_POINTER,) * 4, _INT, *(_POINTER,) * 6, *(_INT,) * 4, _DOUBLE, _THREADS),
    "narrow_transpose": (*(_POINTER,) * 3, *(_INT,) * 5, _THREADS),
    "all_finite": (*(_POINTER,) * 2, *(_INT,) * 2, _THREADS),
    "error_square": (*(_POINTER,) * 5, _INT, *(_DOUBLE,) * 2, _POINTER, *(_INT,) * 2, _THREADS),
    "error_square_back": (*(_POINTER,) * 5, _INT, *(_DOUBLE,) * 2, *(_POINTER,) * 5, *(_INT,) * 2, _THREADS),
    "scaled_squares": (*(_POINTER,) * 2, *(_INT,) * 2, *(_DOUBLE,) * 2, _POINTER, *(_INT,) * 2, _THREADS),
    "scaled_squares_back": (*(_POINTER,) * 2, *(_INT,) * 2, *(_DOUBLE,) * 2, *(_POINTER,) * 2, *(_INT,) * 2, _THREADS),
}


class NoKernels(RuntimeError):
    """Why there are none here."""


@cache
def library(dtype: torch.dtype) -> ctypes.CDLL | NoKernels:
    """The kernels for `dtype`, or why there are none: no compiler, or one that cannot; then the plain path serves."""
    if dtype not in REALS:
        return NoKernels(f"kernels are for {' and '.join(map(str, REALS))}, got {dtype}")
    try:
        loaded = ctypes.CDLL(str(_built(REALS[dtype])))
    except (NoKernels, OSError, ValueError, subprocess.SubprocessError) as error:
        return NoKernels(str(error) or type(error).__name__)
    keep_memory()
    for name, arguments in SIGNATURES.items():
        function = getattr(loaded, name)
        function.argtypes, function.restype = arguments, None
    return loaded


def _built(real: str) -> Path:
    """The shared library, compiled unless it was before: for this source, compiler and processor."""
    compiler = _compiler()
    source = files("sonet.kernels").joinpath("kernels.cpp").read_text(encoding="utf-8")
    flags = (*FLAGS, "-fopenmp", f"-DREAL={real}")
    about = "\n".join((source, *compiler, *flags, _processor()))
    place = _cache() / f"kernels-{real}-{hashlib.sha256(about.encode()).hexdigest()[:16]}.so"
    if _whole(place):
        return place
    with tempfile.TemporaryDirectory(dir=place.parent) as work:
        made = Path(work) / place.name
        text = Path(work) / "kernels.cpp"
        text.write_text(source, encoding="utf-8")
        command = [*compiler, *flags, "-shared", "-fPIC", "-o", str(made), str(text)]
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=120, check=False)
        if ended.returncode:
            raise NoKernels(f"{shlex.join(compiler)} could not compile them: {ended.stderr.strip()[:400]}")
        content = made.read_bytes()
        made.write_bytes(content + hashlib.sha256(content).digest())
        os.replace(made, place)
    return place


def _whole(place: Path) -> bool:
    """Whether the library is there, and ends with the SHA-256 of the rest: to load one cut off kills the process."""
    if not place.is_file():
        return False
    content = place.read_bytes()
    return hashlib.sha256(content[:-32]).digest() == content[-32:]


def _compiler() -> list[str]:
    """CXX, or the first of the usual ones that is there."""
    given = shlex.split(os.environ.get("CXX", ""))
    for candidate in (given, ["c++"], ["g++"], ["clang++"]):
        if candidate and shutil.which(candidate[0]):
            return candidate
    raise NoKernels("no C++ compiler was found (CXX, c++, g++, clang++)")


def _processor() -> str:
    """What `-march=native` depends on: a cache may be shared by machines of different kinds."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    known = sorted({line for line in lines if line.partition(":")[0].strip() in ("model name", "flags", "Features")})
    return "\n".join((platform.machine(), platform.processor(), *known))


def _cache() -> Path:
    """The user's cache folder. What is loaded from it runs: one that others may write to is not used."""
    if not hasattr(os, "getuid"):
        raise NoKernels("on this system it cannot be seen who owns a file; what lies in a cache is not loaded")
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        folder = (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "sonet" / "kernels"
    except RuntimeError as error:
        raise NoKernels(f"no folder for them: {error} Set HOME or XDG_CACHE_HOME.") from error
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise NoKernels(f"{folder} belongs to somebody else or can be written by others; what lies there is not loaded")
    return folder
