"""A certificate in the terminal: what is proven first, within 100 columns, text and nothing else through a pipe."""

from __future__ import annotations

import io

import pytest
from certificate_fixture import SUMMARY, WHY, count, minimal_certificate, synthetic_certificate
from rich.console import Console

from sonet.report import BlockRow, CertificateRecord, CurvePoint, certificate_text, show_certificate

FULL = synthetic_certificate()


def told(record: CertificateRecord) -> str:
    file = io.StringIO()
    show_certificate(record, Console(file=file, width=100))
    return file.getvalue()


def test_what_is_proven_comes_first_and_every_number_is_there() -> None:
    text = told(FULL)
    words = " ".join(text.split())
    assert words.startswith(SUMMARY)
    for expected in (
        "Images of 40 that stay right, l2",
        "left by quick",
        "0.25 0.70 [0.55, 0.82] 0.90 [0.77, 0.96] 1 min 5 s",
        "0 0.95 [0.83, 0.99] -",
        "1 0.00 [0.00, 0.09] 0.62 [0.47, 0.76]",
        "stages.0.0 0.4004 -0.0343 0.9663 1 1 0.9712 0.9534",
        "stages.1.0 - - - - - 1.871 1.432",
        f"Not covered: stages.1.0, stages.1.1: {WHY}",
        "changes by at most 1.457 times the image (l2)",
        "0.00025 counted, 3.1e-06 between float32 and float64",
    ):
        assert expected in words, expected
    assert max(map(len, text.splitlines())) <= 100
    assert not {"…", "\x1b"} & set(text)
    assert "robust" not in text.lower()


def test_names_of_any_length_fit_the_width_and_are_whole() -> None:
    name = "stages." + ".".join(map(str, range(40)))
    block = FULL.blocks[0].model_copy(update={"name": name})
    text = told(synthetic_certificate(blocks=[block], model="m" * 300, attack="standard"))
    assert max(map(len, text.splitlines())) <= 100
    assert name in "".join(
        "".join(line.split()[:1]) for line in text.splitlines() if "stages" in line or line[:1].isdigit()
    )


def test_without_attacks_and_blocks_it_is_short() -> None:
    text = told(minimal_certificate())
    assert "left by" not in text
    assert "Not covered" not in text
    assert "0.50 [0.09, 0.91]" in text
    assert len(text.splitlines()) <= 16


def test_a_terminal_gets_colours_and_a_pipe_gets_text(capsys: pytest.CaptureFixture[str]) -> None:
    file = io.StringIO()
    show_certificate(FULL, Console(file=file, width=100, force_terminal=True, color_system="standard"))
    assert "\x1b[" in file.getvalue()
    show_certificate(FULL)
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert text.startswith("38 of 40")


EVIL = "[bold]x[/nope] \x1b[31mred"


def test_text_of_a_record_is_never_markup_or_control() -> None:
    block = BlockRow(name="first", kind=EVIL, measured=1.0, pairs=1.0, why=EVIL)
    text = told(minimal_certificate(summary=EVIL, model=EVIL, title=EVIL, blocks=[block]))
    assert "[bold]x[/nope] [31mred" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("field", ["attack", "block name"])
def test_the_tables_take_no_markup_or_control_either(field: str) -> None:
    block = BlockRow(name=EVIL if field == "block name" else "first", kind="", measured=1.0, pairs=1.0)
    curve = [CurvePoint(eps=0.1, certified=count(1, 2), attacked=count(1, 2))]
    attack = EVIL if field == "attack" else "quick"
    text = told(minimal_certificate(attack=attack, blocks=[block], curve=curve))
    assert "[bold]x[/nope]" in text.replace("\n", "")
    assert "\x1b" not in text


def test_a_terminal_without_unicode_survives() -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    blocks = [block.model_copy(update={"why": "ε"}) for block in FULL.blocks]
    show_certificate(synthetic_certificate(summary="ε ≤ ∞", blocks=blocks), Console(file=file, width=100))
    file.flush()
    assert b"? ? ?" in raw.getvalue()
    file.close()


def test_the_text_is_for_any_console_of_rich() -> None:
    assert len(certificate_text(FULL).renderables) > 5
