"""The verdict's rules on rows with known answers."""

from __future__ import annotations

from typing import Any

import pytest

from sonet.experiments import verdict
from sonet.experiments.pooling import below, pool, say
from sonet.experiments.verdict import BOUND, UNFINISHED
from sonet.report import Leak, Row
from sonet.report.planned import Audited
from sonet.types import Proportion


def row(count: int, n: int = 100, **changes: Any) -> Row:
    setting = {
        "model": "sonet",
        "seed": 0,
        "attack": "pgd",
        "eps": 0.2,
        "steps": 20,
        "loss": "ce",
        "step_gradient": "differentiated",
        "attack_batch": 100,
        "norm": "linf",
        "seconds": 1.0,
    }
    return Row.of(Proportion(count, n), **(setting | changes))


def natural(model: str = "sonet") -> Row:
    return Row.of(Proportion(495, 500), model=model, seed=0, attack="none", eps=0.0, seconds=0.1)


SPSA = {"attack": "spsa", "loss": "margin", "step_gradient": None, "attack_batch": 1}


def sonet(alone: int, frozen: int, margin: int, spsa: int, start: int = 67, **changes: Any) -> list[Row]:
    return [
        row(start, **changes),
        row(start - 20, **changes, steps=200),
        row(alone, **changes, attack_batch=1),
        row(frozen, **changes, step_gradient="frozen"),
        row(1, **changes, step_gradient="frozen", attack_batch=1),
        row(margin, **changes, loss="margin"),
        row(spsa, 30, **changes, **SPSA),
    ]


def resnet(margin: int, spsa: int, start: int = 20) -> list[Row]:
    here = {"model": "resnet10", "step_gradient": None}
    return [row(start, **here), row(margin, **here, loss="margin"), row(spsa, 30, **(here | SPSA))]


def test_a_masked_network_is_said_to_be_masked_by_what_unmasks_it() -> None:
    text = verdict([natural(), *sonet(alone=5, frozen=1, margin=6, spsa=2)])
    assert "sonet: masked." in text
    assert "PGD-20 on cross-entropy" in text
    assert "100 images at a time through differentiated step sizes" in text
    assert "leaves 0.67 [0.57, 0.75] at linf 0.2" in text
    for carrier in (
        "0.05 attacked one at a time",
        "0.01 with the step sizes frozen in the gradient",
        "0.06 with the margin loss",
        "0.07 under SPSA",
    ):
        assert carrier in text
    assert "Each of these changes alone undoes it" in text
    assert "Not clearly different" not in text
    assert text.endswith(BOUND)


def test_what_did_not_unmask_it_is_not_named_a_carrier() -> None:
    text = verdict(sonet(alone=66, frozen=1, margin=60, spsa=1))
    carriers, unclear = text.split("Not clearly different:")
    assert "frozen" in carriers
    assert "attacked one at a time" not in carriers
    assert "0.66 attacked one at a time (n = 100)" in unclear
    assert "0.60 with the margin loss (n = 100)" in unclear
    assert "Each of these changes alone" not in text


def test_the_leak_is_told_where_it_was_measured() -> None:
    leaks = [
        Leak(model="sonet", seed=0, attack_batch=100, step_gradient="differentiated", shares=[0.01, 0.02, 0.5]),
        Leak(model="sonet", seed=0, attack_batch=10, step_gradient="differentiated", shares=[0.9]),
        Leak(model="other", seed=0, attack_batch=100, step_gradient="differentiated", shares=[0.7]),
    ]
    rows = sonet(alone=5, frozen=1, margin=6, spsa=2)
    assert "in the median 2% of an image's gradient was its own" in verdict(rows, leaks)
    assert "in the median" not in verdict(rows)


def test_a_clean_network_has_no_masking_found() -> None:
    text = verdict([natural(), *sonet(alone=64, frozen=66, margin=63, spsa=20)])
    assert "sonet: no masking found" in text
    assert "masked." not in text
    assert "0.64 attacked one at a time" in text
    clean = verdict([natural("resnet10"), *resnet(margin=18, spsa=12)])
    assert "resnet10: no masking found" in clean
    assert "step sizes" not in clean
    assert "one at a time" not in clean


def test_the_masked_come_first() -> None:
    text = verdict([*resnet(margin=18, spsa=12), *sonet(alone=5, frozen=1, margin=6, spsa=2)])
    assert text.index("sonet: masked") < text.index("resnet10: no masking found")


