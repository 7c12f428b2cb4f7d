"""Audits on disk: audit.json, written whole or not at all; and whichever record a path holds."""

from __future__ import annotations

import json
from pathlib import Path

from sonet.report.audit_record import AUDIT_SCHEMA, AuditRecord
from sonet.report.record import Record
from sonet.report.write import RECORD, RecordError, read, read_as, write_whole

AUDIT = "audit.json"
"""The name of an audit's file in its folder."""


def write_audit(record: AuditRecord, folder: Path | str) -> Path:
    """Write `folder`/audit.json, making the folder where it is missing; gives its path."""
    return write_whole(Path(folder) / AUDIT, record.model_dump_json(indent=1) + "\n")


def read_audit(path: Path | str) -> AuditRecord:
    """The audit in a file, or in the audit.json of a folder.

    Errors: RecordError where there is no file, its JSON is cut short, it has another schema or does not fit it.
    """
    return read_as(AuditRecord, path, AUDIT, AUDIT_SCHEMA, "audit")


def read_any(path: Path | str) -> Record | AuditRecord:
    """The record of an experiment or of an audit, by the file's schema, or by what the folder holds.

    Errors: RecordError, as `read`; also for a folder that holds both.
    """
    path = Path(path)
    if path.is_dir():
        record, audit = (path / RECORD).is_file(), (path / AUDIT).is_file()
        if record and audit:
            raise RecordError(
                f"{path}: expected {RECORD} or {AUDIT}, got both. They would have the same report.html; "
                "move one to a folder of its own, or give the path of the one to read."
            )
        return read_audit(path) if audit else read(path)
    return read_audit(path) if _is_audit(path) else read(path)


def _is_audit(path: Path) -> bool:
    """By its schema, whatever the version; a damaged file by its name."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return path.name == AUDIT
    schema = content.get("schema") if isinstance(content, dict) else None
    return isinstance(schema, str) and schema.startswith(AUDIT_SCHEMA.partition("/")[0] + "/")
