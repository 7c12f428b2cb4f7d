"""From findings made by hand to a verdict: every branch, and which evidence it names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from audit_stages import board, swap

from sonet.audit.overestimate import OVERESTIMATE, overestimate
from sonet.audit.subject import Subject
from sonet.audit.verdict import (
    CORROBORATES,
    DOUBTS,
    FEW_FLIPS,
    STANDING,
    TARGETED,
    UNHEARD,
    Judgement,
    judge,
    suspected,
)
from sonet.report.audit_record import Bar, Count, Finding
from sonet.types import Proportion

N = 40
CARRIERS = ["other-gradients", "other-loss", "gradient-free", "random-noise", "backbone-transfer"]


def finding(name: str, raised: bool | None, value: float | None = None) -> Finding:
    words: dict[str, Any] = {"title": "t", "raised_if": "r", "means": "m", "remedy": "y", "source": "s"}
    return Finding(
        name=name,
        family="attack",
        bears="warning",
        raised=raised,
        value=value,
        measured=f"Measured of {name}.",
        **words,
    )


def attacked(plain: int = 10, others: int = 0, targeted: int = 0, wrong: int = 0) -> Subject:
    """N images: the last `wrong` are wrong; of the first fall `plain` to PGD, `others` to Square, `targeted` so."""
    subject = board(N, range(N - wrong, N))
    swap(subject, "pgd", range(plain), plain=True)
    swap(subject, "square", range(plain, plain + others), gradient="none")
    swap(subject, TARGETED, range(plain + others, plain + others + targeted))
    return subject


def bars(*carry: bool | None, factor: str = "scope") -> list[Bar]:
    """The reference, and a factor for each answer."""
    left = Count.of(Proportion(1, 2))
    rest = [Bar(factor=factor, setting=f"{i}", left=left, carries=each) for i, each in enumerate(carry)]
    return [Bar(factor="reference", setting="PGD", left=left, reference=True), *rest]


def judged(
    subject: Subject,
    *more: Finding,
    over: bool | None = False,
    unfinished: bool = False,
    carry: Sequence[bool | None] = (True, False),
) -> Judgement:
    """The two findings that decide are there always."""
    findings = {each.name: each for each in (finding("pgd-overestimate", False), *more)}
    first = finding("overestimate", over, subject.stages.overestimate.value)
    return judge(subject, [first, *findings.values()], bars(*carry), "", unfinished)


def test_nothing_raised_is_no_masking_found_and_says_that_it_proves_nothing() -> None:
    got = judged(attacked(plain=30, others=1), *(finding(name, False) for name in (*DOUBTS, *CARRIERS)))
    assert got.verdict == "no masking found"
    assert got.decisive == ("overestimate", "gradient-free", "other-gradients")
    for words in ("leave 25.0% of 40", "at most 22.5%", "of 40 images at linf:0.25", "no proof"):
        assert words in got.summary


def test_evidence_that_was_not_asked_for_is_not_named() -> None:
    """A record refuses names of findings that it does not hold."""
    got = judged(attacked(plain=30), finding("gradient-free", False))
    assert got.verdict == "no masking found"
    assert got.decisive == ("overestimate", "gradient-free")


@pytest.mark.parametrize("unfinished", [False, True])
def test_what_plain_attacks_overestimate_is_masked_whatever_else_is_open(unfinished: bool) -> None:
    doubts = [finding(name, True, 1.0) for name in DOUBTS]
    got = judged(attacked(plain=10, others=20), *doubts, over=True, unfinished=unfinished)
    assert got.verdict == "masked"
    assert got.decisive[0] == "overestimate"
    for words in ("leave 75.0% of 40", "it is at most 25.0%"):
        assert words in got.summary


def test_the_evidence_of_a_mask_is_what_was_raised_the_largest_first() -> None:
    values = dict(zip(CARRIERS, (0.1, 0.3, 0.2, None, 0.4), strict=True))
    raised = {"other-gradients", "other-loss", "gradient-free"}
    more = [finding(name, name in raised, value) for name, value in values.items()]
    got = judged(attacked(others=20), *more, over=True)
    assert got.decisive == ("overestimate", "other-loss", "gradient-free")
    assert judged(attacked(others=20), *more[:1], over=True).decisive == ("overestimate", "other-gradients")
    assert judged(attacked(others=20), finding("other-loss", None), over=True).decisive == ("overestimate",)


def test_the_cause_is_told_with_the_mask_alone() -> None:
    masked, pgd = finding("overestimate", True, 0.5), finding("pgd-overestimate", False)
    got = judge(attacked(others=20), [masked, pgd], [], "It is the loss.", False)
    assert got.summary.endswith("It is the loss.")
    sound = judge(attacked(30), [finding("overestimate", False), pgd], [], "It is the loss.", False)
    assert "It is the loss" not in sound.summary


@pytest.mark.parametrize("name", CORROBORATES)
def test_pgd_alone_misled_is_masked_where_its_gradient_is_at_fault(name: str) -> None:
    pgd = finding("pgd-overestimate", True, 0.3)
    got = judged(attacked(plain=10), pgd, finding(name, True, 0.5))
    assert got.verdict == "masked"
    assert got.decisive == ("pgd-overestimate", name)
    assert f"Measured of {name}." in got.summary
    assert judged(attacked(plain=38), pgd, finding(name, False)).verdict == "no masking found"
    assert judged(attacked(plain=38), pgd, finding(name, None)).verdict == "no masking found"
    assert judged(attacked(plain=38), finding("pgd-overestimate", None), finding(name, True)).verdict != "masked"


def test_pgd_alone_misled_is_no_mask_where_no_factor_of_its_gradient_carries_it() -> None:
    pgd, leak = finding("pgd-overestimate", True, 0.3), finding("cross-sample-leak", True, 0.5)
    subject = attacked(plain=10)
    assert suspected(subject, [finding("overestimate", False), pgd, leak]) == ("cross-sample-leak",)
    got = judged(subject, pgd, leak, carry=(False, False))
    assert got.verdict == "no masking found"
    for words in (
        "Measured of pgd-overestimate.",
        "(cross-sample-leak), but it is not the",
        "weakness is PGD's",
    ):
        assert words in got.summary
    assert "weakness" not in judged(subject, pgd, carry=(False, False)).summary
    assert judged(subject, pgd, leak, carry=(False, True, None)).verdict == "masked"


@pytest.mark.parametrize("carry", [(), (None,), (False, None)], ids=str)
def test_it_is_open_where_the_factors_were_not_tried_or_the_images_too_few(carry: tuple[bool | None, ...]) -> None:
    pgd, leak = finding("pgd-overestimate", True, 0.3), finding("cross-sample-leak", True, 0.5)
    got = judged(attacked(plain=10), pgd, leak, carry=carry)
    assert got.verdict == "inconclusive"
    assert got.decisive == ("pgd-overestimate",)
    assert "whether its gradient is the reason (cross-sample-leak) is not decided" in got.summary
    assert judged(attacked(plain=10), finding("pgd-overestimate", True, 0.3), carry=carry).verdict == "no masking found"


@pytest.mark.parametrize("name", CORROBORATES)
def test_the_loss_is_a_factor_of_the_gradient_only_where_that_is_zero(name: str) -> None:
    over, pgd, fault = finding("overestimate", False), finding("pgd-overestimate", True, 0.3), finding(name, True, 0.5)
    both = [*bars(False), *bars(True, factor="loss")[1:]]
    got = judge(attacked(plain=38), [over, pgd, fault], both, "", False)
    assert got.verdict == ("masked" if name == "zero-gradients" else "no masking found")


def test_what_is_masked_by_all_attacks_is_not_left_to_the_factors() -> None:
    pgd, leak = finding("pgd-overestimate", True, 0.6), finding("cross-sample-leak", True, 1.0)
    subject = attacked(others=20)
    assert suspected(subject, [finding("overestimate", True), pgd, leak]) == ()
    assert judged(subject, pgd, leak, over=True, carry=(False,)).decisive[0] == "overestimate"


def test_what_is_wrong_with_the_gradient_alone_is_no_mask() -> None:
    """Nothing was found that PGD does not find."""
    got = judged(attacked(plain=38), *(finding(name, True, 1.0) for name in CORROBORATES))
    assert got.verdict == "no masking found"


def test_where_both_speak_the_stronger_is_told() -> None:
    pgd, zero = finding("pgd-overestimate", True, 0.6), finding("zero-gradients", True, 1.0)
    assert judged(attacked(others=20), pgd, zero, over=True).decisive[0] == "overestimate"


@pytest.mark.parametrize("name", DOUBTS)
def test_a_doubt_leaves_it_open_where_images_stand(name: str) -> None:
    got = judged(attacked(plain=10), finding(name, True, 0.5))
    assert got.verdict == "inconclusive"
    assert got.decisive == (name,)
    assert DOUBTS[name] in got.summary
    few = round(STANDING * N)
    assert judged(attacked(plain=N - few), finding(name, True, 0.5)).verdict == "no masking found"
    assert judged(attacked(plain=N - few - 1), finding(name, True, 0.5)).verdict == "inconclusive"
    for raised in (False, None):
        assert judged(attacked(plain=10), finding(name, raised, 0.5)).verdict == "no masking found"


@pytest.mark.parametrize("name", ["randomness", "batch-composition"])
def test_predictions_that_hardly_change_leave_no_doubt(name: str) -> None:
    for value, verdict in ((None, "no masking found"), (FEW_FLIPS, "no masking found"), (0.06, "inconclusive")):
        assert judged(attacked(), finding(name, True, value)).verdict == verdict


def test_at_most_three_findings_are_named() -> None:
    got = judged(attacked(), *(finding(name, True, 1.0) for name in DOUBTS))
    assert got.verdict == "inconclusive"
    assert got.decisive == tuple(DOUBTS)[:3]
    assert all(reason in got.summary for reason in DOUBTS.values())


def test_a_difference_too_small_for_the_images_there_are_is_open() -> None:
    """3 of 40 are 7.5 %, but of an interval from 2.6 %; 2 of 40 are the 5 % that nobody asks about."""
    three = attacked(others=3)
    assert overestimate(three).raised is False
    got = judged(three)
    assert (got.verdict, got.decisive) == ("inconclusive", ("overestimate",))
    assert "7.5% of the images more" in got.summary
    assert judged(attacked(others=2)).verdict == "no masking found"
    assert pytest.approx(2 / N) == OVERESTIMATE


def test_what_fell_to_a_target_alone_leaves_no_doubt() -> None:
    assert judged(attacked(targeted=4)).verdict == "no masking found"
    assert judged(attacked(targeted=4, others=2)).verdict == "no masking found"
    assert judged(attacked(targeted=4, others=3)).verdict == "inconclusive"


@pytest.mark.parametrize("name", UNHEARD)
def test_a_target_is_a_way_round_where_cross_entropy_did_not_reach_the_attack(name: str) -> None:
    pgd, heard = finding("pgd-overestimate", True, 0.5), finding(name, True, 1.0)
    got = judged(attacked(targeted=20), pgd, heard, over=True, carry=(False,))
    assert (got.verdict, got.decisive[0]) == ("masked", "overestimate")
    assert judged(attacked(targeted=20), pgd, finding(name, False), over=True).verdict == "no masking found"


@pytest.mark.parametrize("name", sorted({*CORROBORATES} - {*UNHEARD}))
@pytest.mark.parametrize(
    ("carry", "verdict"),
    [((True, False), "masked"), ((False, False), "no masking found"), ((None, False), "inconclusive")],
    ids=str,
)
def test_what_falls_to_a_target_beside_a_faulty_gradient_is_left_to_the_factors(
    name: str, carry: tuple[bool | None, ...], verdict: str
) -> None:
    """Both attacks follow that gradient, so the target alone does not say that the fault is the reason."""
    pgd, fault = finding("pgd-overestimate", True, 0.5), finding(name, True, 1.0)
    subject = attacked(plain=18, targeted=20)
    assert suspected(subject, [finding("overestimate", True), pgd, fault]) == (name,)
    got = judged(subject, pgd, fault, over=True, carry=carry)
    assert got.verdict == verdict
    assert ("20 images fell to the same gradient aimed" in got.summary) == (verdict == "no masking found")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"unfinished": True}, "not all attacks were made"),
        ({"over": None}, "could not be measured"),
    ],
)
def test_what_was_not_done_leaves_it_open(more: dict[str, Any], words: str) -> None:
    got = judged(attacked(plain=40), **more)
    assert (got.verdict, got.decisive) == ("inconclusive", ("overestimate",))
    assert words in got.summary


def test_without_a_right_image_nothing_is_said() -> None:
    got = judged(board(N, range(N)))
    assert got.verdict == "inconclusive"
    assert "no image right" in got.summary


def test_robust_is_no_verdict() -> None:
    subjects = (attacked(38), attacked(others=20), attacked())
    for subject, over in zip(subjects, (False, True, False), strict=True):
        got = judged(subject, finding("larger-radius", True), over=over)
        assert "robust" not in got.summary
        assert got.verdict in ("masked", "no masking found", "inconclusive")
