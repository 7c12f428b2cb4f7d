"""A certificate's page as text: what is proven first, every number in a table, closed to the network and to code."""

from __future__ import annotations

import itertools
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from certificate_fixture import SUMMARY, WHY, count, minimal_certificate, synthetic_certificate
from test_report_html import EVIL, Parsed

from sonet.report import CertificateRecord, CurvePoint, read_certificate, render_certificate, write_certificate
from sonet.report.certificate_page import curve

FULL = synthetic_certificate()


@cache
def _page() -> str:
    return render_certificate(FULL)


def _words(page: str) -> str:
    """The visible text, with a space where an element begins."""
    return " ".join(Parsed(page.replace("<", " <")).text.split())


def test_what_is_proven_then_the_curve_then_the_rest() -> None:
    text = _words(_page())
    places = [
        "stable: certified against l2",
        "38 of 40 test images are right without attack.",
        SUMMARY.partition(". ")[2],
        "What is proven, and what attacks leave",
        "Each block: bounds, and what was measured",
        "The way through the network",
        "Every image",
        "Settings and environment",
        FULL.command,
    ]
    found = [text.replace(" .", ".").find(place) for place in places]
    assert -1 not in found
    assert found == sorted(found)


def test_every_number_of_the_record_is_in_a_table() -> None:
    text = _words(_page())
    for expected in (
        "0.25 0.700 [0.55, 0.82] 0.900 [0.77, 0.96]",
        "0 0.950 [0.83, 0.99] –",
        "1 0.000 [0.00, 0.09] 0.625 [0.47, 0.76]",
        "stages.0.0 0.4004 -0.0343 0.9663 1 1 0.9712 0.9534",
        f"stages.1.0 not covered: stages.1.0: {WHY} – – – – – 1.871 1.432",
        "spread SpreadChannels 1 1.2e-06",
        "head UnitRows 1.346 0.00017",
        "at most 1.457 times the image",
        "0.00025 is counted, twice in every radius; float32 and float64 differ by 3.1e-06 here",
        "Certified radius of each of 40 images",
        "0 0 wrong –",
        "6 6 0.1323 0.2323 pgd",
        "8 8 0.1723 –",
        "9 min 2 s",
        "1a2b3c4",
        '"kernel_norm": 0.4',
    ):
        assert expected in text, expected
    assert text.count("wrong –") == 2
    assert "robust" not in text.lower()


def _layers() -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Each layer of the curve with its rows."""
    spec = curve(FULL).to_dict()
    return [
        (layer, data.get("values") or spec["datasets"][data["name"]])
        for layer in spec["layer"]
        for data in [layer["data"] if "data" in layer else spec["data"]]
    ]


def test_the_curve_draws_both_lines_and_the_band_between_them() -> None:
    marks = [layer["mark"]["type"] for layer, _ in _layers()]
    assert sorted(marks) == ["area", "line", "line", "point", "rule"]
    kinds = {row["kind"] for _, rows in _layers() for row in rows if "kind" in row}
    assert kinds == {"certified", "left by the worst attack"}
    band = next(rows for layer, rows in _layers() if layer["mark"]["type"] == "area")
    assert band == [
        {"eps": 0.25, "low": 0.7, "high": 0.9},
        {"eps": 0.5, "low": 0.375, "high": 0.8},
        {"eps": 1.0, "low": 0.0, "high": 0.625},
    ]
    assert "radius 0.25: certified 0.70, left 0.90" in curve(FULL).to_dict()["description"]


def test_the_line_of_what_is_certified_is_the_share_of_images_with_a_larger_radius() -> None:
    layer, rows = next((layer, rows) for layer, rows in _layers() if "interpolate" in layer["mark"])
    steps = sorted((row["eps"], row["share"]) for row in rows)
    after = layer["mark"]["interpolate"] == "step-after"
    for number in range(100):
        eps = 0.00503 + 0.00999 * number
        below, above = ([step for step in steps if (step[0] <= eps) == side] for side in (True, False))
        drawn = (below[-1] if after else above[0])[1] if below and above else None
        certified = sum(image.radius > eps for image in FULL.images) / 40
        assert drawn == pytest.approx(certified), eps


def test_nothing_is_loaded_and_the_library_is_there_once() -> None:
    parsed = Parsed(_page())
    for tag, attributes in parsed.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)
    policy = next(a["content"] for a in parsed.attributes("meta") if a.get("http-equiv"))
    assert policy is not None
    assert "default-src 'none'" in policy
    library, charts, drawing = parsed.scripts
    assert len(library) > 500_000
    assert "vegaEmbed" in drawing
    places = {str(a["id"]) for a in parsed.attributes("div") if a.get("class") == "chart"}
    assert set(json.loads(charts)) == places == {"curve_chart"}
    (picture,) = parsed.attributes("img")  # the chart as an image, where scripts are off
    assert str(picture["src"]).startswith("data:image/png;base64,iVBOR")
    styles = re.findall(r"<style>(.*?)</style>", _page(), re.S)
    assert not any("url(" in style or "@import" in style for style in styles)


def test_the_page_is_readable_by_keyboard_and_ear() -> None:
    parsed = Parsed(_page())
    assert all(image.get("alt") for image in parsed.attributes("img"))
    assert all(header.get("scope") in ("col", "row", "rowgroup") for header in parsed.attributes("th"))
    regions = [a for a in parsed.attributes("div") if a.get("role") == "region"]
    assert len(regions) == len(parsed.attributes("table")) + 1 == 5  # and the command
    assert all(a.get("aria-label") and a.get("tabindex") == "0" for a in regions)
    labels = {str(a["aria-labelledby"]) for a in parsed.attributes("section")}
    ids = [str(a["id"]) for _, a in parsed.tags if "id" in a]
    assert labels <= set(ids)
    assert len(ids) == len(set(ids))
    levels = [int(tag[1]) for tag, _ in parsed.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


@pytest.mark.parametrize("curve_of", [[], [CurvePoint(eps=0.0, certified=count(1, 2))]])
def test_a_certificate_without_anything_optional_has_a_page(curve_of: list[CurvePoint]) -> None:
    text = _words(render_certificate(minimal_certificate(curve=curve_of)))
    assert "1 of 2 test images are right without attack." in text
    assert "at most 1.25 times the image" in text
    assert "wrong –" in text


def _evil() -> CertificateRecord:
    block = FULL.blocks[0].model_copy(update=dict.fromkeys(("name", "kind", "why"), EVIL))
    return FULL.model_copy(
        update={
            **dict.fromkeys(("title", "summary", "model", "attack", "command"), EVIL),
            "data": {EVIL: EVIL, "name": EVIL},
            "settings": {EVIL: [EVIL]},
            "layers": [FULL.layers[0].model_copy(update={"name": EVIL, "kind": EVIL})],
            "blocks": [block],
            "images": [FULL.images[6].model_copy(update={"fell_to": EVIL})],
        }
    )


def test_text_of_a_record_cannot_break_out() -> None:
    page = render_certificate(_evil())
    parsed = Parsed(page)
    assert len(parsed.scripts) == page.count("</script") == 3
    assert "<!--" not in page
    assert not any("onerror" in attributes for _, attributes in parsed.tags)
    assert parsed.text.count(EVIL) >= 15


def test_the_page_is_made_from_the_file_alone(tmp_path: Path) -> None:
    assert render_certificate(read_certificate(write_certificate(FULL, tmp_path))) == _page()
