"""Certificates on disk: certificate.json, written whole or not at all."""

from __future__ import annotations

from pathlib import Path

from sonet.report.certificate_record import CERTIFICATE_SCHEMA, CertificateRecord
from sonet.report.write import read_as, write_whole

CERTIFICATE = "certificate.json"
"""The name of a certificate's file in its folder."""


def write_certificate(record: CertificateRecord, folder: Path | str) -> Path:
    """Write `folder`/certificate.json, making the folder where it is missing; gives its path."""
    return write_whole(Path(folder) / CERTIFICATE, record.model_dump_json(indent=1) + "\n")


def read_certificate(path: Path | str) -> CertificateRecord:
    """The certificate in a file, or in the certificate.json of a folder.

    Errors: RecordError where there is no file, its JSON is cut short, it has another schema or does not fit it.
    """
    return read_as(CertificateRecord, path, CERTIFICATE, CERTIFICATE_SCHEMA, "certification")
