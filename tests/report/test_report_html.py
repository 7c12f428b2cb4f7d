"""The page as text: complete, closed to the network, and not to be broken out of."""

from __future__ import annotations

import itertools
import json
import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_fixture import VERDICT, synthetic_record

from sonet.report import Record, read, render, write
from sonet.report.html import duration

PAGE = render(synthetic_record())
EVIL = "</script><script>alert(1)</script><!--<img src=x onerror=alert(2)>\"'&{{ 7 * 7 }}"


class Parsed(HTMLParser):
    """Tags with their attributes, the visible text, and the contents of scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.inside = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += data
        elif self.inside != "style":
            self.text += data

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def _with(record: Record, **changes: object) -> Record:
    return Record.model_validate({**record.model_dump(), **changes})


def _small() -> Record:
    """One network, one attack, no more: quick to draw."""
    record = synthetic_record(seeds=1)
    return _with(record, models=[], rows=record.rows[:3], steps=[], leaks=[], pictures=[])


@cache
def _small_page() -> str:
    return render(_small())


def test_the_verdict_stands_before_everything_that_was_measured() -> None:
    text = Parsed(PAGE).text
    assert VERDICT in text
    assert text.index(VERDICT) < text.index("How to read this") < text.index("What each attack leaves")


def test_the_page_says_what_the_record_says() -> None:
    text = " ".join(Parsed(PAGE).text.split())
    for expected in (
        "0.64 [0.57, 0.70]",
        "seeds 0.62–0.66",
        "reported 0.67",
        "64 perturbations a step",
        "34,122",
        "sonet reproduce digits --seeds 2 --out runs/digits",
        "1a2b3c4",
        "12 min 34 s",
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "3 → 8",
    ):
        assert expected in text
    assert "robust" not in text.lower()
    assert "Incomplete" not in text


def test_the_library_is_there_once_for_all_charts() -> None:
    parsed = Parsed(PAGE)
    library, charts, drawing = parsed.scripts
    assert len(library) > 500_000
    assert "vegaEmbed" in drawing
    specs = json.loads(charts)
    places = {str(attributes["id"]) for attributes in parsed.attributes("div") if attributes.get("class") == "chart"}
    assert set(specs) == places
    assert len(specs) == 3 + 3 + 2 + 2
    assert PAGE.count("</script") == 3


def test_nothing_is_loaded_from_anywhere() -> None:
    parsed = Parsed(PAGE)
    for tag, attributes in parsed.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)
    policy = next(a["content"] for a in parsed.attributes("meta") if a.get("http-equiv"))
    assert policy is not None
    assert "default-src 'none'" in policy
    styles = re.findall(r"<style>(.*?)</style>", PAGE, re.S)
    assert not any("url(" in style or "@import" in style for style in styles)


def test_the_page_is_readable_by_keyboard_and_ear() -> None:
    parsed = Parsed(PAGE)
    ids = [str(attributes["id"]) for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all(image.get("alt") for image in parsed.attributes("img"))
    assert all(header.get("scope") in ("col", "row") for header in parsed.attributes("th"))
    assert len(parsed.attributes("caption")) == len(parsed.attributes("table"))
    assert [a["href"] for a in parsed.attributes("a")] == ["#main"]
    levels = [int(tag[1]) for tag, _ in parsed.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert parsed.attributes("html")[0]["lang"] == "en"


def test_text_of_a_record_cannot_break_out() -> None:
    record = synthetic_record(seeds=1)
    row = record.rows[1]
    evil = _with(
        record,
        title=EVIL,
        verdict=EVIL,
        command=EVIL,
        data={EVIL: EVIL},
        settings={"a": [EVIL]},
        models=[card.model_copy(update={"model": EVIL}) for card in record.models[:1]],
        rows=[row.model_copy(update={"model": EVIL, "attack": EVIL, "loss": EVIL, "note": EVIL})],
        steps=[entry.model_copy(update={"model": EVIL, "block": EVIL}) for entry in record.steps[:1]],
        leaks=[entry.model_copy(update={"model": EVIL}) for entry in record.leaks[:1]],
        pictures=[picture.model_copy(update={"label": EVIL, "attack": EVIL}) for picture in record.pictures[:1]],
    )
    page = render(evil)
    parsed = Parsed(page)
    assert len(parsed.scripts) == page.count("</script") == 3
    assert "<!--" not in page
    assert not any("onerror" in attributes for _, attributes in parsed.tags)
    assert parsed.text.count(EVIL) >= 10
    assert EVIL in json.dumps(json.loads(parsed.scripts[1]), ensure_ascii=False).replace('\\"', '"')


@settings(max_examples=6, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"])))
def test_odd_text_is_shown_as_it_is(text: str) -> None:
    record = _small()
    rows = [row.model_copy(update={"model": text, "note": text}) for row in record.rows]
    parsed = Parsed(render(_with(record, verdict=text, command=text, settings={text: text}, rows=rows)))
    assert len(parsed.scripts) == 3
    assert parsed.text.count(text) >= 6


def test_an_incomplete_run_says_so_before_the_verdict() -> None:
    text = Parsed(render(_with(_small(), complete=False))).text
    assert text.index("Incomplete.") < text.index(VERDICT)


@pytest.mark.parametrize(
    ("empty", "heading"),
    [
        ("leaks", "Whose gradient is it?"),
        ("steps", "How hard the solver works"),
        ("pictures", "Images before and after"),
        ("models", "The networks"),
    ],
)
def test_what_was_not_measured_has_no_section(empty: str, heading: str) -> None:
    assert heading in PAGE
    assert heading not in _small_page()
    assert getattr(_small(), empty) == []


def test_a_record_of_words_only_needs_no_library() -> None:
    page = render(synthetic_record(seeds=0))
    assert "<script" not in page
    assert len(page) < 30_000
    assert "What each attack leaves" not in page
    assert VERDICT in Parsed(page).text


def test_the_page_is_made_from_the_file_alone(tmp_path: Path) -> None:
    record = _small()
    assert render(read(write(record, tmp_path))) == _small_page()


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.04, "0.0 s"), (12.34, "12.3 s"), (59.7, "1 min 0 s"), (754.2, "12 min 34 s"), (7620, "2 h 7 min")],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said
