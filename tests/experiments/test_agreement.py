"""Whether PGD, the margin loss and SPSA agree on an adversarially trained network."""

from __future__ import annotations

from typing import Any

from sonet.experiments import verdict
from sonet.experiments.agreement import agreement
from sonet.report import Row
from sonet.types import Proportion

SPSA = {"attack": "spsa", "loss": "margin", "step_gradient": None, "attack_batch": 1}


def row(count: int, n: int = 100, **changes: Any) -> Row:
    setting = {
        "model": "resnet10",
        "objective": "trades-6",
        "seed": 0,
        "attack": "pgd",
        "eps": 0.1,
        "steps": 20,
        "loss": "ce",
        "step_gradient": None,
        "attack_batch": 100,
        "norm": "linf",
        "seconds": 1.0,
    }
    return Row.of(Proportion(count, n), **(setting | changes))


def rows(pgd: int, margin: int, spsa: int, spsa_n: int = 100, **changes: Any) -> list[Row]:
    return [row(pgd, **changes), row(margin, loss="margin", **changes), row(spsa, spsa_n, **(changes | SPSA))]


def test_three_points_are_within_and_four_are_not() -> None:
    for pgd, margin, spsa in ((80, 77, 79), (77, 80, 80), (29, 28, 26)):
        assert agreement(rows(pgd, margin, spsa)) == "PGD-20, the margin loss and SPSA agree within 3 points (n = 100)."
    assert "differ by 4 points, more than 3 (n = 100)" in agreement(rows(80, 76, 79))


def test_spsa_on_fewer_images_is_not_compared() -> None:
    text = agreement(rows(80, 78, 3, 30))
    assert text == (
        "PGD-20 and the margin loss agree within 3 points (n = 100); SPSA saw 30 of 100 images and is not compared."
    )


def test_an_ensemble_is_compared_where_the_table_has_one() -> None:
    worst = {"attack": "standard", "loss": None, "attack_batch": None}
    four = "PGD-20, the margin loss, SPSA and the ensemble standard"
    assert agreement([*rows(80, 78, 79), row(77, **worst)]) == f"{four} agree within 3 points (n = 100)."
    assert agreement([*rows(80, 78, 79), row(74, **worst)]) == f"{four} differ by 6 points, more than 3 (n = 100)."
    text = agreement([*rows(80, 78, 79), row(30, 50, **worst)])
    assert text.endswith("(n = 100); the ensemble standard saw 50 of 100 images and is not compared.")


def test_seeds_are_pooled() -> None:
    text = agreement([*rows(80, 77, 80), *rows(80, 80, 79, seed=1)])
    assert text.endswith("agree within 3 points (n = 200).")


def test_nothing_is_said_while_an_attack_is_missing() -> None:
    whole = rows(80, 77, 79)
    for missing in range(3):
        assert agreement([one for number, one in enumerate(whole) if number != missing]) == ""


def test_the_largest_radius_of_the_first_norm_counts() -> None:
    far = [*rows(80, 20, 79, eps=0.05), *rows(50, 50, 50), *rows(90, 10, 90, eps=0.5, norm="l2")]
    assert "agree" in agreement(far)


def test_the_verdict_says_it_of_adversarial_rows_alone() -> None:
    natural = [one.model_copy(update={"objective": "natural"}) for one in rows(20, 18, 19)]
    text = verdict([*natural, *rows(80, 78, 79)])
    assert text.startswith("No masking found in resnet10, resnet10 (trades-6).")
    assert text.count("agree within 3 points") == 1
    assert "resnet10 (trades-6): no masking found" in text


def test_objectives_are_judged_apart() -> None:
    masked = [one.model_copy(update={"objective": "natural"}) for one in rows(80, 5, 4)]
    text = verdict([*masked, *rows(80, 78, 79)])
    assert "masked in resnet10; no masking found in resnet10 (trades-6)" in text


def test_rows_with_one_thing_changed_decide_nothing() -> None:
    """A larger radius that is there to show what it does must not become the radius that is judged."""
    plain = rows(80, 78, 79)
    switched = [row(2, eps=0.2, changed="another radius"), row(1, changed="random start", random_start=True)]
    assert verdict([*plain, *switched]) == verdict(plain)
