"""The loss around one image as a heat map over two directions, with the region where the network is wrong."""

from __future__ import annotations

from itertools import pairwise

import altair as alt

from sonet.report.audit_record import Surface

_LOSS = ["#f7f3ea", "#e9c46a", "#c8553d", "#5b1a3a"]
"""Low to high."""


def surface(found: Surface, width: int | str = "container") -> alt.LayerChart:
    """Loss over the plane of two directions; outlined and dotted where the network is wrong; the cross is the image."""
    across, up = _edges(found.attack), _edges(found.random)
    rows = [
        {
            "attack": a,
            "random": r,
            "left": across[i],
            "right": across[i + 1],
            "bottom": up[j],
            "top": up[j + 1],
            "loss": found.loss[i][j],
            "answer": "wrong" if found.wrong[i][j] else "right",
        }
        for i, a in enumerate(found.attack)
        for j, r in enumerate(found.random)
    ]
    x = alt.X("left:Q", title="along the attack, in eps", scale=alt.Scale(domain=[across[0], across[-1]], nice=False))
    y = alt.Y("bottom:Q", title="along a random direction, in eps", scale=alt.Scale(domain=[up[0], up[-1]], nice=False))
    tip = [
        alt.Tooltip("attack:Q", title="attack", format=".2~f"),
        alt.Tooltip("random:Q", title="random", format=".2~f"),
        alt.Tooltip("loss:Q", title="loss", format=".3~g"),
        alt.Tooltip("answer:N", title="answer"),
    ]
    legend = alt.Legend(
        title="loss", orient="bottom", gradientLength=160, titleOrient="left", titleFontWeight="normal", format=".2~g"
    )
    cells = (
        alt.Chart(alt.Data(values=rows))
        .mark_rect()
        .encode(
            x=x,
            x2="right:Q",
            y=y,
            y2="top:Q",
            color=alt.Color("loss:Q", scale=alt.Scale(range=_LOSS), legend=legend),
            tooltip=tip,
        )
    )
    wrong = (
        alt.Chart(alt.Data(values=[row for row in rows if row["answer"] == "wrong"]))
        .mark_point(filled=True, size=7, color="#ffffff", opacity=0.9)
        .encode(x=alt.X("attack:Q"), y=alt.Y("random:Q"), tooltip=tip)
    )
    edges = alt.Chart(alt.Data(values=_outline(found, across, up)))
    where = {"x": alt.X("x:Q"), "y": alt.Y("y:Q"), "x2": "x2:Q", "y2": "y2:Q"}
    halo = edges.mark_rule(color="#ffffff", strokeWidth=4, strokeCap="round").encode(**where)
    # Not INK: the style sheet would turn that light in dark mode, and it stands on the halo.
    line = edges.mark_rule(color="#000000", strokeWidth=1.8, strokeCap="round").encode(**where)
    image = (
        alt.Chart(alt.Data(values=[{"x": 0, "y": 0}]))
        .mark_point(shape="cross", filled=True, size=120, color="#000000", stroke="#ffffff", strokeWidth=1)
        .encode(x="x:Q", y="y:Q")
    )
    return alt.layer(cells, wrong, halo, line, image).properties(
        width=width, height=300, description=f"Loss around image {found.index}. {spoken(found)}"
    )


def spoken(found: Surface) -> str:
    """The picture in a sentence, for those who do not see it."""
    losses = [loss for line in found.loss for loss in line]
    wrong = [
        (a, r)
        for a, line in zip(found.attack, found.wrong, strict=True)
        for r, is_wrong in zip(found.random, line, strict=True)
        if is_wrong
    ]
    text = f"The loss runs from {min(losses):.3g} to {max(losses):.3g} over {len(losses)} points"
    if not wrong:
        return f"{text}; the network is right at all of them."
    middle = min(abs(r) for r in found.random)
    along = [abs(a) for a, r in wrong if abs(r) == middle and a > 0]
    from_where = f", along the attack from {min(along):.2g} eps on" if along else ""
    return f"{text}; the network is wrong at {len(wrong)} of them{from_where}."


def _edges(centres: list[float]) -> list[float]:
    """The borders of cells around these increasing centres: half way between two, as wide outside as inside."""
    if len(centres) == 1:
        return [centres[0] - 0.5, centres[0] + 0.5]
    inner = [(a + b) / 2 for a, b in pairwise(centres)]
    return [2 * centres[0] - inner[0], *inner, 2 * centres[-1] - inner[-1]]


def _outline(found: Surface, across: list[float], up: list[float]) -> list[dict[str, float]]:
    """Pieces of line between cells where the network is right and cells where it is wrong."""
    wrong, pieces = found.wrong, []
    for i in range(len(found.attack)):
        for j in range(len(found.random)):
            if i + 1 < len(found.attack) and wrong[i][j] != wrong[i + 1][j]:
                pieces.append({"x": across[i + 1], "x2": across[i + 1], "y": up[j], "y2": up[j + 1]})
            if j + 1 < len(found.random) and wrong[i][j] != wrong[i][j + 1]:
                pieces.append({"x": across[i], "x2": across[i + 1], "y": up[j + 1], "y2": up[j + 1]})
    return pieces
