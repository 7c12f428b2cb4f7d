"""`sonet selftest --audit`: the table it prints, and its exit code when a verdict is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_runner import Runner

from sonet.audit.calibration import CALIBRATION, Calibrated
from sonet.cli.calibration import as_markdown


def test_a_network_that_masks_nothing_is_judged_right(run: Runner, tmp_path: Path) -> None:
    told = run("selftest", "--audit", "--case", "two-layer network", "--seed", 5, "--out", tmp_path / "kept")
    assert told.code == 0, told.out + told.err
    assert "1 of 1 verdicts are right." in told.out
    assert (tmp_path / "kept" / CALIBRATION).is_file()
    again = run("selftest", "--audit", "--case", "two-layer network", "--seed", 5, "--out", tmp_path / "kept", "--json")
    (entry,) = json.loads(again.out)
    assert (entry["verdict"], entry["right"], entry["seed"]) == ("no masking found", True, 5)


def test_a_wrong_verdict_is_named_and_is_exit_code_1(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Calibrated("linear", 2, False, "inconclusive", 64, 1.0, 0.5, 0.4, 0.1, [], "", 3.0)
    right = Calibrated("linear", 1, False, "no masking found", 64, 0.9, 0.5, 0.5, 0.0, [], "", 4.0)
    monkeypatch.setattr("sonet.audit.calibration.calibrate", lambda *args, **settings: [right, wrong])
    told = run("selftest", "--audit", "--seeds", 2)
    assert told.code == 1
    assert "1 of 2 verdicts are right: wrong linear (seed 2)." in told.out
    row = as_markdown([right, wrong]).splitlines()[-1]
    assert row == (
        "| linear | no masking found | 1 no masking found, 1 inconclusive | 0.90 - 1.00 | 0.50 | 0.40 - 0.50 | 4 |"
    )


def test_an_unknown_case_is_refused(run: Runner) -> None:
    told: Any = run("selftest", "--audit", "--case", "nobody")
    assert told.code == 2
    assert "nobody" in told.err
    assert "expected one of" in told.err
