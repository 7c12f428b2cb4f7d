"""Records on disk: whole or not at all, and errors that say what to do."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from report_fixture import synthetic_record

from sonet.report import RecordError, read, write, write_whole


def test_reading_gives_the_record_that_was_written(tmp_path: Path) -> None:
    record = synthetic_record(seeds=1)
    path = write(record, tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "record.json"
    assert read(path) == record
    assert read(path.parent) == record
    assert os.listdir(path.parent) == ["record.json"]


def test_writing_again_replaces(tmp_path: Path) -> None:
    write(synthetic_record(seeds=1, complete=False), tmp_path)
    write(synthetic_record(seeds=1), tmp_path)
    assert read(tmp_path).complete


@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = write_whole(tmp_path / "report.html", "old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="disk full"):
        write_whole(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.html"]


def test_an_interrupt_leaves_the_old_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_whole(tmp_path / "a", b"\x00old")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, b"new")
    assert path.read_bytes() == b"\x00old"
    assert os.listdir(tmp_path) == ["a"]


def test_others_may_read_what_is_written(tmp_path: Path) -> None:
    """Not the 0600 of temporary files: reports are for sharing, as far as the umask allows."""
    old = os.umask(0o022)
    try:
        path = write_whole(tmp_path / "a", "text, also ∞")
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert path.read_text(encoding="utf-8") == "text, also ∞"


GOOD = json.loads(synthetic_record(seeds=1).model_dump_json())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "0 bytes that do not parse"),
        (json.dumps(GOOD).encode()[:-20], "cut short"),
        (b"\xff\xfe\x00", "do not parse"),
        (b"[" * 100_000, "do not parse"),
        (b"[]", 'expected schema "sonet.record/1", got null'),
        (b"{}", "got null"),
        (json.dumps({**GOOD, "schema": "sonet.record/2"}).encode(), 'got "sonet.record/2"'),
        (json.dumps({**GOOD, "title": None}).encode(), "title: Input should be a valid string"),
        (json.dumps({**GOOD, "titel": "x"}).encode(), "titel: Extra inputs"),
        (json.dumps({**GOOD, "rows": [{**GOOD["rows"][0], "n": 0}]}).encode(), r"rows\.0\.n"),
        (json.dumps({**GOOD, "seconds": float("nan")}).encode(), "fits"),
        (json.dumps({**GOOD, "rows": GOOD["rows"][:1] * 2}).encode(), "every measurement once"),
    ],
)
def test_a_bad_file_says_what_is_wrong_and_what_to_do(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(content)
    with pytest.raises(RecordError, match=said) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "run the experiment again" in str(caught.value)


def test_a_missing_file_says_where_a_record_comes_from(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"No such file.*run the experiment first"):
        read(tmp_path / "record.json")
    with pytest.raises(RecordError, match=r"record\.json: expected a record"):
        read(tmp_path)
