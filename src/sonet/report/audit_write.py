"""Audits on disk: audit.json, written whole or not at all."""

from __future__ import annotations

from pathlib import Path

from sonet.report.audit_record import AUDIT_SCHEMA, AuditRecord
from sonet.report.write import read_as, write_whole

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
