"""The audit judged on networks of known answer: what is kept, what is gone on with, and how verdicts are counted."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

import sonet
from sonet.audit import calibration
from sonet.audit.calibration import CALIBRATION, CASES, Calibrated, Networks, calibrate, table
from sonet.blocks import ode_blocks
from sonet.data import Dataset
from sonet.solvers import Adaptive, Fixed

CHEAP = ["saturated logits", "two-layer network"]


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return sonet.load("digits")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> Path:
    out = tmp_path_factory.mktemp("calibration")
    calibrate(digits, [7], names=CHEAP, out=out)
    return out


def test_there_are_ten_that_mask_and_six_that_do_not() -> None:
    masks = [name for name, case in CASES.items() if case.masks]
    assert len(masks) >= 10
    assert len(CASES) - len(masks) >= 6


def test_verdicts_are_right_and_kept(folder: Path, digits: Dataset) -> None:
    kept = [Calibrated(**entry) for entry in json.loads((folder / CALIBRATION).read_text())]
    assert [each.case for each in kept] == CHEAP
    assert all(each.right and each.seed == 7 and each.n == 64 for each in kept)
    masked, honest = kept
    assert masked.plain - masked.worst > 0.5
    assert honest.plain - honest.worst < 0.06
    assert masked.worst == pytest.approx(honest.worst, abs=0.06)  # the same network under another scale


def test_a_call_that_was_killed_goes_on(folder: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    file = folder / CALIBRATION
    whole = file.read_text()
    file.write_text(json.dumps(json.loads(whole)[:1]))
    judged = []

    def judge(name: str, seed: int, *rest: Any) -> Calibrated:
        judged.append((name, seed))
        return replace(Calibrated(**json.loads(whole)[1]), case=name, seed=seed)

    monkeypatch.setattr(calibration, "_judge", judge)
    found = calibrate(digits, [7], names=CHEAP, out=folder)
    assert judged == [("two-layer network", 7)]
    assert [each.case for each in found] == CHEAP
    assert json.loads(file.read_text()) == [asdict(each) for each in found]


@pytest.mark.parametrize(
    ("masks", "verdict", "right"),
    [
        (True, "masked", True),
        (True, "inconclusive", False),
        (True, "no masking found", False),
        (False, "masked", False),
        (False, "inconclusive", False),
        (False, "no masking found", True),
    ],
)
def test_inconclusive_is_never_right(masks: bool, verdict: Any, right: bool) -> None:
    one = Calibrated("linear", 0, masks, verdict, 64, 1.0, 0.5, 0.5, 0.0, [], "", 1.0)
    assert one.right is right
    assert table([one]) == [("linear", "no masking found", [one])]


def test_the_sonets_on_both_sides_have_the_same_weights(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "fit", lambda *args, **settings: None)
    nets = Networks(digits, 3)
    own, fixed = nets.sonet_with(Adaptive(rtol=0.1, atol=0.1)), nets.sonet_with(Fixed(num_steps=4))
    for name, weight in nets.sonet.state_dict().items():
        assert own.state_dict()[name].equal(weight)
        assert fixed.state_dict()[name].equal(weight)
    solvers = [next(iter(ode_blocks(model).values())).solver for model in (nets.sonet, own, fixed)]
    assert solvers[0] == sonet.paper()
    assert solvers[1:] == [Adaptive(rtol=0.1, atol=0.1), Fixed(num_steps=4)]
