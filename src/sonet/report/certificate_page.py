"""A certificate as one HTML file: the curve between what is proven and what attacks leave, blocks, every image."""

from __future__ import annotations

import altair as alt

from sonet.report.certificate_record import CertificateRecord
from sonet.report.certificate_terminal import numbers
from sonet.report.lines import NO_GRADIENT, duration
from sonet.report.page import chart, library, specs, static_png, template
from sonet.report.palette import BLUE, COLOURS

SHARE = "share of images"
PROVEN, LEFT = "certified", "left by the worst attack"
_COLOURS = {PROVEN: BLUE, LEFT: COLOURS[NO_GRADIENT]}


def render_certificate(record: CertificateRecord) -> str:
    """The page of a certificate, whole: write it with `write_whole`."""
    drawn = chart("curve_chart", "", curve(record))
    facts = {
        "network": record.model,
        "data": str(record.data.get("name", "")),
        "images": str(record.natural.n),
        "attacks": record.attack,
        "run time": duration(record.seconds),
        "made": record.environment.created,
    }
    return template("certificate.html.j2").render(
        record=record,
        facts={name: value for name, value in facts.items() if value},
        curve=drawn,
        colours=_COLOURS,
        numbers=numbers,
        static=static_png(drawn, 480),
        specs=specs([drawn]),
        library=library(),
    )


def curve(record: CertificateRecord, width: int | str = "container") -> alt.LayerChart:
    """Both lines against the radius: the truth is in the band between them."""
    rows = [
        {"eps": point.eps, "kind": kind, "share": share.value, "low": share.low, "high": share.high}
        for point in record.curve
        for kind, share in ((PROVEN, point.certified), (LEFT, point.attacked))
        if share is not None
    ]
    # Finely, because every image has a radius of its own; attacks were run at a few radii only.
    radii = sorted(image.radius for image in record.images if image.radius >= 0)
    n = len(record.images)
    top = max((point.eps for point in record.curve), default=0.0)
    # Right of a radius its image is no longer certified: each value holds until the next radius.
    within = [(r, (len(radii) - 1 - i) / n) for i, r in enumerate(radii) if 0 < r <= top]
    start = sum(image.radius > 0 for image in record.images) / n
    steps_at = [(0.0, start), *within, (top, within[-1][1] if within else start)]
    fine = [{"eps": r, "kind": PROVEN, "share": share} for r, share in steps_at]
    band = [
        {"eps": point.eps, "low": point.certified.value, "high": point.attacked.value}
        for point in record.curve
        if point.attacked is not None
    ]
    x = alt.X("eps:Q", title=f"radius, {record.norm}", axis=alt.Axis(tickCount=6, format=".3~g"))
    y = alt.Y("share:Q", title=SHARE, scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=5))
    colour = alt.Color("kind:N", scale=alt.Scale(domain=list(_COLOURS), range=list(_COLOURS.values())), legend=None)
    tip = [
        alt.Tooltip("kind:N", title="which"),
        alt.Tooltip("eps:Q", title="radius", format=".3~g"),
        alt.Tooltip("share:Q", title="share", format=".3f"),
        alt.Tooltip("low:Q", title="from", format=".3f"),
        alt.Tooltip("high:Q", title="to", format=".3f"),
    ]
    between = (
        alt.Chart(alt.Data(values=band))
        .mark_area(color="#8a919c", opacity=0.2)
        .encode(x=x, y=alt.Y("low:Q", title=SHARE), y2="high:Q")
    )
    steps = alt.Chart(alt.Data(values=fine)).mark_line(interpolate="step-after").encode(x=x, y=y, color=colour)
    base = alt.Chart(alt.Data(values=rows)).encode(x=x, color=colour, tooltip=tip)
    worst = base.transform_filter(alt.datum.kind == LEFT).mark_line(strokeDash=[4, 2]).encode(y=y)
    bars = base.mark_rule(strokeWidth=1).encode(y=alt.Y("low:Q", title=SHARE), y2="high:Q")
    dots = base.mark_point(filled=True, size=45, opacity=1).encode(y=y)
    spoken = "; ".join(
        f"radius {point.eps:g}: certified {point.certified.value:.2f}"
        + (f", left {point.attacked.value:.2f}" if point.attacked else "")
        for point in record.curve
    )
    return alt.layer(between, steps, worst, bars, dots).properties(
        width=width,
        height=260,
        description=f"Certified accuracy and accuracy under attack against the radius. {spoken}",
    )
