"""docs/findings.md explains every check there is, with its threshold, and the verdict's own numbers."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
import typer

import sonet.audit.run as audit_run
from sonet.audit.answers import SATURATED
from sonet.audit.check import CHECKS
from sonet.audit.effort import EFFORTS
from sonet.audit.indicators import SQUARE_GAIN
from sonet.audit.overestimate import OVERESTIMATE
from sonet.audit.siege import NOISE_DRAWS
from sonet.audit.slopes import AGREES
from sonet.audit.solver import POINTS
from sonet.audit.subject import SAME
from sonet.audit.verdict import CORROBORATES, DOUBTS
from sonet.cli import app
from sonet.report.audit_words import VERDICTS
from sonet.types import Proportion

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "findings.md").read_text()
SECTIONS = {part.split("\n", 1)[0]: part.split("\n", 1)[1] for part in PAGE.split("\n## ")[1:]}
INTRODUCTION = PAGE.split("\n## ")[0]


def percent(share: float) -> str:
    return f"{100 * share:g} %"


MORE_NUMBERS = {
    "randomness": percent(SAME),
    "batch-composition": percent(10 * SAME),
    "scaled-output": f"beyond {SATURATED:g}",
    "finite-differences": percent(AGREES),
    "random-noise": f"{NOISE_DRAWS} random changes",
    "autoattack-flags": percent(SQUARE_GAIN),
    "step-jumps": f"{POINTS} passes",
    "gradient-free": "{:,}, {:,} or {:,} times".format(*(effort.queries for effort in EFFORTS.values())),
    "restarts": "{}, {} or {} starts".format(*(effort.restarts for effort in EFFORTS.values())),
    "larger-radius": "{}, {} or {} images".format(*(effort.subset for effort in EFFORTS.values())),
}
"""Numbers of the code that a section names besides its check's threshold."""


def flat(text: str) -> str:
    return " ".join(text.split())


def test_every_check_has_its_heading_and_every_heading_a_check() -> None:
    assert list(SECTIONS) == re.findall(r"^## (.+)$", PAGE, re.MULTILINE)
    assert sorted(SECTIONS) == sorted(CHECKS)
    assert sorted(audit_run.ORDER) == sorted(CHECKS)


@pytest.mark.parametrize("name", CHECKS)
def test_a_section_asks_explains_and_says_what_to_do(name: str) -> None:
    section = SECTIONS.get(name, "")
    question, everyday, points, *_ = section.strip().split("\n\n")
    assert re.match(r"\*\*[A-Z].+\?\*\*", question), question
    assert re.search(r"\d", everyday), "a picture with a number in it"
    labels = ["- *Raised when*", "- *Cost*", "*False alarm*", "*Miss*", "- *What to do*"]
    places = [points.find(label) for label in labels]
    assert -1 not in places, name
    assert places == sorted(places)
    assert 8 <= len([line for line in section.splitlines() if line]) <= 18


@pytest.mark.parametrize("name", CHECKS)
def test_a_section_names_its_threshold(name: str) -> None:
    check = CHECKS[name]
    raised = flat(SECTIONS.get(name, "")).partition("*Raised when*")[2].partition("*Cost*")[0]
    assert raised
    if check.threshold:
        exact = f"{check.threshold:g}"
        points = f"{100 * check.threshold:g} points"
        assert any(word in raised for word in (percent(check.threshold), exact, points)), raised
    if "lower end" in check.raised_if:
        assert "lower end" in raised
    if check.bears == "note":
        assert "A note." in SECTIONS[name]


@pytest.mark.parametrize("name", MORE_NUMBERS)
def test_a_section_names_the_numbers_of_the_code(name: str) -> None:
    assert MORE_NUMBERS[name] in flat(SECTIONS[name])


def test_the_introduction_says_how_the_verdict_is_made() -> None:
    text = flat(INTRODUCTION)
    assert percent(OVERESTIMATE) in text
    for verdict, code in audit_run.EXIT_CODES.items():
        assert f"| {VERDICTS[verdict]} | {code} |" in text  # type: ignore[index]
    for doubt in DOUBTS:
        assert f"`{doubt}`" in text
    for finding in CORROBORATES:
        assert f"`{finding}`" in SECTIONS["pgd-overestimate"]
    assert "Popovic et al. (2022" in text
    assert "{}, {} or {} right images".format(*(effort.subset for effort in EFFORTS.values())) in text


@pytest.mark.parametrize("effort", EFFORTS.values(), ids=EFFORTS)
def test_how_many_images_must_fall(effort: object) -> None:
    n = effort.images  # type: ignore[attr-defined]
    least = next(count for count in range(n) if Proportion(count, n).interval[0] > OVERESTIMATE)
    assert f"| {n} | {least} | {100 * least / n:.1f} % |" in INTRODUCTION


def test_the_contents_lead_to_every_section() -> None:
    assert re.findall(r"\]\(#([\w-]+)\)", INTRODUCTION) == list(dict.fromkeys(re.findall(r"\[([\w-]+)\]\(#\1\)", PAGE)))
    assert sorted(re.findall(r"\]\(#([\w-]+)\)", PAGE)) == sorted(CHECKS)
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / link).is_file(), link


def test_commands_have_the_options_that_are_written() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    written = re.findall(r"`(sonet [a-z]+ [^`]+)`", PAGE) + re.findall(
        r"^    (sonet [a-z]+ .+?)(?:  +#.*)?$", PAGE, re.M
    )
    assert len(written) > len(CHECKS)
    for line in written:
        words = line.split()
        command: click.Command = commands[words[1]]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line
