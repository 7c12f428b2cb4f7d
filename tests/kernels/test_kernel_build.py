"""What happens where the kernels cannot be built, or what lies in the cache must not be loaded: a reason, no crash."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sonet import kernels
from sonet.kernels import NoKernels, build, switch

BOTH = (torch.float32, torch.float64)


def fresh(dtype: torch.dtype = torch.float32) -> ctypes.CDLL | NoKernels:
    """As in a process that has not asked yet."""
    return build.library.__wrapped__(dtype)


def reason(dtype: torch.dtype = torch.float32) -> str:
    found = fresh(dtype)
    assert isinstance(found, NoKernels)
    return str(found)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "sonet" / "kernels"


def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """A compiler of these shell commands."""
    script = tmp_path / "compiler"
    script.write_text("\n".join(("#!/bin/sh", *lines)))
    script.chmod(0o755)
    monkeypatch.setenv("CXX", f"{script} --some-flag")


def test_here_they_are(compiled: None) -> None:
    """Where a compiler is, the suite really tests them."""
    assert kernels.why_not() == kernels.why_not(torch.float64) == ""


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert "no C++ compiler was found" in reason()
    monkeypatch.setenv("CXX", "there-is-no-such-compiler")
    assert "no C++ compiler was found" in reason()


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (("echo broken >&2", "exit 3"), "could not compile them: broken"),
        (("printf '\\377\\376' >&2", "exit 3"), "could not compile them"),
        (("exit 0",), "No such file"),
        (("kill -9 $$",), "could not compile them"),
        (('while [ "$1" != -o ]; do shift; done', 'echo no library > "$2"'), "invalid ELF header|too short"),
    ],
    ids=["fails", "no text", "makes nothing", "killed", "makes no library"],
)
def test_a_compiler_that_cannot(
    lines: tuple[str, ...], expected: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler(tmp_path, monkeypatch, *lines)
    assert re.search(expected, reason())


def test_a_compiler_that_cannot_be_run_or_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "compiler"
    script.write_bytes(b"\x7fELF and then nothing")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    assert "Exec format error" in reason()
    monkeypatch.setenv("CXX", 'c++ "-O2')
    assert "No closing quotation" in reason()


def test_nothing_half_made_is_left(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler(tmp_path, monkeypatch, "exit 1")
    reason()
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("mode", [0o777, 0o720, 0o702])
def test_a_cache_that_others_can_write_to_is_not_loaded_from(mode: int, cache: Path) -> None:
    cache.mkdir(parents=True)
    cache.chmod(mode)
    assert "can be written by others" in reason()


def test_a_cache_of_somebody_else_is_not_loaded_from(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    assert "belongs to somebody else" in reason()


def test_where_no_cache_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert "Not a directory" in reason()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert "Not a directory" in reason()


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="nothing is read-only for root")
def test_a_home_that_is_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir(mode=0o500)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert "Permission denied" in reason()


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", nowhere)
    assert "Set HOME or XDG_CACHE_HOME" in reason()


def test_a_cache_folder_that_is_relative_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: None
) -> None:
    """As the XDG specification has it: what lies in the folder one happens to be in is not run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert build._cache() == tmp_path / "home" / ".cache" / "sonet" / "kernels"


def test_a_library_cut_off_or_changed_is_built_again(cache: Path, compiled: None) -> None:
    """Loading one that is cut off would kill the process, not raise."""
    place = build._built("float")
    whole = place.read_bytes()
    assert place.parent == cache
    assert build._whole(place)
    for content in (b"", whole[:20], whole[: len(whole) // 2], whole[:-1], whole[:-32], b"x" + whole[1:]):
        place.write_bytes(content)
        assert not build._whole(place)
    place.write_bytes(whole[: len(whole) // 2])
    assert not isinstance(fresh(), NoKernels)
    assert build._whole(place)


def test_what_is_in_the_cache_is_not_built_again(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: None
) -> None:
    count = tmp_path / "count"
    compiler(tmp_path, monkeypatch, f"echo once >> {count}", "shift", 'exec c++ "$@"')
    places = [build._built("float") for _ in range(3)]
    assert len(set(places)) == 1
    assert count.read_text() == "once\n"
    assert list(cache.iterdir()) == [places[0]]


def test_two_processes_build_at_once(cache: Path, compiled: None) -> None:
    ask = "from sonet.kernels import why_not; import sys; sys.exit(why_not() or 0)"
    processes = [subprocess.Popen([sys.executable, "-c", ask], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=100)[1] for process in processes]
    assert answers == ["", ""]
    assert [process.returncode for process in processes] == [0, 0]
    assert [build._whole(place) for place in cache.iterdir()] == [True]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_other_types_have_none(dtype: torch.dtype) -> None:
    assert "kernels are for torch.float32 and torch.float64" in reason(dtype)


def test_without_them_a_network_still_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the plain path, and the switch says why."""
    from sonet.models import build as network

    model = network("sonet", in_channels=1, channels=2, blocks=(1,), strides=(2,), classes=3, seed=0)
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with kernels.plain():
        expected = model(images)
    monkeypatch.setattr(switch, "library", lambda dtype: NoKernels("no C++ compiler was found"))
    assert kernels.why_not() == "no C++ compiler was found"
    assert torch.equal(model(images), expected)
    with pytest.raises(NoKernels, match="no C\\+\\+ compiler"):
        raise switch.library(torch.float32)  # type: ignore[misc]
