"""What experiments found, and how it is shown: a `Record` on disk, tables in the terminal, one HTML file.

    write(record, folder)                                        # folder/record.json, whole or not at all
    record = read(folder)
    show(record)                                                 # verdict and tables
    write_whole(folder / "report.html", render(record))

An audit has the same with `write_audit`, `read_audit`, `show_audit` and `render_audit`, a certificate likewise;
`read_any` reads whichever record.

`render`, `render_audit`, `render_certificate` and `figure_png` bring in the drawing library and so are imported when
first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sonet.report.any_record import AnyRecord, read_any
from sonet.report.audit_record import (
    AuditRecord,
    Bar,
    Count,
    Family,
    Finding,
    Ladder,
    Line,
    Matrix,
    Outcome,
    Stage,
    Surface,
    Verdict,
)
from sonet.report.audit_terminal import audit_plain, audit_text, show_audit
from sonet.report.audit_write import AUDIT, read_audit, write_audit
from sonet.report.certificate_record import BlockRow, BoundRow, CertificateRecord, Certified, CurvePoint
from sonet.report.certificate_terminal import certificate_text, show_certificate
from sonet.report.certificate_write import CERTIFICATE, read_certificate, write_certificate
from sonet.report.environment import Environment
from sonet.report.pictures import Picture, difference, png
from sonet.report.record import Leak, ModelCard, Norm, Record, Row, StepGradient, StepHistogram
from sonet.report.terminal import show, tables
from sonet.report.write import RecordError, claim, read, write, write_whole

if TYPE_CHECKING:
    from sonet.report.audit_page import render_audit
    from sonet.report.certificate_page import render_certificate
    from sonet.report.figures import figure_png, figure_svg
    from sonet.report.html import render

__all__ = [
    "AUDIT",
    "CERTIFICATE",
    "AnyRecord",
    "AuditRecord",
    "Bar",
    "BlockRow",
    "BoundRow",
    "CertificateRecord",
    "Certified",
    "Count",
    "CurvePoint",
    "Environment",
    "Family",
    "Finding",
    "Ladder",
    "Leak",
    "Line",
    "Matrix",
    "ModelCard",
    "Norm",
    "Outcome",
    "Picture",
    "Record",
    "RecordError",
    "Row",
    "Stage",
    "StepGradient",
    "StepHistogram",
    "Surface",
    "Verdict",
    "audit_plain",
    "audit_text",
    "certificate_text",
    "claim",
    "difference",
    "figure_png",
    "figure_svg",
    "png",
    "read",
    "read_any",
    "read_audit",
    "read_certificate",
    "render",
    "render_audit",
    "render_certificate",
    "show",
    "show_audit",
    "show_certificate",
    "tables",
    "write",
    "write_audit",
    "write_certificate",
    "write_whole",
]


def __getattr__(name: str) -> Any:
    if name in ("figure_png", "figure_svg"):
        from sonet.report import figures

        return getattr(figures, name)
    if name == "render":
        from sonet.report.html import render

        return render
    if name == "render_audit":
        from sonet.report.audit_page import render_audit

        return render_audit
    if name == "render_certificate":
        from sonet.report.certificate_page import render_certificate

        return render_certificate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
