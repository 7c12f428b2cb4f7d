"""Audits on disk: what is read is what was written, errors say what to do, `sonet report` takes either record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from audit_fixture import minimal_audit, synthetic_audit
from report_fixture import synthetic_record
from typer.testing import CliRunner

from sonet.cli import app
from sonet.report import AUDIT, AuditRecord, Record, RecordError, read_any, read_audit, write, write_audit


def test_reading_gives_the_audit_that_was_written(tmp_path: Path) -> None:
    for record in (synthetic_audit(), minimal_audit()):
        path = write_audit(record, tmp_path / "new" / "folder")
        assert path == tmp_path / "new" / "folder" / AUDIT
        assert read_audit(path) == read_audit(path.parent) == read_any(path) == read_any(path.parent) == record
        assert [file.name for file in path.parent.iterdir()] == [AUDIT]


GOOD = json.loads(minimal_audit().model_dump_json())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "0 bytes that do not parse"),
        (json.dumps(GOOD).encode()[:-20], "cut short"),
        (b"[" * 100_000, "do not parse"),
        (b"{}", 'expected schema "sonet.audit/1", got null'),
        (json.dumps({**GOOD, "schema": "sonet.audit/2"}).encode(), 'got "sonet.audit/2"'),
        (json.dumps({**GOOD, "schema": "sonet.record/1"}).encode(), 'got "sonet.record/1"'),
        (json.dumps({**GOOD, "decisive": ["nothing"]}).encode(), r"\['nothing'\] unknown"),
        (json.dumps({**GOOD, "worst": {**GOOD["worst"], "value": 1.5}}).encode(), r"worst\.value"),
    ],
)
def test_a_bad_file_says_what_is_wrong_and_what_to_do(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / AUDIT
    path.write_bytes(content)
    with pytest.raises(RecordError, match=said) as caught:
        read_audit(path)
    assert str(path) in str(caught.value)
    assert "run the audit again" in str(caught.value)


def test_a_missing_file_says_where_an_audit_comes_from(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"audit\.json: expected a record, .* run the audit first"):
        read_audit(tmp_path)


def test_either_record_is_read_by_its_schema_whatever_its_name(tmp_path: Path) -> None:
    audit = write_audit(minimal_audit(), tmp_path / "a").rename(tmp_path / "audit-of-may.json")
    assert isinstance(read_any(audit), AuditRecord)
    record = write(synthetic_record(seeds=0), tmp_path / "b")
    assert isinstance(read_any(record), Record)
    assert isinstance(read_any(record.parent), Record)


def test_a_newer_or_damaged_audit_is_still_called_an_audit(tmp_path: Path) -> None:
    path = tmp_path / AUDIT
    path.write_text(json.dumps({**GOOD, "schema": "sonet.audit/2"}))
    with pytest.raises(RecordError, match=r'expected schema "sonet\.audit/1"'):
        read_any(path)
    path.write_text("{")
    with pytest.raises(RecordError, match="run the audit again"):
        read_any(path)


def test_a_folder_with_both_is_refused(tmp_path: Path) -> None:
    write_audit(minimal_audit(), tmp_path)
    write(synthetic_record(seeds=0), tmp_path)
    with pytest.raises(RecordError, match=r"expected one record, got record\.json and audit\.json"):
        read_any(tmp_path)


def test_a_folder_with_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="expected a record"):
        read_any(tmp_path)


def test_the_command_writes_the_page_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = minimal_audit()
    path = write_audit(record, tmp_path)
    for given in (tmp_path, path):
        done = CliRunner().invoke(app, ["report", str(given)])
        assert done.exit_code == 0, done.output
        assert done.output.startswith("Inconclusive.")
        page = tmp_path / "report.html"
        assert record.summary in page.read_text()
        page.unlink()
    told = CliRunner().invoke(app, ["report", str(path), "--json"])
    assert AuditRecord.model_validate_json(told.output) == record
