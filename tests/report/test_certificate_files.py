"""Certificates on disk: what is read is what was written, what contradicts itself is refused, any record is found."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from audit_fixture import minimal_audit
from certificate_fixture import count, minimal_certificate, synthetic_certificate
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from report_fixture import synthetic_record
from typer.testing import CliRunner

from sonet.cli import app
from sonet.report import (
    CERTIFICATE,
    BoundRow,
    CertificateRecord,
    Certified,
    CurvePoint,
    RecordError,
    read_any,
    read_certificate,
    write,
    write_audit,
    write_certificate,
)


def test_reading_gives_the_certificate_that_was_written(tmp_path: Path) -> None:
    for record in (synthetic_certificate(), minimal_certificate()):
        path = write_certificate(record, tmp_path / "new" / "folder")
        assert path == tmp_path / "new" / "folder" / CERTIFICATE
        assert read_certificate(path) == read_certificate(path.parent) == read_any(path) == read_any(path.parent)
        assert read_certificate(path) == record
        assert [file.name for file in path.parent.iterdir()] == [CERTIFICATE]
        assert json.loads(path.read_text())["schema"] == "sonet.certificate/1"


LENGTH = st.floats(0, 1e300, allow_subnormal=False)


@settings(max_examples=30, deadline=None)
@given(
    radius=st.one_of(st.just(-1.0), LENGTH),
    further=LENGTH,
    fell=st.booleans(),
    texts=st.tuples(st.text(max_size=20), st.text(max_size=20)),
    gain=LENGTH,
)
def test_any_number_and_text_comes_back_as_it_was(
    radius: float, further: float, fell: bool, texts: tuple[str, str], gain: float
) -> None:
    image = Certified(index=3, label=2, radius=radius, fell_at=max(radius, further) if fell else None, fell_to=texts[0])
    layer = BoundRow(name=texts[0], kind=texts[1], gain=gain, error=further)
    record = minimal_certificate(images=[image], layers=[layer], settings={texts[0]: [texts[1], gain]}, title=texts[1])
    assert CertificateRecord.model_validate_json(record.model_dump_json()) == record


# What a certificate cannot say


def test_more_certified_than_left_by_attacks_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"certified <= attacked, got 31 and 30 of 40 at 0\.25.* disproves"):
        CurvePoint(eps=0.25, certified=count(31), attacked=count(30))
    assert CurvePoint(eps=0.25, certified=count(30), attacked=count(30)).attacked == count(30)


def test_an_image_that_fell_within_its_radius_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"image 7 is certified up to 0\.5 and fell at 0\.4999: .*wrong"):
        Certified(index=7, label=0, radius=0.5, fell_at=0.4999, fell_to="pgd")
    assert Certified(index=7, label=0, radius=0.5, fell_at=0.5).fell_at == 0.5
    assert Certified(index=7, label=0, radius=-1.0, fell_at=0.0).fell_at == 0.0


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"gap": -1.0}, "gap"),
        ({"error": math.nan}, "error"),
        ({"gap": math.inf}, "gap"),
        ({"norm": "l1"}, "norm"),
        ({"extra": 1}, "extra"),
        ({"seconds": -1}, "seconds"),
        ({"settings": {"radius": math.inf}}, "finite number, got inf at radius"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(change: dict[str, Any], word: str) -> None:
    with pytest.raises(ValidationError, match=word):
        minimal_certificate(**change)


GOOD = json.loads(minimal_certificate().model_dump_json())
BROKEN_CURVE = [{"eps": 0.1, "certified": count(2, 2).model_dump(), "attacked": count(1, 2).model_dump()}]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "0 bytes that do not parse"),
        (json.dumps(GOOD).encode()[:-20], "cut short"),
        (b"{}", 'expected schema "sonet.certificate/1", got null'),
        (json.dumps({**GOOD, "schema": "sonet.certificate/2"}).encode(), 'got "sonet.certificate/2"'),
        (json.dumps({**GOOD, "schema": "sonet.audit/1"}).encode(), 'got "sonet.audit/1"'),
        (json.dumps({**GOOD, "curve": BROKEN_CURVE}).encode(), r"curve\.0: .*certified <= attacked"),
        (json.dumps({**GOOD, "gap": "wide"}).encode(), "gap"),
    ],
)
def test_a_bad_file_says_what_is_wrong_and_what_to_do(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / CERTIFICATE
    path.write_bytes(content)
    with pytest.raises(RecordError, match=said) as caught:
        read_certificate(path)
    assert str(path) in str(caught.value)
    assert "run the certification again" in str(caught.value)


def test_a_missing_file_says_where_a_certificate_comes_from(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"certificate\.json: expected a record, .* run the certification first"):
        read_certificate(tmp_path)


# Whichever record


def test_a_certificate_is_read_by_its_schema_whatever_its_name(tmp_path: Path) -> None:
    path = write_certificate(minimal_certificate(), tmp_path / "a").rename(tmp_path / "of-may.json")
    assert isinstance(read_any(path), CertificateRecord)


def test_a_newer_or_damaged_certificate_is_still_called_one(tmp_path: Path) -> None:
    path = tmp_path / CERTIFICATE
    path.write_text(json.dumps({**GOOD, "schema": "sonet.certificate/2"}))
    with pytest.raises(RecordError, match=r'expected schema "sonet\.certificate/1"'):
        read_any(path)
    path.write_text("{")
    for given_as in (path, tmp_path):
        with pytest.raises(RecordError, match="run the certification again"):
            read_any(given_as)


@pytest.mark.parametrize("others", [["audit.json"], ["record.json"], ["record.json", "audit.json"]])
def test_a_folder_with_several_records_is_refused_and_names_them(tmp_path: Path, others: list[str]) -> None:
    write_certificate(minimal_certificate(), tmp_path)
    if "audit.json" in others:
        write_audit(minimal_audit(), tmp_path)
    if "record.json" in others:
        write(synthetic_record(seeds=0), tmp_path)
    with pytest.raises(RecordError, match=f"got {' and '.join([*others, CERTIFICATE])}.*a folder of its own"):
        read_any(tmp_path)
    assert isinstance(read_any(tmp_path / CERTIFICATE), CertificateRecord)


def test_the_command_writes_the_page_again(tmp_path: Path) -> None:
    record = minimal_certificate()
    path = write_certificate(record, tmp_path)
    for given_as in (tmp_path, path):
        done = CliRunner().invoke(app, ["report", str(given_as)])
        assert done.exit_code == 0, done.output
        assert done.output.startswith("1 of 2 test images are right")
        page = tmp_path / "report.html"
        assert "Certificate of a small network" in page.read_text()
        page.unlink()
    told = CliRunner().invoke(app, ["report", str(path), "--json"])
    assert CertificateRecord.model_validate_json(told.output) == record
