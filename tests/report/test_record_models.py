"""The record: what it accepts, what it refuses, and that JSON gives back what went in."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from report_fixture import synthetic_record

from sonet.report import Environment, Leak, Record, Row, StepHistogram
from sonet.report.environment import commit
from sonet.types import Proportion

ROW = {
    "model": "sonet",
    "seed": 0,
    "attack": "pgd",
    "steps": 20,
    "eps": 0.1,
    "n": 10,
    "accuracy": 0.5,
    "low": 0.2,
    "high": 0.8,
    "seconds": 1.0,
}


EMPTY = {
    "title": "t",
    "verdict": "v",
    "command": "c",
    "data": {},
    "settings": {},
    "environment": Environment(versions={}, device="cpu", threads=1, platform="p", created="now"),
    "seconds": 1.0,
    "complete": True,
}


def test_json_gives_back_an_equal_record() -> None:
    record = synthetic_record()
    text = record.model_dump_json()
    again = Record.model_validate_json(text)
    assert again == record
    assert again.model_dump_json() == text


def test_the_schema_is_the_first_key_and_no_key_has_an_underscore_name() -> None:
    content = json.loads(synthetic_record().model_dump_json())
    assert next(iter(content.items())) == ("schema", "sonet.record/1")
    assert "schema_" not in content


@settings(max_examples=30, deadline=None)
@given(
    st.floats(allow_nan=False, allow_infinity=False, min_value=0),
    st.dictionaries(
        st.text(), st.recursive(st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.text(), st.lists)
    ),
    st.text(),
)
def test_any_float_any_text_and_any_settings_come_back_equal(eps: float, options: dict[str, object], note: str) -> None:
    row = Row.model_validate({**ROW, "eps": eps, "note": note})
    record = _record(rows=[row], settings=options)
    assert Record.model_validate_json(record.model_dump_json()) == record


def test_a_row_of_a_count_has_its_wilson_interval() -> None:
    row = Row.of(Proportion(62, 100), model="m", seed=0, attack="pgd", steps=20, eps=0.1, seconds=1.0)
    assert (row.accuracy, row.n) == (0.62, 100)
    assert (row.low, row.high) == pytest.approx((0.5221, 0.7090), abs=1e-4)
    assert row.right == Proportion(62, 100)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"low": 0.6}, "low <= accuracy <= high"),
        ({"high": 0.4}, "low <= accuracy <= high"),
        ({"accuracy": 1.1, "high": 1.2}, "less than or equal to 1"),
        ({"accuracy": float("nan")}, "finite"),
        ({"seconds": float("inf")}, "finite"),
        ({"n": 0}, "greater than or equal to 1"),
        ({"eps": -0.1}, "greater than or equal to 0"),
        ({"attack": "none"}, "steps = 0"),
        ({"attack_batch": 0}, "greater than or equal to 1"),
        ({"step_gradient": "exact"}, "'frozen', 'first' or 'differentiated'"),
        ({"norm": "l1"}, "'linf' or 'l2'"),
        ({"zero_gradients": 1.5}, "less than or equal to 1"),
        ({"acuracy": 0.5}, "Extra inputs"),
    ],
)
def test_a_row_refuses_what_cannot_be(change: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Row.model_validate({**ROW, **change})


def test_a_row_is_fixed() -> None:
    row = Row.model_validate(ROW)
    with pytest.raises(ValidationError, match="frozen"):
        row.accuracy = 0.9


def test_a_measurement_cannot_be_counted_twice() -> None:
    row = Row.model_validate(ROW)
    other_seed = row.model_copy(update={"seed": 1})
    assert len(_record(rows=[row, other_seed]).rows) == 2
    with pytest.raises(ValidationError, match="every measurement once"):
        _record(rows=[row, row.model_copy(update={"accuracy": 0.6, "note": "again"})])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"a": {"b": [1.0, float("nan")]}}, r"nan at a\.b\[1\]"),
        ({"a": Path("x")}, "PosixPath at a"),
        ({1: 2}, "text as keys"),
    ],
)
def test_settings_that_json_cannot_hold_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        _record(settings=settings)


@pytest.mark.parametrize("shares", [[], [0.5, 1.1], [-0.1], [float("nan")]])
def test_shares_lie_between_none_and_all(shares: list[float]) -> None:
    with pytest.raises(ValidationError):
        Leak(model="m", seed=0, attack_batch=1, step_gradient="frozen", shares=shares)


@pytest.mark.parametrize("accepted", [{}, {-1: 3}, {2: -3}])
def test_a_histogram_counts(accepted: dict[int, int]) -> None:
    with pytest.raises(ValidationError, match="non-negative"):
        StepHistogram(model="m", seed=0, block="b", accepted=accepted, mean_evaluations=3.0)


def test_the_environment_says_where_it_is() -> None:
    here = Environment.here()
    assert set(here.versions) == {"python", "torch", "numpy", "sonet"}
    assert here.device == "cpu"
    assert here.threads >= 1
    assert here.created.endswith("+00:00")
    assert Environment.model_validate_json(here.model_dump_json()) == here


def test_a_commit_is_said_only_for_a_tracked_folder_and_marked_when_changed(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "code.py").write_text("1")
    assert commit(package) is None  # no repository
    _git(tmp_path, "init", "-q")
    (tmp_path / "other").write_text("1")
    _git(tmp_path, "add", "other")
    _git(tmp_path, "commit", "-qm", "x")
    assert commit(package) is None  # inside somebody's repository, but not a part of it
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-qm", "y")
    clean = commit(package)
    assert clean is not None
    assert clean.isalnum()
    (tmp_path / "other").write_text("2")
    assert commit(package) == clean  # a change elsewhere is no change of the package
    (package / "code.py").write_text("2")
    assert commit(package) == f"{clean}+changes"


def _git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True)


def _record(**changes: object) -> Record:
    return Record.model_validate({**EMPTY, **changes})
