"""What experiments found, and how it is shown: a `Record` on disk, tables in the terminal, one HTML file.

    write(record, folder)                                        # folder/record.json, whole or not at all
    record = read(folder)
    show(record)                                                 # verdict and tables
    write_whole(folder / "report.html", render(record))

`render` and `figure_png` bring in the drawing library and so are imported when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sonet.report.environment import Environment
from sonet.report.pictures import Picture, difference, png
from sonet.report.record import Leak, ModelCard, Norm, Record, Row, StepGradient, StepHistogram
from sonet.report.terminal import show, tables
from sonet.report.write import RecordError, claim, read, write, write_whole

if TYPE_CHECKING:
    from sonet.report.figures import figure_png, figure_svg
    from sonet.report.html import render

__all__ = [
    "Environment",
    "Leak",
    "ModelCard",
    "Norm",
    "Picture",
    "Record",
    "RecordError",
    "Row",
    "StepGradient",
    "StepHistogram",
    "claim",
    "difference",
    "figure_png",
    "figure_svg",
    "png",
    "read",
    "render",
    "show",
    "tables",
    "write",
    "write_whole",
]


def __getattr__(name: str) -> Any:
    if name in ("figure_png", "figure_svg"):
        from sonet.report import figures

        return getattr(figures, name)
    if name == "render":
        from sonet.report.html import render

        return render
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
