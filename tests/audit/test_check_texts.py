"""What every check says of itself: fragments of sentences, thresholds as they are, sources and options that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main

import sonet.audit.run as audit_run
from sonet.audit.check import CHECKS, Check, Measured, check
from sonet.cli import app

ROOT = Path(__file__).parents[2]
WORDS = {
    "5 %": 0.05,
    "a tenth of the right": 0.1,
    "nine tenths": 0.9,
    "a quarter": 0.25,
    "below 0.5": 0.5,
    "more than half": 0.5,
    "10 points": 0.1,
    "half as often again": 1.5,
}
"""How a threshold is named in `raised_if`. Checks whose threshold is 0 ask whether there is anything at all."""
ANYTHING = {"randomness", "batch-composition", "softmax-output", "autoattack-flags"}
EACH = pytest.mark.parametrize("each", CHECKS.values(), ids=CHECKS)


def texts(each: Check) -> list[str]:
    return [each.title, each.raised_if, each.means, each.remedy, each.source, each.unit]


@EACH
def test_texts_are_plain(each: Check) -> None:
    for text in texts(each):
        assert text == text.strip()
        assert "  " not in text
        assert "\n" not in text
        assert not re.search(r"\s[,.;:]", text), text
        assert "{" not in text
        assert text.count("(") == text.count(")")
        assert "robust" not in text.lower()


@EACH
def test_each_text_has_its_form(each: Check) -> None:
    """A title; "raised if ..." without a full stop; whole sentences of meaning and remedy; a source."""
    assert each.title[0].isupper()
    assert each.title[-1] not in ".,;:"
    assert len(each.title) <= 60
    assert len(each.raised_if) > 20
    assert each.raised_if[-1] not in ".,;:"
    assert each.raised_if[0].islower() or each.raised_if.startswith("AutoAttack") or each.raised_if[0].isdigit()
    for text in (each.means, each.remedy):
        assert text[0].isupper()
        assert text.endswith(".")
        assert len(text) > 20
    assert (
        each.source[0].isupper() or each.source == each.source.lower() or each.source.startswith("own_gradient_share")
    )
    assert len(each.source) > 10


@EACH
def test_the_threshold_is_the_one_that_is_named(each: Check) -> None:
    named = {number for words, number in WORDS.items() if words in each.raised_if}
    if each.name in ANYTHING:
        assert each.threshold in (None, 0.0)
    else:
        assert named == {each.threshold}, each.raised_if
    assert (each.threshold is None) <= (each.unit == "")


@EACH
def test_a_source_is_a_paper_with_its_year_or_something_of_ours(each: Check) -> None:
    paper = re.search(r"\b(19|20)\d\d\b", each.source)
    ours = re.search(
        r"(docs|results)/\w+\.md|flags_doc\.md|own_gradient_share|AutoAttack|The same weights|ladder", each.source
    )
    assert paper or ours, each.source


@EACH
def test_files_that_are_named_exist(each: Check) -> None:
    for text in texts(each):
        for file in re.findall(r"\b(?:docs|results|src)/[\w/.-]+\.\w+", text):
            assert (ROOT / file).is_file(), file


@EACH
def test_options_that_are_named_exist(each: Check) -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    known = {option for command in commands.values() for parameter in command.params for option in parameter.opts}
    for text in texts(each):
        assert set(re.findall(r"--[a-z][a-z-]+", text)) <= known, text


def test_gradients_that_are_named_are_offered() -> None:
    """--gradients takes names of sources; those of the remedies must be among them."""
    offered = (ROOT / "src" / "sonet" / "evaluation" / "gradients.py").read_text()
    for each in CHECKS.values():
        for name in re.findall(r"--gradients (\w+)", each.remedy):
            assert f'"{name}"' in offered, (each.name, name)


def test_names_are_anchors_and_every_check_is_asked_once() -> None:
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", name) for name in CHECKS)
    assert [each.name for each in CHECKS.values()] == list(CHECKS)
    assert sorted(audit_run.ORDER) == sorted(CHECKS)
    assert len({each.title for each in CHECKS.values()}) == len(CHECKS)


def test_a_name_is_given_once() -> None:
    before = dict(CHECKS)
    text = {"raised_if": "x", "means": "x", "remedy": "x", "source": "x"}
    register = check("one-step", "attack", "Again", **text)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'one-step' is there already"):
        register(lambda subject: Measured.silent("x"))
    assert before == CHECKS
