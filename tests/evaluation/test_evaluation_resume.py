"""Evidence on disk: killed at any moment, on a full disk, in a folder of somebody else; nothing written is lost."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import Net, labels_of, members, some_images

import sonet.evaluation.store as store_module
from sonet.attacks import Linf
from sonet.attacks.ensemble import Member
from sonet.attacks.square import Square
from sonet.evaluation import Evaluation, evaluate
from sonet.report import RecordError

HERE = Path(__file__).parent


def run(out: Path | None, model: Any = None, **more: Any) -> Evaluation:
    x = some_images()
    return evaluate(model or Net(), x, labels_of(Net(), x), Linf(0.03), members(batch_size=6), out=out, **more)


def same(a: Evaluation, b: Evaluation) -> None:
    assert torch.equal(a.fell_to, b.fell_to)
    assert torch.equal(a.adversarial, b.adversarial)
    for mine, other in zip(a.attempts, b.attempts, strict=True):
        assert torch.equal(mine.queries, other.queries)
        assert torch.equal(mine.final_loss.nan_to_num(-9), other.final_loss.nan_to_num(-9))
        assert (mine.standing, mine.member) == (other.standing, other.member)


class Stop(Exception):
    pass


class Stopping(Net):
    """Answers so many times."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.left = calls

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.left -= 1
        if self.left < 0:
            raise Stop
        return super().forward(x)


def test_stopped_anywhere_it_goes_on_to_the_same_end(tmp_path: Path) -> None:
    whole = run(None)
    units = 0
    for limit in (0, 1, 3, 7, 11, 10_000):
        try:
            ended = run(tmp_path / "run", Stopping(8 + 20 * limit))
        except Stop:
            now = len(list((tmp_path / "run").glob("units/*.safetensors"))) if (tmp_path / "run").exists() else 0
            assert now >= units
            units = now
        else:
            break
    assert units > 3
    same(ended, whole)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "run" / "units").iterdir()}
    same(run(tmp_path / "run"), whole)
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "run" / "units").iterdir()} == before


SCRIPT = """
import sys, time
sys.path.insert(0, {here!r})
from pathlib import Path
from small_models import Net, labels_of, members, some_images
from sonet.attacks import Linf
from sonet.evaluation import evaluate

class Slow(Net):
    def forward(self, x):
        time.sleep(0.004)
        return super().forward(x)

x = some_images()
evaluate(Slow(), x, labels_of(Net(), x), Linf(0.03), members(batch_size=6), out=Path(sys.argv[1]))
"""


def test_killed_it_goes_on_to_the_same_end(tmp_path: Path) -> None:
    out = tmp_path / "run"
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(here=str(HERE)))
    process = subprocess.Popen([sys.executable, str(script), str(out)], env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 60
    while len(list(out.glob("units/*.safetensors"))) < 3:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(out.glob("record.json"))
    same(run(out), run(None))


def test_a_full_disk_loses_nothing_that_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, written = store_module.write_whole, 0

    def full(path: Path, content: Any) -> Path:
        nonlocal written
        if written == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        written += 1
        return real(path, content)

    monkeypatch.setattr(store_module, "write_whole", full)
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path / "run")
    assert len(list((tmp_path / "run" / "units").iterdir())) == 3
    monkeypatch.setattr(store_module, "write_whole", real)
    same(run(tmp_path / "run"), run(None))


def test_an_unwritable_folder_is_known_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, content: Any) -> Path:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(store_module, "write_whole", refuse)
    seen: list[str] = []
    with pytest.raises(PermissionError):
        run(tmp_path / "run", watch=lambda name, done, word: seen.append(name))
    assert not seen


def test_a_folder_of_other_work_is_refused_and_untouched(tmp_path: Path) -> None:
    run(tmp_path / "run")
    before = {file: file.read_bytes() for file in sorted((tmp_path / "run").rglob("*")) if file.is_file()}
    x = some_images()
    with pytest.raises(RecordError, match="holds another experiment"):
        evaluate(Net(), x, labels_of(Net(), x), Linf(0.04), members(batch_size=6), out=tmp_path / "run")
    with pytest.raises(RecordError, match="holds another experiment"):
        run(tmp_path / "run", about={"run": "other"})
    assert {file: file.read_bytes() for file in sorted((tmp_path / "run").rglob("*")) if file.is_file()} == before


def test_a_damaged_unit_is_named(tmp_path: Path) -> None:
    run(tmp_path / "run")
    unit = sorted((tmp_path / "run" / "units").iterdir())[0]
    unit.write_bytes(unit.read_bytes()[:50])
    with pytest.raises(RecordError, match="cut short or changed; remove it"):
        run(tmp_path / "run")
    unit.unlink()
    same(run(tmp_path / "run"), run(None))


def test_a_budget_shortens_attacks_and_then_uses_what_is_left(tmp_path: Path) -> None:
    class Slow(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            time.sleep(0.002)
            return super().forward(x)

    x = some_images()
    labels = labels_of(Net(), x)
    square = [Member(name="square", attack=Square(queries=2000, stop_when_fooled=False))]
    said: list[str] = []
    begun = time.perf_counter()
    found = evaluate(Slow(), x, labels, Linf(0.02), square, budget=1.5, out=tmp_path / "run", say=said.append)
    took = time.perf_counter() - begun
    assert took < 3.0  # 2,000 queries alone would take 4 s
    short = found.attempts[0].member.attack
    assert isinstance(short, Square)
    assert 10 <= short.queries < 1000
    assert any("shortened" in sentence for sentence in said)
    long = evaluate(Net(), x, labels, Linf(0.01), [Member(name="square", attack=Square(queries=20))], budget=0.7)
    names = [attempt.member.name for attempt in long.attempts]
    assert names[:3] == ["square", "square-round-2", "square-round-3"]
    assert len({attempt.member.attack.seed for attempt in long.attempts}) == len(names)
    assert long.seconds < 1.5
