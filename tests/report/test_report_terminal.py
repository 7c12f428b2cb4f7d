"""The terminal: the verdict first, everything within 100 columns, nothing but text through a pipe."""

from __future__ import annotations

import io

import pytest
from report_fixture import VERDICT, synthetic_record
from rich.console import Console

from sonet.report import Record, show, tables


def _shown(record: Record, **options: object) -> str:
    file = io.StringIO()
    show(record, Console(file=file, width=100, **options))  # type: ignore[arg-type]
    return file.getvalue()


def test_the_verdict_comes_first_and_every_number_is_there() -> None:
    text = _shown(synthetic_record())
    assert " ".join(text.split()).startswith(VERDICT)
    for expected in ("0.64 [0.57, 0.70]", "seeds 0.62-0.66", "reported 0.67", "no attack", "differentiated, batch 100"):
        assert expected in text
    assert "…" not in text  # nothing was cut
    assert max(map(len, text.splitlines())) <= 100
    assert "\x1b" not in text


def test_a_terminal_gets_colours() -> None:
    assert "\x1b[" in _shown(synthetic_record(seeds=1), force_terminal=True, color_system="standard")


def test_a_pipe_gets_text(capsys: pytest.CaptureFixture[str]) -> None:
    show(synthetic_record(seeds=1))
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "0.66 [0.56, 0.75]" in text
    assert "seeds" not in text.split("no attack")[1]


def test_more_than_three_radii_go_to_further_tables() -> None:
    record = synthetic_record(seeds=1)
    more = [row.model_copy(update={"eps": 8 * row.eps}) for row in record.rows if row.attack != "none"]
    wide = record.model_copy(update={"rows": record.rows + more})
    assert len(tables(record)) == 3
    assert len(tables(wide)) == 6
    assert max(map(len, _shown(wide).splitlines())) <= 100


def test_an_incomplete_run_says_so() -> None:
    assert "not complete" in _shown(synthetic_record(seeds=1, complete=False))
    assert "not complete" not in _shown(synthetic_record(seeds=1))


def test_text_of_a_record_is_never_markup_or_control() -> None:
    record = synthetic_record(seeds=1).model_copy(update={"verdict": "[bold]x[/nope] \x1b[31mred"})
    assert "[bold]x[/nope] [31mred" in _shown(record)


def test_a_terminal_without_unicode_survives() -> None:
    raw = io.BytesIO()
    record = synthetic_record().model_copy(update={"verdict": "ε ≤ ∞"})
    file = io.TextIOWrapper(raw, encoding="ascii")
    show(record, Console(file=file, width=100))
    file.flush()
    assert raw.getvalue().startswith(b"? ? ?")
    file.close()


def test_a_record_without_rows_has_a_verdict() -> None:
    assert _shown(synthetic_record(seeds=0)).strip().endswith("differs between the two.")
