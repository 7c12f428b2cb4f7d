"""`sonet selftest`: what it prints, and its exit code when an attack fails a proof."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cli_runner import Runner

from sonet.attacks import FAB, FGSM
from sonet.audit.proof import Proof
from sonet.audit.selftest import cases


def test_attacks_that_do_what_they_owe(run: Runner) -> None:
    told = run("selftest", "--quick", "--attack", "fgsm", "--attack", "fab")
    assert told.code == 0, told.out + told.err
    owed = {"fgsm": cases(FGSM(), quick=True), "fab": cases(FAB(), quick=True)}
    count = sum(map(len, owed.values()))
    assert f"{count} of {count} proofs hold." in told.out
    assert "FAIL" not in told.out
    assert "fgsm" in told.out.splitlines()[1]
    assert "fab" in told.out.splitlines()[1]
    for case in owed["fab"]:
        (line,) = (line for line in told.out.splitlines() if line.strip().startswith(case))
        assert line.count("pass") == 1 + (case in owed["fgsm"])
    assert max(map(len, told.out.splitlines())) <= 100
    asked = run("selftest", "--quick", "--attack", "fgsm", "--attack", "fab", "--seed", 1, "--json")
    assert asked.code == 0
    answer = json.loads(asked.out)
    assert (answer["holds"], answer["quick"], answer["seed"], answer["skipped"]) == (True, True, 1, [])
    assert [(proof["attack"], proof["case"]) for proof in answer["proofs"]] == [
        (name, case) for name, some in owed.items() for case in some
    ]
    assert all(proof["passed"] and proof["expected"] and proof["measured"] for proof in answer["proofs"])


def test_an_attack_that_fails_is_named_and_is_exit_code_1(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def proofs(attacks: Any, **settings: Any) -> list[Proof]:
        asked.append({"attacks": list(attacks), **settings})
        return [
            Proof("fgsm", "one NaN sample", "4/4", "4/4", True, ""),
            Proof("fgsm", "box and budget", "1e-06", "0.5", False, "left the [ball]"),
        ]

    monkeypatch.setattr("sonet.audit.selftest.selftest", proofs)
    told = run("selftest", "--attack", "fgsm", "--seed", 7)
    assert told.code == 1
    assert "1 of 2 proofs hold; these do not:" in told.out
    assert "  fgsm, box and budget: expected 1e-06; got 0.5: left the [ball]." in told.out
    assert not told.err
    assert (asked[0]["attacks"], asked[0]["seed"], asked[0]["quick"]) == (["fgsm"], 7, False)
    answered = run("selftest", "--attack", "fgsm", "--json")
    assert (answered.code, json.loads(answered.out)["holds"]) == (1, False)
