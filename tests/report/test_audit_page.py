"""An audit's page as text: the verdict first, each finding with its anchor, closed to the network and to code."""

from __future__ import annotations

import itertools
import json
import re
from functools import cache
from pathlib import Path

import pytest
from audit_fixture import SUMMARY, minimal_audit, synthetic_audit
from test_report_html import EVIL, Parsed

from sonet.report import AuditRecord, Finding, read_audit, render_audit, write_audit
from sonet.report.audit_words import NO_PROOF

FULL = synthetic_audit()


@cache
def _page() -> str:
    return render_audit(FULL)


def _words(page: str) -> str:
    """The visible text, with a space where an element begins."""
    return " ".join(Parsed(page.replace("<", " <")).text.split())


def _wordy(**changes: object) -> AuditRecord:
    """The full audit without charts: quick to render."""
    nothing: dict[str, object] = {"causes": [], "matrix": None, "ladders": [], "surface": None}
    return FULL.model_copy(update={**nothing, **changes})


def test_the_verdict_then_its_numbers_then_the_rest() -> None:
    text = _words(_page())
    places = [
        "Masked",
        SUMMARY,
        "0.02 [0.01, 0.07]",
        "0.64 [0.54, 0.73]",
        "0.99 [0.95, 1.00]",
        "62 points [52, 71]",
        "Plain attacks leave far more than others: 0.62 [0.52, 0.71] of the images",
        FULL.next_command,
        "What the accuracy rests on",
        "One attack after the other",
        "Crafted through one, judged with another",
        "Turning one knob",
        "The loss around one image",
        "Image by image",
        "Every finding",
        "Not run",
        "Do it again",
    ]
    found = [text.replace(" :", ":").find(place) for place in places]
    assert -1 not in found
    assert found == sorted(found)


def test_every_number_of_the_record_is_in_a_table() -> None:
    text = _words(_page())
    for expected in (
        "step sizes taken as given (frozen) 0.02 [0.01, 0.07] carries the overestimate",
        "margin in place of cross-entropy 0.60 [0.50, 0.69] not by itself",
        "differentiated, 100 images 0.64 [0.54, 0.73] reference",
        "APGD-100, margin frozen, batch 100 4 2 2 12.8 s",
        "frozen steps 0.02 0.01 0.02 0.66",
        "1e-08 – –",
        "1e-06 0.12 0.9",
        "the network is wrong at 143 of them, along the attack from 0.2 eps on",
        "stands under all attacks 2 1",
        "wrong without attack 1 0",
        "substitute-transfer the budget of 10 min was used up",
        "sonet audit runs/digits/models/sonet-0.safetensors --eps 0.2 --out runs/audit",
        "1a2b3c4",
    ):
        assert expected in text
    assert "robust" not in text.lower()


def test_a_finding_says_all_that_is_known_of_it() -> None:
    section = _page()[_page().index('id="plain-and-worst"') :]
    text = _words("<details " + section[: section.index("</details>")])
    found = next(finding for finding in FULL.findings if finding.name == "plain-and-worst")
    for expected in (
        "raised Plain attacks leave far more than others 0.62 [0.52, 0.71] of the images",
        found.measured,
        "threshold 0.05 of the images",
        f"raised if {found.raised_if}",
        f"what it means {found.means}",
        f"what to do {found.remedy}",
        f"source {found.source}",
        "cost 12.5 s, 40,000 passes",
        "docs/findings.md#plain-and-worst",
    ):
        assert expected in text


def test_findings_have_anchors_and_links_lead_to_them() -> None:
    parsed = Parsed(_page())
    details = [a for a in parsed.attributes("details") if a.get("class") == "finding"]
    assert {str(a["id"]) for a in details} == {finding.name for finding in FULL.findings}
    assert {str(a["id"]) for a in details if "open" in a} == set(FULL.decisive)
    links = [str(a["href"]) for a in parsed.attributes("a")]
    assert links == ["#the_findings", "#plain-and-worst", "#step-sizes"]
    ids = [str(a["id"]) for _, a in parsed.tags if "id" in a]
    assert len(ids) == len(set(ids))


def test_no_finding_can_take_an_id_of_the_page() -> None:
    ids = [str(a["id"]) for _, a in Parsed(render_audit(minimal_audit())).tags if "id" in a]
    ids += [str(a["id"]) for a in Parsed(_page()).attributes("div") if "id" in a]
    name = Finding.model_fields["name"].metadata[0].pattern
    assert len(ids) > 8
    assert not [id for id in ids if re.fullmatch(name, id)]