def test_the_largest_radius_counts() -> None:
    small = sonet(alone=5, frozen=1, margin=6, spsa=2, eps=0.1)
    large = sonet(alone=64, frozen=66, margin=63, spsa=20, eps=0.2)
    assert "no masking found" in verdict([*small, *large])
    assert "linf 0.2" in verdict([*large, *small])


def test_counts_are_pooled_over_seeds() -> None:
    rows = [
        *sonet(alone=5, frozen=1, margin=6, spsa=2),
        *sonet(alone=9, frozen=3, margin=0, spsa=1, start=61, seed=1),
    ]
    assert pool([rows[0], rows[7]]) == Proportion(128, 200)
    text = verdict(rows)
    assert f"leaves {say(Proportion(128, 200))}" in text
    assert "leaves 0.64 [0.57, 0.70]" in text
    assert "0.07 attacked one at a time" in text
    assert "0.05 under SPSA" in text


def test_intervals_decide() -> None:
    assert below(Proportion(20, 100), Proportion(60, 100))
    assert not below(Proportion(50, 100), Proportion(60, 100))
    assert not below(Proportion(60, 100), Proportion(20, 100))
    # The same shares of fewer images decide nothing.
    assert not below(Proportion(1, 5), Proportion(3, 5))


def test_nothing_is_concluded_from_nothing() -> None:
    assert verdict([]) == verdict([natural()]) == UNFINISHED


@pytest.mark.parametrize("kept", range(1, 7))
def test_from_incomplete_rows_nothing_false_is_concluded(kept: int) -> None:
    rows = sonet(alone=5, frozen=1, margin=6, spsa=2)
    for some in (rows[:kept], rows[-kept:]):
        text = verdict(some)
        if some[0] is not rows[0]:
            assert "not finished" in text
        assert "no masking found" not in text


def test_a_first_attack_alone_is_no_verdict() -> None:
    assert "sonet: its attacks are not finished." in verdict([row(67)])
    assert "no masking" not in verdict([row(67), row(50, steps=200)])


def test_it_never_promises() -> None:
    texts = [
        verdict(sonet(alone=a, frozen=f, margin=m, spsa=s), [])
        for a, f, m, s in [(5, 1, 6, 2), (66, 66, 66, 20), (66, 1, 60, 1), (67, 67, 0, 0)]
    ]
    assert all("robust" not in text.lower() for text in texts)
    assert all(BOUND in text for text in texts)


def audit(verdict: str, seed: int = 0, model: str = "sonet") -> Audited:
    return Audited.model_validate(
        {
            "model": model,
            "seed": seed,
            "threat": "linf:0.2",
            "verdict": verdict,
            "plain": 30,
            "worst": 21,
            "n": 64,
            "summary": "So it is.",
            "seconds": 1.0,
        }
    )


CLEAN = sonet(alone=66, frozen=60, margin=62, spsa=20)
MASKED = sonet(alone=5, frozen=1, margin=6, spsa=2)


def test_an_audit_that_sees_more_than_the_table_is_heard() -> None:
    text = verdict([*CLEAN, *resnet(18, 6)], audits=[audit("masked")])
    assert text.startswith("Accuracy under attack is masked in sonet; no masking found in resnet10.")
    assert "sonet: masked, its audit says: all its attacks together leave 21 of 64 images at linf:0.2." in text
    assert "By the table's own attacks no masking found: PGD-20" in text


def test_seeds_whose_audits_differ_are_counted() -> None:
    some = [audit("no masking found"), audit("masked", seed=1), audit("inconclusive", seed=2)]
    assert "sonet: masked, its audit says in 1 of 3 seeds:" in verdict(CLEAN, audits=some)


def test_an_audit_that_sees_less_does_not_take_the_masking_back() -> None:
    text = verdict(MASKED, audits=[audit("no masking found")])
    assert text.startswith("Accuracy under attack is masked in sonet.")
    assert "Its audit says no masking found." in text
    assert "Its audit says masked." in verdict(MASKED, audits=[audit("masked")])
    assert "Its audits say masked and no masking found." in verdict(
        MASKED, audits=[audit("masked"), audit("no masking found", seed=1)]
    )


def test_an_open_audit_is_told_beside_a_clean_table() -> None:
    text = verdict(CLEAN, audits=[audit("inconclusive")])
    assert text.startswith("Left open by its audit in sonet.")
    assert "Its audit is inconclusive." in text
    assert verdict(CLEAN, audits=[audit("no masking found")]) == verdict(CLEAN)


def test_an_audit_of_another_network_is_not_heard() -> None:
    assert verdict(CLEAN, audits=[audit("masked", model="resnet10")]) == verdict(CLEAN)
