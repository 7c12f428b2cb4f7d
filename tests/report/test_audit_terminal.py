"""An audit in the terminal: the verdict first, within 100 columns, text and nothing else through a pipe."""

from __future__ import annotations

import io
import shlex

import pytest
from audit_fixture import SUMMARY, minimal_audit, synthetic_audit
from rich.console import Console

from sonet.report import audit_plain, show_audit
from sonet.report.audit_words import NO_PROOF

FULL = synthetic_audit()


def test_the_verdict_comes_first_and_every_number_is_there() -> None:
    text = audit_plain(FULL)
    assert " ".join(text.split()).startswith(f"Masked. {SUMMARY}")
    for expected in (
        "0.02 [0.01, 0.07]",
        "0.64 [0.54, 0.73]",
        "0.99 [0.95, 1.00]",
        "62 [52, 71]  points",
        "1. Plain attacks leave far more than others: 0.62 [0.52, 0.71] of the images (plain-and-worst)",
        "carries the overestimate",
        "Findings: 4 raised, 3 not raised, 2 not measured",
        "Not run: substitute-transfer, query-attack",
        FULL.cause,
        FULL.next_command,
    ):
        assert expected in text
    assert [line.split()[-6:-4] for line in text.splitlines() if line.startswith("Square")] == [["none", "2"]]
    assert max(map(len, text.splitlines())) <= 100
    assert len(text.splitlines()) <= 50
    assert not {"…", "\x1b"} & set(text)
    assert "robust" not in text.lower()


def test_raised_findings_have_a_line_each_the_heaviest_first() -> None:
    lines = audit_plain(FULL).partition("Findings:")[2].splitlines()
    assert [line.split(":")[0].strip() for line in lines if line.startswith(("  decisive:", "  warning:"))] == [
        "decisive",
        "decisive",
        "warning",
        "warning",
    ]
    assert "same-answer" not in "".join(lines)


def test_passing_is_said_to_be_no_proof() -> None:
    told = {verdict: " ".join(audit_plain(minimal_audit(verdict=verdict)).split()) for verdict in WORDS}
    assert [word for word in told if NO_PROOF in told[word]] == ["no masking found"]
    own_words = minimal_audit(verdict="no masking found", summary="No proof (Popovic et al. 2022).")
    assert audit_plain(own_words).count("Popovic") == 1
    assert {verdict: text.split(".")[0] for verdict, text in told.items()} == WORDS


WORDS = {"masked": "Masked", "no masking found": "No masking found", "inconclusive": "Inconclusive"}


def test_an_audit_without_anything_optional_is_short() -> None:
    text = audit_plain(minimal_audit())
    assert text.endswith("Next\n  sonet audit run --images 200\n")
    assert len(text.splitlines()) == 10


def test_a_long_command_is_still_one_command_for_a_shell() -> None:
    command = "sonet attack " + " ".join(f"--option-{i} value-{i}" for i in range(12))
    text = audit_plain(minimal_audit(next_command=command))
    assert max(map(len, text.splitlines())) <= 100
    assert shlex.split(text.partition("Next\n")[2].replace("\\\n", "")) == command.split()


def test_a_terminal_gets_colours_and_a_pipe_gets_text(capsys: pytest.CaptureFixture[str]) -> None:
    file = io.StringIO()
    show_audit(FULL, Console(file=file, width=100, force_terminal=True, color_system="standard"))
    assert "\x1b[" in file.getvalue()
    show_audit(FULL)
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert text.startswith("Masked.")


def test_text_of_a_record_is_never_markup_or_control() -> None:
    text = audit_plain(minimal_audit(summary="[bold]x[/nope] \x1b[31mred"))
    assert "[bold]x[/nope] [31mred" in text


def test_a_terminal_without_unicode_survives() -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    stages = [stage.model_copy(update={"name": "ε"}) for stage in FULL.stages]
    causes = [bar.model_copy(update={"setting": "→"}) for bar in FULL.causes]
    record = FULL.model_copy(update={"summary": "ε ≤ ∞", "cause": "é", "stages": stages, "causes": causes})
    show_audit(record, Console(file=file, width=100))
    file.flush()
    assert b"? ? ?" in raw.getvalue()
    file.close()
