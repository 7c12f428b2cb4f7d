"""Whichever record a path holds: of an experiment, an audit or a certificate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from sonet.report.audit_record import AUDIT_SCHEMA, AuditRecord
from sonet.report.audit_write import AUDIT, read_audit
from sonet.report.certificate_record import CERTIFICATE_SCHEMA, CertificateRecord
from sonet.report.certificate_write import CERTIFICATE, read_certificate
from sonet.report.record import SCHEMA, Record
from sonet.report.write import RECORD, RecordError, read

AnyRecord = Record | AuditRecord | CertificateRecord

READERS: dict[str, tuple[str, Callable[[Path], AnyRecord]]] = {
    RECORD: (SCHEMA, read),
    AUDIT: (AUDIT_SCHEMA, read_audit),
    CERTIFICATE: (CERTIFICATE_SCHEMA, read_certificate),
}
"""File in a folder -> its schema, and what reads it."""


def read_any(path: Path | str) -> AnyRecord:
    """The record in a file, by its schema, or in a folder, by what the folder holds.

    Errors: RecordError, as `read`; also for a folder that holds several.
    """
    path = Path(path)
    if not path.is_dir():
        return READERS[_kind(path)][1](path)
    found = [name for name in READERS if (path / name).is_file()]
    if len(found) > 1:
        raise RecordError(
            f"{path}: expected one record, got {' and '.join(found)}. They would have the same report.html; "
            "move one to a folder of its own, or give the path of the one to read."
        )
    return READERS[found[0] if found else RECORD][1](path)


def _kind(path: Path) -> str:
    """By its schema, whatever the version; a damaged file by its name."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return path.name if path.name in READERS else RECORD
    schema = content.get("schema") if isinstance(content, dict) else None
    for name, (known, _) in READERS.items():
        if isinstance(schema, str) and schema.startswith(known.partition("/")[0] + "/"):
            return name
    return RECORD