def test_states_are_words_raised_ones_first() -> None:
    states = re.findall(r'<span class="state \w+">([\w ]+)</span>', _page())
    assert states.count("raised") == 4
    assert states.count("not raised") == 3
    assert states.count("not measured") == 2
    assert states[-3:] == ["raised", "not raised", "not measured"]
    assert "The attacks 1 raised, 1 not raised, 1 not measured" in _words(_page())


@pytest.mark.parametrize(
    ("verdict", "word"), [("no masking found", "No masking found"), ("inconclusive", "Inconclusive")]
)
def test_passing_is_said_to_be_no_proof(verdict: str, word: str) -> None:
    text = _words(render_audit(minimal_audit(verdict=verdict)))
    assert word in text
    assert (NO_PROOF in text) == (verdict == "no masking found")
    assert "No single finding decides" in text


def test_nothing_is_loaded_and_the_library_is_there_once() -> None:
    parsed = Parsed(_page())
    for tag, attributes in parsed.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)
    policy = next(a["content"] for a in parsed.attributes("meta") if a.get("http-equiv"))
    assert policy is not None
    assert "default-src 'none'" in policy
    library, charts, drawing, comforts = parsed.scripts
    assert len(library) > 500_000
    assert "vegaEmbed" in drawing
    assert "hashchange" in comforts
    places = {str(a["id"]) for a in parsed.attributes("div") if a.get("class") == "chart"}
    assert set(json.loads(charts)) == places
    assert places == {"causes_chart", "matrix_chart", "ladder_0", "ladder_1", "surface_chart"}
    pictures = [a for a in parsed.attributes("img") if "static" not in str(a)]
    assert len(pictures) == len(places) + 3 * len(FULL.pictures)  # each chart as an image too, where scripts are off


def test_the_page_is_readable_by_keyboard_and_ear() -> None:
    parsed = Parsed(_page())
    assert all(image.get("alt") for image in parsed.attributes("img"))
    assert all(header.get("scope") in ("col", "row", "rowgroup") for header in parsed.attributes("th"))
    assert len(parsed.attributes("caption")) == len(parsed.attributes("table"))
    levels = [int(tag[1]) for tag, _ in parsed.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_an_audit_of_words_only_needs_no_library() -> None:
    page = render_audit(minimal_audit())
    assert page.count("<script") == 1
    assert len(page) < 40_000
    text = _words(page)
    assert "0.40 [0.12, 0.77]" in text
    for heading in ("What the accuracy rests on", "Turning one knob", "Image by image", "Not run", "Settings"):
        assert heading not in text
    assert "This audit ran no checks." in text


def test_a_later_plain_attack_stays_in_its_place() -> None:
    stages = [*FULL.stages[:3], FULL.stages[0].model_copy(update={"name": "late", "tried": 4, "standing": 4})]
    text = _words(render_audit(_wordy(stages=stages)))
    assert text.count("Plain attacks, on the network's own gradient") == 2
    assert text.index("Further attacks") < text.index("late differentiated")


def test_text_of_a_record_cannot_break_out() -> None:
    finding = FULL.findings[0].model_copy(
        update=dict.fromkeys(("title", "measured", "unit", "raised_if", "means", "remedy", "source"), EVIL)
    )
    assert FULL.matrix is not None
    evil = FULL.model_copy(
        update={
            **dict.fromkeys(("title", "summary", "next_command", "threat", "model", "command", "cause"), EVIL),
            "data": {EVIL: EVIL, "name": EVIL},
            "settings": {EVIL: [EVIL]},
            "not_run": {EVIL: EVIL},
            "decisive": [finding.name],
            "findings": [finding],
            "stages": [FULL.stages[0].model_copy(update={"name": EVIL, "gradient": EVIL})],
            "causes": [FULL.causes[0].model_copy(update={"factor": EVIL, "setting": EVIL, "note": EVIL})],
            "matrix": FULL.matrix.model_copy(update={"crafted": [EVIL], "judged": [EVIL], "left": [[0.5]]}),
            "ladders": [FULL.ladders[0].model_copy(update={"title": EVIL, "x_title": EVIL, "y_title": EVIL})],
            "outcomes": [FULL.outcomes[0].model_copy(update={"label": EVIL, "predicted": EVIL, "fell_to": EVIL})],
            "pictures": [FULL.pictures[0].model_copy(update={"label": EVIL, "attack": EVIL})],
        }
    )
    page = render_audit(evil)
    parsed = Parsed(page)
    assert len(parsed.scripts) == page.count("</script") == 4
    assert "<!--" not in page
    assert not any("onerror" in attributes for _, attributes in parsed.tags)
    assert parsed.text.count(EVIL) >= 25


def test_the_page_is_made_from_the_file_alone(tmp_path: Path) -> None:
    record = _wordy()
    assert render_audit(read_audit(write_audit(record, tmp_path))) == render_audit(record)
